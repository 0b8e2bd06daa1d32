"""What a scene looks like in few bits, by which scenes that are the same to the eye are found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .scene import LUMA, Scene

_MOMENTS = (0.2, 0.5, 0.8)
"""Where in a scene it is looked at."""

_SIDE = 8
_SAMPLED = 32
_BITS = _SIDE * _SIDE * len(_MOMENTS)

_CHUNK = 16
_MOST_BITS = _BITS // _CHUNK - 1
"""Bits by which two pictures of the same may differ: with fewer than there are chunks, one chunk is equal."""

_MOST_COLOUR = 12
"""Levels, of 255, by which their mean colours may differ."""

_LEAST_CONTRAST = 2.0
"""Standard deviation of brightness, of 255, below which a picture has no shape to compare."""

_SAME_LENGTH = 0.1
"""Share by which their durations may differ."""


@dataclass(frozen=True)
class Fingerprint:
    """A perceptual hash with the colours beside it.

    Attributes:
        bits: `_BITS` bits.
        colours: Mean red, green and blue of each moment, 0 to 255.
    """

    bits: int
    colours: tuple[int, ...]

    def is_like(self, other: Fingerprint) -> bool:
        """Whether both stand for the same pictures, but for compression, size and small changes of colour."""
        if (self.bits ^ other.bits).bit_count() > _MOST_BITS:
            return False
        return all(abs(a - b) <= _MOST_COLOUR for a, b in zip(self.colours, other.colours, strict=True))


def fingerprint(scene: Scene) -> Fingerprint | None:
    """The fingerprint of a scene; None if its pictures are even in colour, or there are none.

    Of three moments each, the lowest 8 x 8 frequencies (a cosine transform of the picture in 32 x 32) are above or
    below their median.
    """
    count = len(scene.thumbnails)
    if not count:
        return None
    bits, colours = 0, []
    for share in _MOMENTS:
        picture = scene.thumbnails[min(int(share * count), count - 1)].astype(np.float32)
        grey = picture @ LUMA
        if grey.std() < _LEAST_CONTRAST:
            return None
        low = _frequencies(_resampled(grey))
        # The mean brightness, which is in the colours too, would always be above.
        above = (low > np.median(low.ravel()[1:])).ravel()
        above[0] = False
        bits = bits << (_SIDE * _SIDE) | int.from_bytes(np.packbits(above).tobytes())
        colours += [round(float(value)) for value in picture.mean(axis=(0, 1))]
    return Fingerprint(bits, tuple(colours))


def same_scenes(prints: Sequence[Fingerprint | None], seconds: Sequence[float]) -> dict[int, int]:
    """Which scenes are the same as one that comes before them.

    Args:
        prints: A fingerprint for each scene, in the order in which they are preferred; None for none.
        seconds: Their durations; 0 for pictures, which are never the same as a video.

    Returns:
        For each scene that repeats another the number of that one, which repeats none itself.
    """
    found: dict[int, int] = {}
    by_chunk: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, mine in enumerate(prints):
        if mine is None:
            continue
        chunks = [(place, mine.bits >> place & (1 << _CHUNK) - 1) for place in range(0, _BITS, _CHUNK)]
        near = sorted({other for chunk in chunks for other in by_chunk[chunk]})
        for other in near:
            if mine.is_like(prints[other]) and _similar(seconds[number], seconds[other]):
                found[number] = other
                break
        else:
            for chunk in chunks:
                by_chunk[chunk].append(number)
    return found


def _similar(seconds: float, other: float) -> bool:
    return abs(seconds - other) <= _SAME_LENGTH * max(seconds, other)


def _resampled(grey: np.ndarray) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(grey.astype(np.float32))
    return np.asarray(picture.resize((_SAMPLED, _SAMPLED), Image.Resampling.BOX))


def _frequencies(picture: np.ndarray) -> np.ndarray:
    """The lowest frequencies of a square picture in both directions (DCT-II), (8, 8)."""
    place = (np.arange(_SAMPLED) + 0.5) * np.pi / _SAMPLED
    waves = np.cos(np.arange(_SIDE)[:, None] * place)
    return waves @ picture @ waves.T
