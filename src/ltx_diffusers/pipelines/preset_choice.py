"""Which preset belongs to a model, from its configs alone. No torch is imported here: `info` answers with this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESET_NAMES = ("2b-dev", "2b-distilled-0.9.6", "2b-distilled-0.9.8", "13b-dev", "13b-distilled")
"""Names of all presets; their settings are in `pipelines.presets`."""

# Transformer blocks of the released sizes.
_SIZES = {28: "2b", 48: "13b"}


def preset_name_of(transformer: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str | None:
    """The name of the preset that a model is run with, None if it is none of the released ones.

    Args:
        transformer: Config; the size tells the family.
        scheduler: Config; a distilled model lists its allowed steps, the one of 0.9.6 adds noise in each step.
    """
    size = _SIZES.get(transformer.get("num_layers"))
    if size is None:
        return None
    if not scheduler.get("allowed_inference_steps"):
        return f"{size}-dev"
    if size == "13b":
        return "13b-distilled"
    return "2b-distilled-0.9.6" if scheduler.get("stochastic_sampling") else "2b-distilled-0.9.8"


def fitting_presets(transformer: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the presets made for a transformer of this size, from its config; none for other sizes."""
    size = _SIZES.get(transformer.get("num_layers"))
    return tuple(name for name in PRESET_NAMES if size is not None and name.startswith(f"{size}-"))
