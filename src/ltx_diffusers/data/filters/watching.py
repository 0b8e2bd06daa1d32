"""A picture or video watched once, from its start to its end, and told scene by scene."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import InputError, MediaError
from ..decoding import MediaFacts, one_line, probe_video, walk_video
from ..media_entries import MediaEntry
from ..video import read_image
from .cuts import check_detector, cut_detector
from .scene import LUMA, Scene

THUMBNAIL = 128
"""Longer side of a thumbnail in pixels, at most."""

THUMBNAIL_RATE = 8.0
"""Thumbnails kept per second, about."""

_STILL_EVERY = 1.0  # seconds, at first
_MOST_STILLS = 16
_SLACK = 0.1  # of a frame, by which time stamps may be rounded
_LAG = 10  # frames after which every detector has told what it found


@dataclass(frozen=True)
class Watching:
    """How videos are divided into scenes.

    Attributes:
        cuts: One of `cuts.DETECTORS`.
        cut_threshold: The detector's own; None is its default.
        max_seconds: A longer scene is divided evenly; None never divides. Bounds the memory as well.

    Raises:
        InputError: If a value can't be used, or the detector isn't installed.
    """

    cuts: str = "histogram"
    cut_threshold: float | None = None
    max_seconds: float | None = 60.0

    def __post_init__(self) -> None:
        """Check the settings. Raises `InputError`."""
        check_detector(self.cuts, self.cut_threshold)
        if self.max_seconds is not None and not 1 <= self.max_seconds < math.inf:
            raise InputError("the longest scene must be at least a second", got=self.max_seconds)


def watch(entry: MediaEntry, settings: Watching) -> tuple[MediaFacts, list[Scene]]:
    """What an entry's header says, and its scenes in order: one of a picture, those within its part of a video.

    Raises:
        MediaError: If it can't be read to its end, or changes its size.
    """
    try:
        source = entry.open()
        if entry.is_picture:
            return _watch_picture(entry, source)
        facts = probe_video(source)
        if not isinstance(source, Path):
            source.seek(0)
        scenes = list(_scenes(entry, source, facts, settings))
    except OSError as error:
        raise MediaError("it can't be read", got=one_line(error)) from error
    except MediaError:
        raise
    except Exception as error:  # decoders meet damaged files with errors of any kind
        raise MediaError("it can't be read", got=f"{type(error).__name__}: {one_line(error)}") from error
    if not scenes:
        raise MediaError("there are no frames", got=f"seconds {entry.part}" if entry.part else None)
    return facts, scenes


def _watch_picture(entry: MediaEntry, source: Path | IO[bytes]) -> tuple[MediaFacts, list[Scene]]:
    picture = read_image(source)
    height, width = picture.shape[:2]
    scene = Scene(
        caption=entry.caption,
        is_picture=True,
        width=width,
        height=height,
        times=np.zeros(1),
        thumbnails=_shrunk(picture)[None],
        stills=(np.rint(picture @ LUMA).astype(np.uint8),),
        still_times=(0.0,),
    )
    return MediaFacts(width, height, 1), [_in_part(scene, entry)]


def _in_part(scene: Scene, entry: MediaEntry) -> Scene:
    """The scene with the part of its picture that the entry is about."""
    if entry.part is None or entry.part.crop is None:
        return scene
    return scene.cropped(entry.part.checked_crop(scene.width, scene.height))


def _shrunk(picture: np.ndarray) -> np.ndarray:
    from PIL import Image

    height, width = picture.shape[:2]
    size = _thumbnail_size(width, height)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _thumbnail_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, THUMBNAIL / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _scenes(
    entry: MediaEntry, source: Path | IO[bytes], facts: MediaFacts, settings: Watching
) -> Iterator[Scene]:
    start, end = (0.0, None) if entry.part is None else (entry.part.start, entry.part.end)
    rate = facts.frame_rate or 1.0
    detector = cut_detector(settings.cuts, settings.cut_threshold, rate)
    kept = _Kept(entry, rate)
    eye = _Eye()
    begins = start  # of the scene that is being watched
    longest = settings.max_seconds
    patience = None if longest is None else 2 * longest + _LAG / rate
    time = None
    for time, frame in walk_video(source, start, end):
        thumbnail = eye.thumbnail(frame)
        kept.add(time, thumbnail, frame, eye)
        for number in detector.add(thumbnail):
            yield from kept.scenes(begins, begins := kept.time_of(number), longest)
        # A long scene is given piece by piece. What is kept back is enough to divide the rest evenly.
        if patience is not None and time - begins >= patience:
            yield from kept.scenes(begins, begins := begins + longest, longest)
    if time is None:
        return
    for number in detector.finish():
        yield from kept.scenes(begins, begins := kept.time_of(number), longest)
    # The file's duration may be that of its sound.
    ending = time + 1 / rate
    yield from kept.scenes(begins, ending if end is None else min(ending, end), longest)


class _Eye:
    """Turns decoded frames into thumbnails and stills; all frames of a video must have one size."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def thumbnail(self, frame: Any) -> np.ndarray:
        """A small picture, uint8 (h, w, 3), as the video is shown. Raises `MediaError` if the size changed."""
        if self._size not in (None, (frame.width, frame.height)):
            raise MediaError("its frame size changes", expected="one size")
        self._size = (frame.width, frame.height)
        width, height = _thumbnail_size(*self._size)
        small = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA")
        return _turned(small.to_ndarray(), frame)

    def still(self, frame: Any) -> np.ndarray:
        """The whole picture in grey, uint8 (H, W), as the video is shown."""
        grey = self._reformatter.reformat(frame, format="gray")
        return _turned(grey.to_ndarray(), frame)


