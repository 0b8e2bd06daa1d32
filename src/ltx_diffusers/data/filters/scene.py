"""What filters see of a picture, or of a scene of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Box = tuple[int, int, int, int]
"""A part of a picture in pixels: left, top, width, height."""

LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
"""Weights of red, green and blue in brightness (ITU-R BT.709)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """A picture, or a run of a video's frames without a cut, as far as it is kept for measuring.

    Attributes:
        caption: What its picture or video shows; "" if nobody wrote that.
        is_picture: Whether it is a picture.
        start, end: In seconds of the video; its first frame is at `start`, the next scene's at `end`. Both 0 for a
            picture.
        num_frames: Frames of the scene.
        frame_rate: Frames per second; None for a picture.
        width, height: In pixels, of the part that is to be seen.
        times: Seconds of each thumbnail, (N,).
        thumbnails: Small pictures, about eight a second, uint8 (N, h, w, 3). A scene of less than an eighth of a second
            may have none.
        stills: Few frames in full size, grey, uint8 (height, width).
        still_times: Seconds of each still.
    """

    caption: str = ""
    is_picture: bool = False
    start: float = 0.0
    end: float = 0.0
    num_frames: int = 1
    frame_rate: float | None = None
    width: int
    height: int
    times: np.ndarray
    thumbnails: np.ndarray
    stills: Sequence[np.ndarray] = ()
    still_times: Sequence[float] = ()

    @property
    def seconds(self) -> float:
        """Duration; 0 for a picture."""
        return self.end - self.start

    def brightness(self) -> np.ndarray:
        """Thumbnails in grey, float32 (N, h, w) in [0, 255]."""
        return self.thumbnails.astype(np.float32) @ LUMA

    def cropped(self, box: Box) -> Scene:
        """The same scene with only a part of the picture seen."""
        left, top, width, height = box
        rows, columns = self.thumbnails.shape[1:3]
        # Thumbnail pixels that lie wholly within the box; at least one.
        y = _inside(top * rows / self.height, (top + height) * rows / self.height, rows)
        x = _inside(left * columns / self.width, (left + width) * columns / self.width, columns)
        return replace(
            self,
            width=width,
            height=height,
            thumbnails=self.thumbnails[:, y, x],
            stills=tuple(still[top : top + height, left : left + width] for still in self.stills),
        )


def _inside(first: float, end: float, size: int) -> slice:
    start = min(int(np.ceil(first - 1e-6)), size - 1)
    return slice(start, max(int(end + 1e-6), start + 1))
