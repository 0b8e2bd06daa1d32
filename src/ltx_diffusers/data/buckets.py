"""Sizes of clips in one data set: which of several sizes a picture or video is cut to.

Training takes batches of one size, so a set with portraits and landscapes, long clips and short ones, is sorted into a
few sizes (buckets) beforehand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..geometry import LTX_RATIOS, CompressionRatios, VideoSize, check_video_size
from .cutting import Cut

_ALIKE = 0.02
"""Sizes that show nearly the same share of a picture count as alike, and the longest and largest of them is taken."""

_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})(?:x(\d{1,6}))?", re.IGNORECASE)


@dataclass(frozen=True)
class Shown:
    """What there is to cut from: a picture or the part of a video that counts, upright.

    Attributes:
        width, height: In pixels, as it is shown: turned, and without what a list crops away.
        seconds: Duration; 0 for a picture.
        frame_rate: Frames per second; None for a picture.
    """

    width: int
    height: int
    seconds: float = 0.0
    frame_rate: float | None = None

    @property
    def is_picture(self) -> bool:
        """Whether it has no duration."""
        return self.frame_rate is None


def parse_clip_size(text: str, ratios: CompressionRatios = LTX_RATIOS) -> VideoSize:
    """A size as WIDTHxHEIGHTxFRAMES, or WIDTHxHEIGHT for pictures.

    Raises:
        InputError: If it isn't one, or the VAE can't encode that size; the message names near ones.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InputError(
            "this is no size of a clip", got=repr(text), expected="WIDTHxHEIGHTxFRAMES, as 768x512x49"
        )
    width, height, frames = int(found[1]), int(found[2]), int(found[3] or 1)
    return check_video_size(frames, height, width, ratios)


def kept_share(width: int, height: int, size: VideoSize) -> float:
    """Which share of a picture is still seen when it covers a size and what stands over is cut off, in (0, 1]."""
    ratio = (width * size.height) / (height * size.width)
    return min(ratio, 1 / ratio)


def fitting_sizes(shown: Shown, sizes: Sequence[VideoSize], cut: Cut) -> list[VideoSize]:
    """The sizes that clips of a picture or video can have.

    Pictures have sizes of one frame and videos the others; only if there are no others, frames of videos are taken.

    Args:
        shown: What there is.
        sizes: The sizes to choose from, in frames and pixels.
        cut: Says at which frame rate clips are taken, and whether what is too small is enlarged.

    Raises:
        InputError: If it fits none; the message says why: too short, too small, or no size for its kind.
    """
    stills = [size for size in sizes if size.frames == 1]
    kind = stills if shown.is_picture else [size for size in sizes if size.frames > 1] or stills
    if not kind:
        raise InputError("no size is for pictures", fix="give one without frames, as 512x512")
    long_enough = [size for size in kind if shown.is_picture or _lasts(shown, size, cut)]
    if not long_enough:
        shortest = min(size.frames for size in kind)
        rate = cut.window(shortest).rate(shown.frame_rate or 1.0)
        raise InputError(
            "it is too short",
            got=f"{shown.seconds:.3g} s",
            expected=f"at least {shortest} frames at {rate:g} per second",
        )
    fitting = [
        size
        for size in long_enough
        if cut.upscale or (size.height <= shown.height and size.width <= shown.width)
    ]
    if not fitting:
        smallest = min(long_enough, key=lambda size: size.height * size.width)
        raise InputError(
            "it is too small",
            got=f"{shown.width}x{shown.height}",
            expected=f"at least {smallest.width}x{smallest.height}",
        )
    return fitting


def nearest_size(shown: Shown, fitting: Sequence[VideoSize]) -> VideoSize:
    """Of the sizes that fit, the one that shows most of the picture; of those alike the longest, then the largest."""
    shares = {size: kept_share(shown.width, shown.height, size) for size in fitting}
    best = max(shares.values())
    alike = [size for size in fitting if shares[size] >= best - _ALIKE]
    return max(alike, key=lambda size: (size.frames, size.height * size.width, shares[size]))


def places(shown: Shown, size: VideoSize, cut: Cut, count: int | None) -> list[float]:
    """Where clips of a size lie within a video, evenly: 0 is the start and 1 the end of where they fit.

    Args:
        shown: The video.
        size: Of the clips.
        cut: Their frame rate.
        count: How many at most; they don't overlap. One lies in the middle. None: as many as fit.
    """
    if shown.is_picture:
        return [0.5]
    window = cut.window(size.frames)
    rate = shown.frame_rate or 1.0
    frames = math.floor(shown.seconds * window.rate(rate) + 1e-3)
    fits = max(1, frames // size.frames)
    number = fits if count is None else min(count, fits)
    if number == 1:
        return [0.5]
    return [index / (number - 1) for index in range(number)]


def _lasts(shown: Shown, size: VideoSize, cut: Cut) -> bool:
    """Whether a video is long enough for clips of a size."""
    return cut.window(size.frames).fits(shown.seconds, shown.frame_rate or 1.0)
