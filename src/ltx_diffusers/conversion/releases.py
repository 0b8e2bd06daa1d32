"""The released checkpoints and the settings that their tensors don't tell, as data.

Sources: the configs in the files' metadata, and `configs/*.yaml` of the official repository for steps, guidance and
stochastic sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_SHIFTED = MappingProxyType(
    {
        "schedule": "uniform",
        "shifting": "sd3",
        "base_image_seq_len": 1024,
        "max_image_seq_len": 4096,
        "base_shift": 0.95,
        "max_shift": 2.05,
        "shift_terminal": 0.1,
    }
)
_LINEAR_QUADRATIC = MappingProxyType({"schedule": "linear-quadratic"})

DISTILLED_STEPS = (1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725, 0.4219)
"""Noise levels of the distilled models, with the four digits of the files' metadata: linear-quadratic for 8 steps."""


@dataclass(frozen=True)
class Release:
    """One released checkpoint.

    Attributes:
        name: Its name here, a key of `RELEASES`.
        size: Transformer "2b" or "13b"; None if there is none.
        vae: Kind of its VAE, a key of `renames.VAE_LAYOUTS`; None if there is none.
        causal: Whether time coordinates are causal.
        schedule: Fields of `LTXFlowMatchScheduler` that its sampler needs.
        allowed_inference_steps: Noise levels that it was distilled for; None if any.
        stochastic_sampling: Whether each step adds fresh noise.
        distilled: Whether it is made for few steps without guidance.
        num_inference_steps: Steps that the official configs use.
        guidance_scale: Guidance of the official configs; None where it changes with the noise level.
        upsampler: Part that an upsampler's file holds; None for the others.
    """

    name: str
    size: str | None = None
    vae: str | None = None
    causal: bool = False
    schedule: Mapping[str, Any] = field(default_factory=dict)
    allowed_inference_steps: tuple[float, ...] | None = None
    stochastic_sampling: bool = False
    distilled: bool = False
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    upsampler: str | None = None

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """Arguments of `LTXFlowMatchScheduler` for this release; {} for an upsampler."""
        if self.upsampler is not None:
            return {}
        allowed = self.allowed_inference_steps
        return {
            **self.schedule,
            "stochastic_sampling": self.stochastic_sampling,
            "allowed_inference_steps": None if allowed is None else list(allowed),
            "default_num_inference_steps": self.num_inference_steps,
            "default_guidance_scale": self.guidance_scale,
        }


def _dev(name: str, size: str, vae: str, steps: int, guidance: float | None) -> Release:
    old = vae != "0.9.5"
    return Release(
        name,
        size,
        vae,
        causal=not old,
        schedule=_SHIFTED if old else _LINEAR_QUADRATIC,
        num_inference_steps=steps,
        guidance_scale=guidance,
    )


def _distilled(name: str, size: str, stochastic: bool = False) -> Release:
    return Release(
        name,
        size,
        "0.9.5",
        causal=True,
        schedule=_LINEAR_QUADRATIC,
        allowed_inference_steps=DISTILLED_STEPS,
        stochastic_sampling=stochastic,
        distilled=True,
        num_inference_steps=8,
        guidance_scale=1.0,
    )


RELEASES: Mapping[str, Release] = MappingProxyType(
    {
        release.name: release
        for release in (
            _dev("0.9.0", "2b", "0.9.0", 40, 3.0),
            _dev("0.9.1", "2b", "0.9.1", 40, 3.0),
            _dev("0.9.5", "2b", "0.9.5", 40, 3.0),
            _dev("0.9.6-dev", "2b", "0.9.5", 40, 3.0),
            _distilled("0.9.6-distilled", "2b", stochastic=True),
            # Guidance of the 13B dev models changes with the noise level, between 1 and 8.
            _dev("0.9.7-dev", "13b", "0.9.5", 30, None),
            _distilled("0.9.7-distilled", "13b"),
            _dev("0.9.8-13b-dev", "13b", "0.9.5", 30, None),
            _distilled("0.9.8-13b-distilled", "13b"),
            _distilled("0.9.8-2b-distilled", "2b"),
            Release("0.9.7-spatial-upsampler", upsampler="spatial_upsampler"),
            Release("0.9.7-temporal-upsampler", upsampler="temporal_upsampler"),
            Release("0.9.8-spatial-upsampler", upsampler="spatial_upsampler"),
        )
    }
)
"""All releases, by name."""
