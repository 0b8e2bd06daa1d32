"""moving-shapes as training data: clip number i of a seed is always the same clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from . import data_readers
from .clips import Clip
from .moving_shapes import (
    MOTIONS,
    SHAPES,
    ClipSpec,
    Split,
    caption,
    combinations,
    moment,
    render,
    render_outline,
    sample_spec,
)
from .texture import Texture, draw_texture

REFERENCES = {"outline": render_outline}
"""How the references are drawn that clips may have, by name."""

_TEXTURE = 1  # last word of the seed that patterns are drawn with


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
        texture: How far patterns on shape and background may change a colour, from 0 (plain) to 1; the judge still
            reads clips with 0.1.
        motions: Those that are drawn; see `moving_shapes.NEW_MOTIONS` for more than the usual ones.
        reference: "outline" gives each clip a reference: the outline of its shape, white on black; None for no
            references.

    Raises:
        InputError: If there is no such shape, motion or reference, a weight isn't positive, or the texture isn't in
            [0, 1].
    """

    num_frames: int = 17
    height: int = 96
    width: int = 96
    split: Split = "train"
    seed: int = 0
    shape_weights: Mapping[str, float] | None = None
    texture: float = 0.0
    motions: Sequence[str] = MOTIONS
    reference: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "motions", tuple(self.motions))
        combinations(self.split, self.motions)
        if not 0 <= self.texture <= 1:
            raise InputError("texture must be in [0, 1]", got=self.texture)
        if self.reference not in (None, *REFERENCES):
            raise InputError(
                "moving-shapes has no such reference",
                got=repr(self.reference),
                expected=", ".join(REFERENCES),
            )
        for shape, weight in (self.shape_weights or {}).items():
            if shape not in SHAPES or not 0 < weight < float("inf"):
                raise InputError(
                    "shape_weights gives positive numbers to shapes",
                    got=f"{shape}: {weight}",
                    expected=f"some of {', '.join(SHAPES)}",
                )

    def __getitem__(self, index: int) -> ShapeClip:
        rng = np.random.default_rng([self.seed, index])
        spec = sample_spec(rng, self.split, self.shape_weights, self.motions)
        if self.num_frames == 1:
            spec = moment(spec, float(rng.random()))
        size = (self.num_frames, self.height, self.width)
        return ShapeClip(
            frames=render(spec, *size, self._textures(index)),
            caption=caption(spec, rng),
            name=self.name(index),
            references=() if self.reference is None else (REFERENCES[self.reference](spec, *size),),
            spec=spec,
        )

    def _textures(self, index: int) -> tuple[Texture, Texture] | None:
        """Patterns of a clip's background and shape, drawn apart from all else, so that the clip is the plain one's."""
        if not self.texture:
            return None
        rng = np.random.default_rng([self.seed, index, _TEXTURE])
        return draw_texture(rng, self.texture), draw_texture(rng, self.texture)

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """Another wording for a clip, without drawing it."""
        own = np.random.default_rng([self.seed, index])
        return caption(sample_spec(own, self.split, self.shape_weights, self.motions), rng)

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