def _turned(picture: np.ndarray, frame: Any) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90))) if frame.rotation else picture


class _Kept:
    """Thumbnails and stills of what was watched and not yet told."""

    def __init__(self, entry: MediaEntry, rate: float) -> None:
        self._entry, self._rate = entry, rate
        self._slack = _SLACK / rate
        self._frames: list[float] = []  # times of all frames from the number `_first` on
        self._first = 0
        self._thumbnails: list[tuple[float, np.ndarray]] = []
        self._stills: list[tuple[float, np.ndarray]] = []
        self._still_every = _STILL_EVERY
        self._size = (1, 1)  # width and height, as the video is shown
        self._thumbnail_shape = (1, 1, 3)

    def add(self, time: float, thumbnail: np.ndarray, frame: Any, eye: _Eye) -> None:
        self._frames.append(time)
        sizes = (frame.width, frame.height)
        self._size = sizes[::-1] if round(frame.rotation / 90) % 2 else sizes
        self._thumbnail_shape = thumbnail.shape
        if not self._thumbnails or time - self._thumbnails[-1][0] >= 1 / THUMBNAIL_RATE - self._slack:
            self._thumbnails.append((time, thumbnail))
        if not self._stills or time - self._stills[-1][0] >= self._still_every - self._slack:
            self._stills.append((time, eye.still(frame)))
            if len(self._stills) > _MOST_STILLS:
                self._stills = self._stills[::2]
                self._still_every *= 2

    def time_of(self, number: int) -> float:
        """When a frame is shown, by its number from the first one watched."""
        return self._frames[number - self._first]

    def scenes(self, start: float, end: float, longest: float | None) -> Iterator[Scene]:
        """What is kept of a stretch as scenes, and forget it and what came before."""
        pieces = 1 if longest is None else max(1, math.ceil((end - start) / longest - 1e-9))
        edges = [start + (end - start) * piece / pieces for piece in range(pieces)] + [end]
        for first, last in pairwise(edges):
            scene = self._scene(first, last)
            if scene is not None:
                yield scene
        gone = sum(time < end - self._slack for time in self._frames)
        self._frames, self._first = self._frames[gone:], self._first + gone
        self._thumbnails = [one for one in self._thumbnails if one[0] >= end - self._slack]
        self._stills = [one for one in self._stills if one[0] >= end - self._slack]
        self._still_every = _STILL_EVERY

    def _scene(self, start: float, end: float) -> Scene | None:
        def within(time: float) -> bool:
            return start - self._slack <= time < end - self._slack

        frames = [time for time in self._frames if within(time)]
        if not frames:
            return None
        thumbnails = [one for one in self._thumbnails if within(one[0])]
        stills = [one for one in self._stills if within(one[0])]
        scene = Scene(
            caption=self._entry.caption,
            start=start,
            end=end,
            num_frames=len(frames),
            frame_rate=self._rate,
            width=self._size[0],
            height=self._size[1],
            times=np.array([time for time, _ in thumbnails]),
            thumbnails=np.array([one for _, one in thumbnails], np.uint8).reshape(-1, *self._thumbnail_shape),
            stills=tuple(picture for _, picture in stills),
            still_times=tuple(time for time, _ in stills),
        )
        return _in_part(scene, self._entry)
