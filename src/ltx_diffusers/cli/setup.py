"""What every command that uses models does first."""

from __future__ import annotations


def set_up() -> None:
    """Tell Diffusers about our classes, and load the installed plugins. Imports torch; again costs nothing."""
    from ..integration import register
    from ..plugins import load_plugins

    register()
    load_plugins()
