"""Which preset belongs to a model, from its configs alone. No torch is imported here: `info` answers with this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..conversion.releases import DISTILLED_STEPS

PRESET_NAMES = ("2b-dev", "2b-distilled-0.9.6", "2b-distilled-0.9.8", "13b-dev", "13b-distilled")
"""Names of all presets; their settings are in `pipelines.presets`."""

# Transformer blocks of the released sizes.
_SIZES = {28: "2b", 48: "13b"}

# Files write noise levels with 4 digits.
_TOLERANCE = 1e-4


def preset_name_of(transformer: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str | None:
    """The name of the preset that a model is run with, None if it is none of the released ones.

    A model that was distilled for other noise levels than the released ones has no preset.

    Args:
        transformer: Config; the size tells the family.
        scheduler: Config; a distilled model lists its allowed steps, the one of 0.9.6 adds noise in each step.
    """
    size = _SIZES.get(transformer.get("num_layers"))
    if size is None:
        return None
    allowed = scheduler.get("allowed_inference_steps")
    if not allowed:
        return f"{size}-dev"
    if any(min(abs(level - known) for known in allowed) > _TOLERANCE for level in DISTILLED_STEPS):
        return None
    if size == "13b":
        return "13b-distilled"
    return "2b-distilled-0.9.6" if scheduler.get("stochastic_sampling") else "2b-distilled-0.9.8"


def fitting_presets(transformer: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the presets made for a transformer of this size, from its config; none for other sizes."""
    size = _SIZES.get(transformer.get("num_layers"))
    return tuple(name for name in PRESET_NAMES if size is not None and name.startswith(f"{size}-"))
