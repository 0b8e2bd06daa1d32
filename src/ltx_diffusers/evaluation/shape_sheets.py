"""Contact sheets of an evaluation in moving-shapes: a row per clip, the failures first and framed in red."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from ..data.pictures import contact_sheet

if TYPE_CHECKING:
    from PIL import Image

    from .shapes import JudgedClip

_COLUMNS = 8
_FRAME = 3  # pixels around each picture
_WRONG, _RIGHT, _PLAIN = (220, 40, 40), (40, 160, 60), (110, 110, 110)


class ShapeSheets:
    """Collects the clips of an evaluation, and draws one sheet per part.

    Give its `add` to `evaluate_shapes` as `on_clip`. It keeps the frames of at most twice `rows` clips a part.

    Args:
        rows: Most clips on a sheet. Failures come first; clips that are right fill it up.
    """

    def __init__(self, rows: int = 60) -> None:
        self.rows = rows
        self._wrong: dict[str, list[tuple[str, np.ndarray]]] = defaultdict(list)
        self._right: dict[str, list[tuple[str, np.ndarray]]] = defaultdict(list)

    def add(self, clip: JudgedClip) -> None:
        """Keep a clip if its sheet has room for it."""
        kept = self._right if all(clip.right.values()) else self._wrong
        if len(kept[clip.part]) < self.rows:
            kept[clip.part].append((_title(clip), _framed(clip)))

    def parts(self) -> list[str]:
        """The parts that have clips."""
        return sorted({*self._wrong, *self._right})

    def draw(self, part: str) -> Image.Image:
        """The sheet of a part that has clips."""
        rows = [*self._wrong[part], *self._right[part]][: self.rows]
        return contact_sheet([frames for _, frames in rows], [title for title, _ in rows], _COLUMNS)


def _title(clip: JudgedClip) -> str:
    wrong = [name for name, right in clip.right.items() if not right and name != "all"]
    read = ", ".join(f"{name} {getattr(clip.reading, name, '') or 'unclear'}" for name in wrong)
    figures = ", ".join(f"{name} {value:.3g}" for name, value in clip.figures.items())
    parts = (f"{clip.case.index}: {clip.case.prompt}", f"WRONG: {read}" if wrong else "", figures)
    return " | ".join(part for part in parts if part)


def _framed(clip: JudgedClip) -> np.ndarray:
    """Evenly spread frames (at most `_COLUMNS`, H, W, 3), each with a frame in the colour of the verdict."""
    chosen = np.linspace(0, len(clip.frames) - 1, min(_COLUMNS, len(clip.frames))).round().astype(int)
    count, height, width, _ = clip.frames[chosen].shape
    color = _PLAIN if not clip.right else _RIGHT if all(clip.right.values()) else _WRONG
    framed = np.empty((count, height + 2 * _FRAME, width + 2 * _FRAME, 3), np.uint8)
    framed[:] = color
    framed[:, _FRAME:-_FRAME, _FRAME:-_FRAME] = clip.frames[chosen]
    return framed
