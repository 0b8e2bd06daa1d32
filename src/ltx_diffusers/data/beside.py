"""What goes with a clip: references, a mask and conditions; their files are read at the clip's moments and place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import InputError, MediaError
from ..geometry import VideoSize
from .buckets import Shown
from .clips import GivenFrames
from .cutting import Cut
from .decoding import Window, decode_clip, one_line, probe_video
from .media_entries import MediaEntry, Part, is_picture
from .pictures import MIDDLE
from .row_conditions import placed
from .video import read_image

BRIGHT = 128
"""From this brightness on, of 255, a mask says that a pixel is made anew."""

_SAME_RATE = 0.01


@dataclass(frozen=True)
class Beside:
    """Arrays that go with a clip.

    Attributes:
        references: uint8 (F, H, W, 3) each, or (1, H, W, 3) of a picture.
        mask: Which pixels are made anew, bool (F, H, W); None if there is no mask.
        conditions: What the clip is given in training, as floats; None if nobody says.
    """

    references: tuple[np.ndarray, ...] = ()
    mask: np.ndarray | None = None
    conditions: tuple[GivenFrames, ...] | None = None


@dataclass(frozen=True)
class Stretch:
    """What is read of a file that goes with a clip's.

    Attributes:
        size: Frames, height and width.
        place: Where it lies: 0 is the start, 1 the end.
        part: The only part of the file that counts.
        cut: How frames are taken.
    """

    size: VideoSize
    place: float
    part: Part | None
    cut: Cut


def look_at(source: Path | IO[bytes], picture: bool) -> Shown:
    """What a file shows, without decoding more than one frame.

    Raises:
        MediaError: If it can't be read; `OSError` if it isn't there.
    """
    if picture:
        height, width = read_image(source).shape[:2]
        return Shown(width, height)
    facts = probe_video(source)
    if not isinstance(source, Path):
        source.seek(0)
    # The header has the size as it is stored; only a frame tells how it is turned.
    height, width = decode_clip(source, Window(1))[0].shape[1:3]
    return Shown(width, height, facts.seconds, facts.frame_rate)


def shown_part(whole: Shown, part: Part | None) -> Shown:
    """What the part of a file shows.

    Raises:
        MediaError: If the file hasn't such a part.
    """
    if part is None:
        return whole
    _, _, width, height = part.checked_crop(whole.width, whole.height)
    if whole.is_picture:
        return Shown(width, height)
    seconds = part.seconds(whole.seconds)
    if seconds <= 0:
        raise MediaError("its part lies behind its end", got=f"from {part.start:g} s on")
    return Shown(width, height, seconds, whole.frame_rate)


def same_stretch(
    name: str, other: Shown, whole: Shown, part: Part | None, size: VideoSize, place: float, cut: Cut
) -> Stretch:
    """What belongs to a clip in a file that goes with the clip's: the same moments, the same part of the picture.

    A picture stands for all moments. A video is taken at the clip's frame rate, if its own is another.

    Args:
        name: What messages call the file that goes with the clip's.
        other: What that file shows.
        whole: What the clip's own file shows.
        part: The part of the clip's own file that counts.
        size: Of the clip; or smaller, with as many frames.
        place: Of the clip.
        cut: How the clip is cut.

    Raises:
        MediaError: If it ends before the clip does, can't be cut as the clip is, or is a video where that is a picture.
    """
    if cut.resize == "none" and (other.width, other.height) != (whole.width, whole.height):
        raise MediaError(
            f"what goes with it, {name}, has another size, which resize: none can't bring together",
            got=f"{other.width}x{other.height}",
            expected=f"{whole.width}x{whole.height}",
        )
    theirs, cut = _scaled_part(part, whole, other), replace(cut, upscale=True)
    if other.is_picture:
        one = VideoSize(1, size.height, size.width)
        return Stretch(one, MIDDLE[0], theirs, replace(cut, frame_rate=None, stride=1))
    if whole.is_picture:
        raise MediaError(f"what goes with it, {name}, is a video, and it is a picture")
    shown = shown_part(whole, part)
    seconds = other.seconds if theirs is None else theirs.seconds(other.seconds)
    rate = cut.window(size.frames).rate(shown.frame_rate)
    if abs(other.frame_rate - shown.frame_rate) > _SAME_RATE * shown.frame_rate:
        cut = replace(cut, frame_rate=rate, stride=1)
    length = (size.frames - 1) / rate
    start = place * max(0.0, shown.seconds - 1 / shown.frame_rate - length)
    room = max(0.0, seconds - 1 / other.frame_rate - length)
    if start > room + 1 / rate or length > seconds:
        raise MediaError(
            f"what goes with it, {name}, ends before the clip does",
            got=f"{max(seconds, 0.0):.3g} s",
            expected=f"{start + length:.3g} s or more",
        )
    return Stretch(size, min(1.0, start / room) if room else 0.0, theirs, cut)


def read_beside(
    entry: MediaEntry,
    frames: np.ndarray,
    place: float = MIDDLE[0],
    position: tuple[float, float] = MIDDLE,
    cut: Cut | None = None,
) -> Beside:
    """The references, the mask and the conditions of a clip.

    Args:
        entry: The clip's file, and what goes with it.
        frames: The clip, uint8 (F, H, W, 3).
        place: Where the clip lies in its file: 0 is the start, 1 the end.
        position: Which part of the picture the clip shows.
        cut: How it is cut.

    Raises:
        MediaError: If a file isn't there, can't be read, or doesn't fit the clip; the message names it. If a condition
            isn't inside the clip.
    """
    size, cut = VideoSize(*frames.shape[:3]), cut or Cut()
    given = None if entry.conditions is None else placed(entry.conditions, size.frames)
    files = (*entry.references, entry.mask, *(one.file for _, one in given or ()))
    paths = [file for file in files if file is not None]
    whole = look_at(entry.open(), entry.is_picture) if paths else None
    read: Mapping[Path | None, np.ndarray] = {None: frames} | {
        path: _read(path, whole, entry.part, size, place, position, cut) for path in paths
    }
    mask = None
    if entry.mask is not None:
        mask = np.broadcast_to(read[entry.mask].mean(axis=3) >= BRIGHT, tuple(size)).copy()
    conditions = None
    if given is not None:
        conditions = tuple(
            GivenFrames(begin, frames_at(read[one.file], begin, one.frames).astype(np.float32) / 255)
            for begin, one in given
        )
    return Beside(tuple(read[path] for path in entry.references), mask, conditions)


def frames_at(shown: np.ndarray, begin: int, frames: int) -> np.ndarray:
    """Some frames (f, H, W, 3) of what goes with a clip (F, H, W, 3); a picture (1, H, W, 3) stands for each moment."""
    return shown if len(shown) == 1 else shown[begin : begin + frames]


def look_beside(path: Path) -> Shown:
    """What a file shows that goes with a clip's.

    Raises:
        MediaError: If it isn't there or can't be read; the message names it.
    """
    try:
        return look_at(path, is_picture(path.name))
    except (InputError, OSError) as error:
        raise MediaError(f"what goes with it, {path.name}, can't be used", got=one_line(error)) from error


def _read(
    path: Path,
    whole: Shown,
    part: Part | None,
    size: VideoSize,
    place: float,
    position: tuple[float, float],
    cut: Cut,
) -> np.ndarray:
    other = look_beside(path)
    stretch = same_stretch(path.name, other, whole, part, size, place, cut)
    try:
        return stretch.cut.clip(
            path, other.is_picture, tuple(stretch.size), stretch.place, position, part=stretch.part
        )[0]
    except MediaError as error:
        raise MediaError(f"what goes with it, {path.name}, can't be used", got=one_line(error)) from error


def _scaled_part(part: Part | None, whole: Shown, other: Shown) -> Part | None:
    """The part of another file that shows what a clip's part does, at its own size."""
    if part is None or part.crop is None:
        return part
    across, down = other.width / whole.width, other.height / whole.height
    left, top, width, height = part.crop
    crop = (round(left * across), round(top * down), round(width * across), round(height * down))
    return replace(part, crop=crop)
