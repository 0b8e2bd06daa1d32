"""Every kind of condition and guidance by name, for tests that run over all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    AdaptiveProjectedMixGuidance,
    AutoGuidance,
    ClassifierFreeZeroStarGuidance,
    MagnitudeAwareGuidance,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    TangentialClassifierFreeGuidance,
)

from ltx_diffusers import ReferenceVideo, RegionOfVideo, VideoCondition
from ltx_diffusers.denoising.guidance import (
    ClassifierFreeGuidance,
    GuidanceByLevel,
    SpatioTemporalGuidance,
)
from ltx_diffusers.geometry import VideoSize

SIZE = VideoSize(25, 32, 64)
"""Frames, rows and columns of the videos: 4 x 1 x 2 latents."""


@functools.cache
def pictures(count: int, seed: int, height: int = SIZE.height, width: int = SIZE.width) -> np.ndarray:
    """Noise (count, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


def picture(seed: int, **changes: Any) -> VideoCondition:
    return VideoCondition(image=pictures(1, seed)[0], **changes)


def clip(count: int, seed: int, **changes: Any) -> VideoCondition:
    return VideoCondition(video=pictures(count, seed), **changes)


CONDITIONS: dict[str, Callable[[int], list]] = {
    "none": lambda seed: [],
    "first frame": lambda seed: [picture(seed)],
    "soft first frame": lambda seed: [picture(seed, strength=0.3 + 0.4 * (seed % 2))],
    "no strength": lambda seed: [picture(seed, strength=0.0)],
    "keyframe": lambda seed: [picture(seed, frame_index=5)],
    "soft keyframe": lambda seed: [picture(seed, frame_index=5, strength=0.6)],
    "first and last": lambda seed: [picture(seed), picture(seed + 1, frame_index=-1)],
    "two at one frame": lambda seed: [
        picture(seed, frame_index=9, strength=0.4),
        picture(seed + 1, frame_index=9, strength=0.4),
    ],
    "clip at the start": lambda seed: [clip(9, seed)],
    "clip at the end": lambda seed: [clip(17, seed, frame_index=-1, strength=0.8)],
    "soft prefix": lambda seed: [clip(17, seed, frame_index=8, prefix="soft")],
    "dropped prefix": lambda seed: [clip(17, seed, frame_index=8, prefix="drop")],
    "region": lambda seed: [
        RegionOfVideo(pictures(SIZE.frames, seed), np.arange(64) * np.ones((32, 1)) < 32 + 32 * (seed % 2))
    ],
    "reference": lambda seed: [ReferenceVideo(pictures(9, seed, 32, 32), scale=2.0)],
    "mixture": lambda seed: [
        picture(seed, strength=0.9),
        picture(seed + 1, frame_index=-1),
        ReferenceVideo(pictures(1, seed + 2), strength=0.7),
        RegionOfVideo(pictures(SIZE.frames, seed + 3), np.arange(64) * np.ones((32, 1)) < 32, strength=0.5),
    ],
}

GUIDANCES: dict[str, Callable[[], Any]] = {
    "off": lambda: ClassifierFreeGuidance(1.0),
    "rescaled star": lambda: ClassifierFreeGuidance(4.0, 0.7, star=True),
    "skip": lambda: SpatioTemporalGuidance(1.0, stg_blocks=(0,), stg_mode="attention-skip"),
    "block": lambda: SpatioTemporalGuidance(3.0, star=True, stg_blocks=(0,), stg_mode="transformer-block"),
    "by level": lambda: GuidanceByLevel(
        [1.0, 0.9], [MagnitudeAwareGuidance(4.0, 0.1), SpatioTemporalGuidance(2.0, stg_blocks=(1,))]
    ),
    "cfg-zero*": lambda: ClassifierFreeZeroStarGuidance(4.0),
    "apg": lambda: AdaptiveProjectedGuidance(
        4.0, adaptive_projected_guidance_momentum=-0.5, adaptive_projected_guidance_rescale=2.0
    ),
    "apg mix": lambda: AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=1),
    "tcfg": lambda: TangentialClassifierFreeGuidance(4.0),
    "slg": lambda: SkipLayerGuidance(3.0, 1.5, 0.0, 1.0, [1]),
    "pag": lambda: PerturbedAttentionGuidance(1.0, 1.5, 0.0, 1.0, [1]),
    "auto": lambda: AutoGuidance(3.0, [1], dropout=1.0),
}
