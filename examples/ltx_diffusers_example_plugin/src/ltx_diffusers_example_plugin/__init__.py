"""An example of a plugin for ltx-diffusers: a condition, a timestep density and an objective."""

from __future__ import annotations


def register() -> None:
    """Register everything; ltx-diffusers calls it through the entry point. Importing a module registers its part."""
    from . import huber, last_frame, timesteps  # noqa: F401
