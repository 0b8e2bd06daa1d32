"""How much moves in a scene, without optical flow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from . import filters
from .scene import Scene

_NOISE = 1.0
"""Differences of brightness, of 255, that may be noise of the camera or the compression in a thumbnail."""

_STILL = 0.5
"""A picture whose brightness changes less on average, of 255, stands still."""

_FLAT = 0.25
"""Added to the mean slope of brightness per thumbnail pixel, so that a flat picture doesn't move fast."""

# A velocity is seen across edges only, where its part along the slope counts: |cos| is 2 / pi on average.
_ALL_DIRECTIONS = math.pi / 2


@filters.register("motion")
class MotionFilter:
    """Apparent speed, and how much of the time nothing changes at all.

    Where a picture of brightness I moves with velocity v, I changes by -v . grad I per unit of time (the constraint
    from which optical flow is found; Horn and Schunck 1981). The sum of all changes over the sum of all slopes is
    therefore a speed, whatever the contrast and the detail: a camera that pans gives its speed, an object that moves on
    a still background its speed times its share of the picture's edges. A change of brightness of the whole picture is
    taken out first. Speeds beyond about a pixel of the thumbnail between two of them come out too low, so numbers
    compare scenes, not cameras.
    """

    scores: ClassVar[Mapping[str, str]] = {
        "motion": "apparent speed, in hundredths of the picture's width per second (videos)",
        "still_share": "share of the time in which the picture stands still, 0 to 1 (videos)",
    }

    def __call__(self, scene: Scene) -> dict[str, float]:
        """The numbers of a scene; none for a picture, or where there are less than two thumbnails."""
        if scene.is_picture or len(scene.thumbnails) < 2:
            return {}
        grey = scene.brightness()
        speeds, stills, seconds = [], [], np.diff(scene.times)
        for before, after, lag in zip(grey[:-1], grey[1:], seconds, strict=True):
            change = after - before
            stills.append(np.abs(change).mean() < _STILL)
            change = np.maximum(np.abs(change - change.mean()) - _NOISE, 0)
            speeds.append(_ALL_DIRECTIONS * change.mean() / (_slope(before, after) + _FLAT) / lag)
        widths = np.average(speeds, weights=seconds) / grey.shape[2]
        return {
            "motion": float(100 * widths),
            "still_share": float(np.average(stills, weights=seconds)),
        }


def _slope(before: np.ndarray, after: np.ndarray) -> float:
    """Mean length of the gradient of brightness, per pixel, of the picture half way between two."""
    middle = (before + after) / 2
    if min(middle.shape) < 2:
        return 0.0
    rows, columns = np.gradient(middle)
    return float(np.hypot(rows, columns).mean())
