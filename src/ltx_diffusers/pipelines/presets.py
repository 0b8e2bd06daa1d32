"""Settings that the released models are meant to be run with, as data.

Source: `configs/*.yaml` of the official repository. Those files write 1 for "no rescale"; here 0 is off, as everywhere
in this library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..denoising.guidance import ClassifierFreeGuidance, Guidance, GuidanceByLevel, SpatioTemporalGuidance
from ..errors import UnknownNameError
from .preset_choice import preset_name_of


@dataclass(frozen=True)
class PassPreset:
    """Settings of one pass through the noise levels.

    Attributes:
        guidance: For all noise levels, or by level.
        num_inference_steps: Steps of the model's schedule; None if `sigmas` lists the levels.
        sigmas: Explicit noise levels.
        skip_initial_inference_steps: Steps left out at the start.
        skip_final_inference_steps: Steps left out at the end.
        tone_map_compression: See `functional.latent_statistics.tone_map`.
    """

    guidance: Guidance | GuidanceByLevel
    num_inference_steps: int | None = None
    sigmas: tuple[float, ...] | None = None
    skip_initial_inference_steps: int = 0
    skip_final_inference_steps: int = 0
    tone_map_compression: float = 0.0

    def arguments(self) -> dict[str, Any]:
        """The same as arguments of `LTXConditionPipeline`."""
        return {
            "guidance": self.guidance,
            "num_inference_steps": self.num_inference_steps,
            "sigmas": None if self.sigmas is None else list(self.sigmas),
            "skip_initial_inference_steps": self.skip_initial_inference_steps,
            "skip_final_inference_steps": self.skip_final_inference_steps,
            "tone_map_compression": self.tone_map_compression,
        }


STEPS = (
    "num_inference_steps",
    "sigmas",
    "timesteps",
    "skip_initial_inference_steps",
    "skip_final_inference_steps",
)
"""Arguments that say which steps are run."""

_GUIDANCE = ("guidance", "guidance_scale", "guidance_rescale")


def unsaid(preset: PassPreset, call: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's settings, as arguments, where a call says nothing: of guidance, of steps, of tone mapping.

    Args:
        preset: The preset of a pass.
        call: Arguments; None, and 0 where that is the default, say nothing.
    """

    def says(name: str) -> bool:
        value = call.get(name)
        is_default = value is None or (isinstance(value, (int, float)) and value == 0)
        return not is_default or (name == "guidance_scale" and value is not None)

    settings = preset.arguments()
    for names in (_GUIDANCE, STEPS, ("tone_map_compression",)):
        if any(map(says, names)):
            settings = {name: value for name, value in settings.items() if name not in names}
    return settings


@dataclass(frozen=True)
class Preset:
    """Settings of a model.

    Attributes:
        name: Its name, a key of `PRESETS`.
        single: For a video made in one pass.
        first: For the first of two passes, at lower resolution; None if the model isn't meant for two.
        second: For the second pass, on upsampled latents.
    """

    name: str
    single: PassPreset
    first: PassPreset | None = None
    second: PassPreset | None = None


_UNGUIDED = ClassifierFreeGuidance(1.0)

# Columns: noise level, CFG, STG, rescale, perturbed blocks.
_13B_LEVELS = (
    (1.0, 1, 0, 0.0, ()),
    (0.996, 1, 0, 0.0, (11, 25, 35, 39)),
    (0.9933, 6, 4, 0.5, (22, 35, 39)),
    (0.985, 8, 4, 0.5, (28,)),
    (0.9767, 6, 4, 0.0, (28,)),
    (0.9008, 1, 2, 0.0, (28,)),
    (0.618, 1, 1, 0.0, (28,)),
)
_13B_GUIDANCE = GuidanceByLevel(
    [row[0] for row in _13B_LEVELS],
    [
        SpatioTemporalGuidance(cfg, rescale, star=True, stg_scale=stg, stg_blocks=blocks)
        for _, cfg, stg, rescale, blocks in _13B_LEVELS
    ],
)
_DISTILLED_LEVELS = (1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725)
_DISTILLED_SECOND = (0.9094, 0.725, 0.4219)


def _distilled(name: str, tone_map_compression: float) -> Preset:
    return Preset(
        name,
        single=PassPreset(_UNGUIDED, num_inference_steps=8),
        first=PassPreset(_UNGUIDED, sigmas=_DISTILLED_LEVELS),
        second=PassPreset(_UNGUIDED, sigmas=_DISTILLED_SECOND, tone_map_compression=tone_map_compression),
    )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            # 0.9.0, 0.9.1, 0.9.5 and 0.9.6-dev.
            Preset(
                "2b-dev",
                PassPreset(SpatioTemporalGuidance(3.0, 0.7, stg_scale=1.0, stg_blocks=(19,)), 40),
            ),
            # 0.9.6; its stochastic sampling is a setting of the scheduler.
            Preset("2b-distilled-0.9.6", PassPreset(_UNGUIDED, 8)),
            _distilled("2b-distilled-0.9.8", 0.0),
            # 0.9.7 and 0.9.8.
            Preset(
                "13b-dev",
                single=PassPreset(_13B_GUIDANCE, 30),
                first=PassPreset(_13B_GUIDANCE, 30, skip_final_inference_steps=3),
                second=PassPreset(
                    SpatioTemporalGuidance(1.0, 0.0, star=True, stg_scale=1.0, stg_blocks=(27,)),
                    30,
                    skip_initial_inference_steps=17,
                ),
            ),
            _distilled("13b-distilled", 0.6),
        )
    }
)
"""All presets, by name."""


def get_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in PRESETS:
        raise UnknownNameError("unknown preset", got=repr(name), expected=f"one of {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_of(transformer: Mapping[str, Any], scheduler: Mapping[str, Any]) -> Preset | None:
    """The preset of a loaded model, None if it is none of the released ones.

    Args:
        transformer: Config; the size tells the family.
        scheduler: Config; a distilled model lists its allowed steps, the one of 0.9.6 adds noise in each step.
    """
    name = preset_name_of(transformer, scheduler)
    return None if name is None else PRESETS[name]
