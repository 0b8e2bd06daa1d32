"""Encoding and decoding a video in overlapping tiles, to bound memory.

Tiles in space overlap by size - stride pixels; encoding crossfades latents there, decoding pixels.
Tiles in time start at multiples of the stride. A tile holds size + 1 frames, because the first frame of
anything given to the model is coded on its own: latent k of a tile that starts at pixel frame s stands for
the frames up to s + 8k. The first frame of every later tile lacks its past, is known from the tile before,
and is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...errors import InputError
from ...functional.blending import merge_tiles
from ...geometry import CompressionRatios

Coder = Callable[[torch.Tensor], torch.Tensor]
TIME, HEIGHT, WIDTH = 2, 3, 4


@dataclass(frozen=True)
class TileAxis:
    """Tiles along one axis.

    Args:
        name: The axis in messages and arguments ("height").
        size: Size of a tile in pixels, or frames after its first.
        stride: Distance of neighbouring tiles' starts, in pixels or frames.
        ratio: Pixels or frames for one latent.

    Raises:
        InputError: If size or stride isn't a positive multiple of the ratio, or the stride isn't
            smaller than the size.
    """

    name: str
    size: int
    stride: int
    ratio: int

    def __post_init__(self) -> None:
        for kind, value in (("tile_sample_min", self.size), ("tile_sample_stride", self.stride)):
            if value <= 0 or value % self.ratio:
                raise InputError(
                    f"{kind}_{self.name} must be a positive multiple of {self.ratio}",
                    got=value,
                    fix=f"use {max(1, round(value / self.ratio)) * self.ratio}",
                )
        if self.stride >= self.size:
            raise InputError(
                f"tiles must overlap: tile_sample_stride_{self.name} < tile_sample_min_{self.name}",
                got=f"stride {self.stride}, size {self.size}",
                fix="give both" if self.size > self.ratio else f"use tiles of at least {2 * self.ratio}",
            )

    @property
    def overlap(self) -> int:
        """Pixels or frames that neighbouring tiles share."""
        return self.size - self.stride

    def in_latents(self) -> TileAxis:
        """The same tiles counted in latents."""
        return TileAxis(self.name, self.size // self.ratio, self.stride // self.ratio, 1)

    def starts(self, length: int, extra: int = 0) -> range:
        """Starts of tiles of `size + extra` that cover `length`; one start if a single tile does."""
        remaining = max(0, length - self.size - extra)
        return range(0, -(-remaining // self.stride) * self.stride + 1, self.stride)


@dataclass(frozen=True)
class Tiling:
    """How to cut a video: in space if `height` and `width` are given, in time if `time` is."""

    time: TileAxis | None = None
    height: TileAxis | None = None
    width: TileAxis | None = None

    @classmethod
    def from_sizes(
        cls,
        ratios: CompressionRatios,
        time: tuple[int, int] | None,
        height: tuple[int, int] | None,
        width: tuple[int, int] | None,
    ) -> Tiling:
        """Build and validate a tiling from (size, stride) pairs in pixels and frames; None: leave whole.

        Raises:
            InputError: As `TileAxis`.
        """
        return cls(
            time and TileAxis("num_frames", *time, ratios.time),
            height and TileAxis("height", *height, ratios.height),
            width and TileAxis("width", *width, ratios.width),
        )

    def encode(self, video: torch.Tensor, encoder: Coder) -> torch.Tensor:
        """Encode `video` (B, C, F, H, W) in pixels to moments (B, C', F', H', W')."""
        return _code_in_time(video, encoder, cut=self, blend=self._in_latents())

    def decode(
        self, latents: torch.Tensor, decoder: Coder, before_time_tile: Callable[[], None] | None = None
    ) -> torch.Tensor:
        """Decode `latents` (B, C', F', H', W') to a video (B, C, F, H, W) in pixels.

        `before_time_tile` is called before each tile in time, of which there may be one only.
        """
        return _code_in_time(latents, decoder, self._in_latents(), blend=self, before_tile=before_time_tile)

    def _in_latents(self) -> Tiling:
        return Tiling(*(axis and axis.in_latents() for axis in (self.time, self.height, self.width)))


def _code_in_time(
    whole: torch.Tensor,
    coder: Coder,
    cut: Tiling,
    blend: Tiling,
    before_tile: Callable[[], None] | None = None,
) -> torch.Tensor:
    """Code the tiles of `whole` in time, each in tiles in space, and join them."""
    if cut.time is None:
        starts, size = range(1), whole.shape[TIME]
    else:
        starts, size = cut.time.starts(whole.shape[TIME], extra=1), cut.time.size + 1
    tiles = []
    for start in starts:
        if before_tile is not None:
            before_tile()
        tile = _code_in_space(whole[:, :, start : start + size], coder, cut, blend)
        tiles.append(tile if start == 0 else tile[:, :, 1:])
    return merge_tiles(tiles, blend.time.overlap if blend.time else 0, TIME)


def _code_in_space(whole: torch.Tensor, coder: Coder, cut: Tiling, blend: Tiling) -> torch.Tensor:
    def code_row(row: torch.Tensor) -> torch.Tensor:
        return _code_along(row, coder, cut.width, blend.width, WIDTH)

    return _code_along(whole, code_row, cut.height, blend.height, HEIGHT)


def _code_along(
    whole: torch.Tensor, coder: Coder, cut: TileAxis | None, blend: TileAxis | None, dim: int
) -> torch.Tensor:
    if cut is None:
        return coder(whole)
    length = whole.shape[dim]
    tiles = [coder(whole.narrow(dim, start, min(cut.size, length - start))) for start in cut.starts(length)]
    return merge_tiles(tiles, blend.overlap, dim)
