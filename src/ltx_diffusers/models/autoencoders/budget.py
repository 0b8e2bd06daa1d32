"""Choosing how to code a video within a memory budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from ...errors import InputError
from ...geometry import CompressionRatios, VideoSize, pixel_size
from .layout import Part
from .memory import frames_at_once, peak_numbers, pixel_choices

Layout = Callable[[int, int], Sequence[Part]]
"""Gives the parts of an encoder or decoder for videos of a height and width, in latents."""

_TILE_SIDES = (32, 24, 16, 12, 8, 6, 4)  # in latents
_TILE_STRIDE = 0.75
_GIGABYTE = 1e9


@dataclass(frozen=True)
class Plan:
    """A way to code a video.

    Attributes:
        pixels: What `memory.frames_at_once` goes by: pixels that each part of the model works on at a time.
        tile: Side in latents of square tiles that overlap and are blended, which is not exact; None for no tiles.
        stride: Distance in latents of the tiles' starts.
        num_bytes: What is held at most, by count; without the weights and the input.
    """

    pixels: int
    tile: int | None
    stride: int | None
    num_bytes: int


def choose_plan(
    layout: Layout,
    size: VideoSize,
    batch: int,
    result: int,
    item_bytes: int,
    budget: int | None,
    tiles: bool = True,
) -> Plan:
    """The fastest way within a budget; exact ways go first.

    Args:
        layout: Of the encoder or decoder.
        size: Of the video, in latents.
        batch: Videos coded at once.
        result: Numbers in the result.
        item_bytes: Bytes of a number.
        budget: Bytes; None for no limit.
        tiles: Whether tiles may be blended.

    Raises:
        InputError: If no way fits.
    """
    least = None
    for tile in (None, *_TILE_SIDES) if tiles else (None,):
        height, width = (side if tile is None else min(side, tile) for side in (size.height, size.width))
        if tile is not None and (height, width) == (size.height, size.width):
            continue
        parts = layout(height, width)
        # Blending holds the tiles beside the video.
        kept = result * (1 if tile is None else 2)
        for pixels in pixel_choices():
            numbers = kept + batch * peak_numbers(parts, frames_at_once(parts, pixels), size.frames)
            stride = None if tile is None else int(tile * _TILE_STRIDE)
            plan = Plan(pixels, tile, stride, numbers * item_bytes)
            if budget is None or plan.num_bytes <= budget:
                return plan
            least = plan if least is None else min(least, plan, key=lambda each: each.num_bytes)
    raise InputError(
        "the memory budget is too small for this video",
        got=f"{budget / _GIGABYTE:.3g} GB",
        expected=f"at least {least.num_bytes / _GIGABYTE:.3g} GB",
        fix="raise the budget; decode_stream and encode_stream need less, because they don't hold the video",
    )


def video_numbers(size: VideoSize, ratios: CompressionRatios, channels: int) -> int:
    """Numbers in a video whose size is given in latents."""
    return channels * prod(pixel_size(size, ratios))
