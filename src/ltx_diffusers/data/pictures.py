"""Pictures made from frames: contact sheets, comparisons side by side, and fitting a picture to a size.

Frames are uint8 (F, H, W, 3), pictures uint8 (H, W, 3). No torch is imported here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_BACKGROUND = (24, 24, 24)
_INK = (235, 235, 235)
_GAP = 4
_MARGIN = 8


def contact_sheet(
    videos: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    columns_frames: int = 8,
    path: str | os.PathLike | None = None,
) -> Image.Image:
    """Draw clips as rows of frames with a title above each row.

    Args:
        videos: Clips, uint8 (F, H, W, 3) each; sizes may differ.
        titles: One line of text per clip.
        columns_frames: At most so many frames of a clip, spread evenly from its first to its last.
        path: Also save the sheet here (the ending gives the picture format).

    Returns:
        The sheet as a `PIL.Image.Image`.

    Raises:
        InputError: If there are no clips, a clip isn't uint8 (F, H, W, 3), or titles don't match the clips.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not len(videos):
        raise InputError("a contact sheet needs at least one video")
    if titles is not None and len(titles) != len(videos):
        raise InputError("titles must match the videos", got=len(titles), expected=len(videos))
    if columns_frames < 1:
        raise InputError("columns_frames must be positive", got=columns_frames)
    rows = [_strip(video, columns_frames) for video in videos]
    font = ImageFont.load_default(size=14)
    title_height = 20 if titles is not None else 0
    width = max(row.shape[1] for row in rows)
    if titles is not None:
        width = max(width, *(int(font.getlength(title)) + 1 for title in titles))
    height = sum(row.shape[0] + title_height + _MARGIN for row in rows)
    sheet = Image.new("RGB", (width + 2 * _MARGIN, height + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for index, row in enumerate(rows):
        if titles is not None:
            draw.text((_MARGIN, top), titles[index].replace("\n", " "), fill=_INK, font=font)
        sheet.paste(Image.fromarray(row), (_MARGIN, top + title_height))
        top += row.shape[0] + title_height + _MARGIN
    if path is not None:
        sheet.save(Path(path))
    return sheet


def _strip(video: np.ndarray, columns: int) -> np.ndarray:
    """Evenly spread frames in one row, (H, width, 3), with gaps between them."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
        raise InputError(
            "a video must be uint8 (F, H, W, 3), none of them 0", got=f"{video.dtype} {video.shape}"
        )
    chosen = np.linspace(0, len(video) - 1, min(columns, len(video))).round().astype(int)
    gap = np.full((video.shape[1], _GAP, 3), _BACKGROUND, dtype=np.uint8)
    parts = [part for index in chosen for part in (gap, video[index])]
    return np.concatenate(parts[1:], axis=1)


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two videos of one shape next to each other, uint8 (F, H, 2 W, 3).

    Raises:
        InputError: If their shapes differ.
    """
    if left.shape != right.shape:
        raise InputError("videos side by side must have one shape", got=f"{left.shape} and {right.shape}")
    return np.concatenate([left, right], axis=2)


MIDDLE = (0.5, 0.5)
"""Where a cut lies: the share of what is cut off that goes off at the left, and at the top."""


def crop_frames(
    frames: np.ndarray, height: int, width: int, position: tuple[float, float] = MIDDLE
) -> np.ndarray:
    """A part of frames (F, H, W, 3), or of one picture (H, W, 3), in a smaller size: the middle, or at a position.

    Raises:
        InputError: If the frames are smaller than that.
    """
    old_height, old_width = frames.shape[-3:-1]
    if old_height < height or old_width < width:
        raise InputError(
            "frames can't be cut to a larger size",
            got=f"{old_width}x{old_height}",
            expected=f"at least {width}x{height}",
        )
    left, top = int((old_width - width) * position[0]), int((old_height - height) * position[1])
    return frames[..., top : top + height, left : left + width, :]


def fit_frames(
    frames: np.ndarray, height: int, width: int, position: tuple[float, float] = MIDDLE
) -> np.ndarray:
    """Resize frames to cover a size, keeping their proportions, and cut what stands over: evenly, or at a position.

    Args:
        frames: uint8 (F, H, W, 3), or one picture (H, W, 3).
        height: Height wanted, in pixels.
        width: Width wanted, in pixels.
        position: Where the part that is seen lies, see `MIDDLE`.

    Returns:
        Frames or picture of that size, uint8.
    """
    from PIL import Image

    if frames.ndim == 3:
        return fit_frames(frames[None], height, width, position)[0]
    old_height, old_width = frames.shape[1:3]
    if (old_height, old_width) == (height, width):
        return frames
    scale = max(height / old_height, width / old_width)
    # The part of the source that is seen, in source pixels; Pillow widens its filter when it shrinks.
    seen_width, seen_height = width / scale, height / scale
    left, top = (old_width - seen_width) * position[0], (old_height - seen_height) * position[1]
    box = (
        max(0.0, left),
        max(0.0, top),
        min(old_width, left + seen_width),
        min(old_height, top + seen_height),
    )
    out = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        picture = Image.fromarray(np.ascontiguousarray(frame))
        out[index] = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box))
    return out
