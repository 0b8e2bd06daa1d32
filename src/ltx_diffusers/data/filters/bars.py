"""Black bars above and below, or beside, what a video shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .scene import Box, Scene

_BLACK = 24
"""Brightness, of 255, up to which a bar may shine: compression leaves it not quite black."""

_SPOTS = 0.02
"""Share of a bar's row that may be brighter, for a logo or dirt."""

_STEP = 12
"""A bar ends where the picture is brighter by this, of 255, than the bar ..."""

_EDGE = 0.2
"""... in this share of the columns, in one still or another. The night around a lamp fades out; a bar doesn't."""

_REACH = 6
"""Pixels within which that must happen: compression softens the bar's edge."""

_LEAST = 0.4
"""Share of a side that must be left; less isn't taken for a picture with bars."""

_MARGIN = 2
"""Pixels cut off beyond each bar, where it shines into the picture."""


def find_bars(scene: Scene) -> Box | None:
    """The part of the picture without black bars, with even numbers; None if there are no bars.

    A row belongs to a bar if it is dark in every still, and the bar must end abruptly: a picture that is dark at its
    edge has no bar there.
    """
    if not scene.stills:
        return None
    top, bottom = _rows(scene.stills)
    middle = [still[top : still.shape[0] - bottom] for still in scene.stills]
    left, right = _rows([still.T for still in middle])
    if not (top or bottom or left or right):
        return None
    x, width = _between(left, right, scene.width)
    y, height = _between(top, bottom, scene.height)
    if width < 2 or height < 2:
        return None
    return x, y, width, height


def bar_share(scene: Scene, box: Box | None) -> float:
    """Share of the picture that bars take, 0 to 1."""
    return 0.0 if box is None else 1 - box[2] * box[3] / (scene.width * scene.height)


def _rows(stills: Sequence[np.ndarray]) -> tuple[int, int]:
    """Height of the bar at the top and at the bottom, 0 for none."""
    dark = np.all([np.mean(still > _BLACK, axis=1) <= _SPOTS for still in stills], axis=0)
    if dark.all():
        return 0, 0
    heights = int(np.argmin(dark)), int(np.argmin(dark[::-1]))
    top = heights[0] if _ends_abruptly([still[heights[0] :] for still in stills]) else 0
    bottom = heights[1] if _ends_abruptly([still[::-1][heights[1] :] for still in stills]) else 0
    return (top, bottom) if len(dark) - top - bottom >= _LEAST * len(dark) else (0, 0)


def _ends_abruptly(stills: Sequence[np.ndarray]) -> bool:
    """Whether the rows next to a bar, the first ones here, are bright in enough columns."""
    brightest = np.max([still[:_REACH].max(axis=0) for still in stills], axis=0)
    return bool(np.mean(brightest > _BLACK + _STEP) >= _EDGE)


def _between(first: int, last: int, size: int) -> tuple[int, int]:
    """Start and size of what lies between two bars, with even numbers."""
    start = first + _MARGIN if first else 0
    end = size - last - _MARGIN if last else size
    start += start % 2
    return start, (end - start) // 2 * 2
