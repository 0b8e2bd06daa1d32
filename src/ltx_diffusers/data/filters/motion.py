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

_STILL = 1.0
"""A picture whose brightness changes less on average, of 255, stands still: compression and noise change that much."""

_FLAT = 0.25
"""Added to the mean slope of brightness per thumbnail pixel, so that a flat picture doesn't move fast."""

# A velocity is seen across edges only, where its part along the slope counts: |cos| is 2 / pi on average.
_ALL_DIRECTIONS = math.pi / 2

_LAGS = (1, 2, 4, 8)
"""Pairs of thumbnails so many apart are compared: near ones show fast motion, distant ones slow motion."""

_STILL_LAG = 4


@filters.register("motion")
class MotionFilter:
    """Apparent speed, and how much of the time nothing changes at all.

    Where a picture of brightness I moves with velocity v, I changes by -v . grad I per unit of time (the constraint
    from which optical flow is found; Horn and Schunck 1981). The sum of all changes over the sum of all slopes is
    therefore a speed, whatever the contrast and the detail: a camera that pans gives its speed, an object that moves on
    a still background its speed times its share of the picture's edges. A change of brightness of the whole picture is
    taken out first. It is measured over an eighth of a second up to a second, and the highest value counts: noise and
    rounding hide slow motion in near pictures, fast motion has left distant ones. What moves far within an eighth of a
    second compared with its own detail comes out too low.
    """

    scores: ClassVar[Mapping[str, str]] = {
        "motion": "apparent speed, in hundredths of the picture's width per second (videos)",
        "still_share": "share of the time in which the picture is the same half a second later, 0 to 1 (videos)",
    }

    def __call__(self, scene: Scene) -> dict[str, float]:
        """The numbers of a scene; none for a picture, or where there are less than two thumbnails."""
        count = len(scene.thumbnails)
        if scene.is_picture or count < 2:
            return {}
        grey = scene.brightness()
        slopes = np.array([_slope(picture) for picture in grey])
        speeds = [_speed(grey, slopes, scene.times, lag) for lag in _LAGS if lag < count]
        lag = min(_STILL_LAG, count - 1)
        changes = np.abs(grey[lag:] - grey[:-lag]).mean(axis=(1, 2))
        return {
            "motion": 100 * max(speeds) / grey.shape[2],
            "still_share": float(np.mean(changes < _STILL)),
        }


def _speed(grey: np.ndarray, slopes: np.ndarray, times: np.ndarray, lag: int) -> float:
    """Mean apparent speed between thumbnails so many apart, in their pixels per second."""
    changes = np.empty(len(grey) - lag)
    for number, (before, after) in enumerate(zip(grey[:-lag], grey[lag:], strict=True)):
        change = after - before
        changes[number] = np.maximum(np.abs(change - change.mean()) - _NOISE, 0).mean()
    steps = _ALL_DIRECTIONS * changes / ((slopes[:-lag] + slopes[lag:]) / 2 + _FLAT)
    return float(np.mean(steps / (times[lag:] - times[:-lag])))


def _slope(picture: np.ndarray) -> float:
    """Mean length of the gradient of brightness, per pixel."""
    if min(picture.shape) < 2:
        return 0.0
    return float(np.hypot(*np.gradient(picture)).mean())
