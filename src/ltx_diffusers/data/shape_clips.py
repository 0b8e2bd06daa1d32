"""moving-shapes as training data: clip number i of a seed is always the same clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from . import data_readers
from .clips import Clip
from .moving_shapes import SHAPES, ClipSpec, Split, caption, moment, render, sample_spec


@dataclass(frozen=True, kw_only=True)
class ShapeClip(Clip):
    """A captioned clip of moving-shapes.

    Attributes:
        spec: What it was drawn from.
    """

    spec: ClipSpec


@data_readers.register("moving-shapes")
@dataclass(frozen=True)
class ShapeClips:
    """The endless set of moving-shapes clips, read by number.

    Args:
        num_frames: Frames of a clip. A clip of one frame shows a random moment of a longer one.
        height, width: Size in pixels.
        split: "train" or "held-out".
        seed: Another seed is another set.
        shape_weights: Shapes that are drawn more or less often than the others; see `moving_shapes.sample_spec`.

    Raises:
        InputError: If there is no such shape, or a weight isn't positive.
    """

    num_frames: int = 17
    height: int = 96
    width: int = 96
    split: Split = "train"
    seed: int = 0
    shape_weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for shape, weight in (self.shape_weights or {}).items():
            if shape not in SHAPES or not 0 < weight < float("inf"):
                raise InputError(
                    "shape_weights gives positive numbers to shapes",
                    got=f"{shape}: {weight}",
                    expected=f"some of {', '.join(SHAPES)}",
                )

    def __getitem__(self, index: int) -> ShapeClip:
        rng = np.random.default_rng([self.seed, index])
        spec = sample_spec(rng, self.split, self.shape_weights)
        if self.num_frames == 1:
            spec = moment(spec, float(rng.random()))
        frames = render(spec, self.num_frames, self.height, self.width)
        return ShapeClip(frames=frames, caption=caption(spec, rng), name=self.name(index), spec=spec)

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """Another wording for a clip, without drawing it."""
        own = np.random.default_rng([self.seed, index])
        return caption(sample_spec(own, self.split, self.shape_weights), rng)

    def name(self, index: int) -> str:
        """Words that identify a clip."""
        return f"clip {index} of moving-shapes"

    def with_size(
        self, num_frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> ShapeClips:
        """The same set in another size; None keeps what it is."""
        return replace(
            self,
            num_frames=num_frames or self.num_frames,
            height=height or self.height,
            width=width or self.width,
        )

    def with_frames(self, num_frames: int) -> ShapeClips:
        """The same set at another number of frames."""
        return self.with_size(num_frames)
