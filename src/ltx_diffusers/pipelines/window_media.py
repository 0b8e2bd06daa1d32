"""What is given to a long video, dealt out to its windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import InputError
from ..geometry import CompressionRatios, VideoSize
from .images import split_images
from .media import Given, ReferenceVideo, RegionOfVideo, VideoCondition, checked_conditions
from .windows import Window


def deal_conditions(
    conditions: Sequence[Any], size: VideoSize, ratios: CompressionRatios, windows: Sequence[Window]
) -> list[list[Given]]:
    """The conditions of each window, at the frames where they are in the window.

    A picture or a clip is given to the window that makes its frames; later windows see what became of it. Of a region
    or a reference each window gets its span.

    Args:
        conditions: Those of the whole video, as `LTXConditionPipeline` takes them.
        size: Frames, height and width of the whole video, in pixels.
        ratios: Compression of the VAE.
        windows: Of the whole video.

    Raises:
        InputError: If a condition can't be used, or a clip goes on beyond the window in which it begins.
    """
    dealt: list[list[Given]] = [[] for _ in windows]
    for entry in checked_conditions(conditions, size, ratios):
        if isinstance(entry, VideoCondition):
            number = _home(entry, windows, ratios.time)
            first, _ = windows[number].frames(ratios.time)
            dealt[number].append(replace(entry, frame_index=entry.frame_index - first))
            continue
        for given, window in zip(dealt, windows, strict=True):
            given.append(_span(entry, window, size.frames, ratios.time))
    return dealt


def deal_video(video: Any, num_frames: int, windows: Sequence[Window], ratio: int) -> list[Any]:
    """Each window's span of a video.

    Args:
        video: A list of pictures, or an array (F, H, W, 3).
        num_frames: Frames of the whole video.
        windows: Of the whole video.
        ratio: Frames for a latent.

    Raises:
        InputError: If the video has another length.
    """
    if len(video) != num_frames:
        raise InputError(
            "initial_video has another length than the video", got=len(video), expected=num_frames
        )
    return [_cut(video, window, ratio) for window in windows]


def _home(entry: VideoCondition, windows: Sequence[Window], ratio: int) -> int:
    """Number of the window that makes a picture's or clip's frames."""
    begin = entry.frame_index
    number = next(index for index, window in enumerate(windows) if begin <= window.frames(ratio)[1])
    length = 1 if entry.video is None else len(split_images(entry.video))
    last = windows[number].frames(ratio)[1]
    if begin + length - 1 > last:
        ends = ", ".join(str(window.frames(ratio)[1]) for window in windows)
        raise InputError(
            "a clip must lie within the frames that one window makes",
            got=f"{length} frames at frame {begin}, where the windows end with the frames {ends}",
            fix="move or shorten the clip, or take longer windows",
        )
    return number


def _span(entry: Given, window: Window, num_frames: int, ratio: int) -> Given:
    if isinstance(entry, RegionOfVideo):
        return replace(entry, video=_cut(entry.video, window, ratio), keep=_cut(entry.keep, window, ratio))
    if not isinstance(entry, ReferenceVideo):
        raise InputError("a long video can't take this condition", got=type(entry).__name__)
    length = len(split_images(entry.video))
    if length == 1:  # a picture, for every window
        return entry
    if length != num_frames:
        raise InputError(
            "the reference of a long video is a picture, or as long as the video",
            got=f"{length} frames",
            expected=f"1 or {num_frames}",
        )
    return replace(entry, video=_cut(entry.video, window, ratio))


def _cut(video: Any, window: Window, ratio: int) -> Any:
    first, last = window.frames(ratio)
    return video[first : last + 1]
