"""How blurred the pictures of a scene are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from . import filters
from .scene import Scene

_WIDTH = 11
"""Pixels of the box that blurs once more."""


@filters.register("blur")
class BlurFilter:
    """How little a picture changes if it is blurred once more.

    The measure of Crete, Dolmiere, Ladret and Nicolas, "The Blur Effect: Perception and Estimation with a New
    No-Reference Perceptual Blur Metric" (2007): a sharp picture loses most of the differences between neighbouring
    pixels, a blurred or enlarged one few. The larger value of rows and columns counts, so motion blur is found too.
    Contrast plays no part.
    """

    scores: ClassVar[Mapping[str, str]] = {"blur": "0 sharp to 1 blurred, the median of the scene's stills"}

    def __call__(self, scene: Scene) -> dict[str, float]:
        """The number of a scene; none without stills, or if they are too small or even in colour."""
        found = [blur_of(still) for still in scene.stills if min(still.shape) > _WIDTH + 2]
        found = [value for value in found if value is not None]
        return {"blur": float(np.median(found))} if found else {}


def blur_of(picture: np.ndarray) -> float | None:
    """The blur of a grey picture (H, W), 0 to 1; None if it is even along rows or columns."""
    values = [_along_rows(picture.astype(np.float32)), _along_rows(picture.T.astype(np.float32))]
    return None if None in values else max(values)


def _along_rows(picture: np.ndarray) -> float | None:
    sums = np.cumsum(picture, axis=1, dtype=np.float64)
    sums = np.pad(sums, ((0, 0), (1, 0)))
    blurred = (sums[:, _WIDTH:] - sums[:, :-_WIDTH]) / _WIDTH
    margin = _WIDTH // 2
    sharp = picture[:, margin : picture.shape[1] - margin]
    # Without the outermost rows, where a decoder's or a crop's edge lies.
    before = np.abs(np.diff(sharp, axis=1))[2:-1]
    after = np.abs(np.diff(blurred, axis=1))[2:-1]
    total = before.sum()
    if total < before.size * 0.01:
        return None
    return float(1 - np.maximum(0, before - after).sum() / total)
