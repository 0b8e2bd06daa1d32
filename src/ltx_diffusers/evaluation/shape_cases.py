"""Held-out clips of moving-shapes that a pipeline is asked for, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..data.moving_shapes import MOTIONS, ClipSpec, caption, sample_spec
from ..geometry import VideoSize
from .judge import Reading
from .metrics import psnr

_PSNR_LIMIT = 100.0  # dB; an exact frame counts as this instead of infinity


@dataclass(frozen=True)
class ShapeCase:
    """One held-out clip to be generated.

    Attributes:
        index: Its number in the evaluation.
        spec: What the clip shows.
        prompt: A random wording of it.
        seed: Seed of the noise it is generated from.
    """

    index: int
    spec: ClipSpec
    prompt: str
    seed: int

    def generator(self) -> torch.Generator:
        """A new source of this case's noise, on the CPU so that every device draws the same."""
        return torch.Generator("cpu").manual_seed(self.seed)


@dataclass(frozen=True)
class JudgedClip:
    """A clip that was made and measured.

    Attributes:
        part: One of `PARTS`.
        case: What was asked for.
        frames: uint8 (F, H, W, 3).
        reading: What the judge saw; None for the part "vae", which isn't judged.
        right: Truth of each property that counts in this part.
        figures: Measured numbers, like PSNR in dB.
    """

    part: str
    case: ShapeCase
    frames: np.ndarray
    reading: Reading | None = None
    right: dict[str, bool] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


def draw_cases(count: int, seed: int = 0, motions: tuple[str, ...] = MOTIONS) -> list[ShapeCase]:
    """Held-out clips with prompts in random wordings; the same for the same seed, and a longer list starts with
    the shorter one.

    Raises:
        InputError: If there is no such motion.
    """
    cases = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        spec = sample_spec(rng, "held-out", motions=motions)
        cases.append(ShapeCase(index, spec, caption(spec, rng), int(rng.integers(2**31))))
    return cases


def generate_cases(
    pipeline: Any, batch: Sequence[ShapeCase], size: VideoSize, output_type: str = "np", **inputs: Any
) -> Any:
    """Call a pipeline for a batch of cases: float frames (B, F, H, W, 3), or what `output_type` says."""
    return pipeline(
        prompt=[case.prompt for case in batch],
        num_frames=size.frames,
        height=size.height,
        width=size.width,
        generator=[case.generator() for case in batch],
        output_type=output_type,
        **inputs,
    ).frames


def mean_psnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean over the frames, values that aren't finite taken as black."""
    return float(np.mean(np.minimum(psnr(reference, np.nan_to_num(other)), _PSNR_LIMIT)))


def to_bytes(frames: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] as uint8."""
    return (np.nan_to_num(frames).clip(0, 1) * 255).round().astype(np.uint8)
