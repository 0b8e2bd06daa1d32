"""Where a video cuts from one scene to the next."""

from __future__ import annotations

import importlib
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...errors import InputError

DETECTORS = ("histogram", "pyscenedetect", "none")

_BINS = 64
_GRID = 8


class CutDetector(Protocol):
    """Is shown every frame of a video and tells which of them begin a scene, some frames later."""

    def add(self, picture: np.ndarray) -> list[int]:
        """Show the next frame, uint8 (h, w, 3); gives numbers of frames, from 0, that begin a scene."""

    def finish(self) -> list[int]:
        """The numbers that are still open when the video has ended."""


def cut_detector(name: str, threshold: float | None, frame_rate: float) -> CutDetector:
    """A detector for one video.

    Args:
        name: One of `DETECTORS`.
        threshold: The detector's own; None is its default.
        frame_rate: Of the video, frames per second.

    Raises:
        InputError: If there is no such detector, it isn't installed, or it takes no such threshold.
    """
    check_detector(name, threshold)
    if name == "none":
        return NoCuts()
    settings = {} if threshold is None else {"threshold": threshold}
    if name == "pyscenedetect":
        return PySceneDetectCuts(frame_rate, **settings)
    return HistogramCuts(**settings)


def check_detector(name: str, threshold: float | None) -> None:
    """Check, before any video is opened, that there is such a detector and that it is installed.

    Raises:
        InputError: If not.
    """
    if name not in DETECTORS:
        raise InputError("unknown detector of cuts", got=repr(name), expected=", ".join(DETECTORS))
    if threshold is not None and not 0 < threshold < float("inf"):
        raise InputError("the threshold of cuts must be positive", got=threshold)
    if name == "pyscenedetect":
        _scenedetect()


class NoCuts:
    """Every video is one scene."""

    def add(self, picture: np.ndarray) -> list[int]:
        """Nothing; see `CutDetector`."""
        return []

    def finish(self) -> list[int]:
        """Nothing; see `CutDetector`."""
        return []


@dataclass(frozen=True)
class _Look:
    """What is compared of a frame: shares of brightness per channel in each quarter, summed up, and a coarse mosaic."""

    shares: np.ndarray
    mosaic: np.ndarray

    def distance(self, other: _Look) -> float:
        """0 for the same picture, 1 for black against white."""
        # Between histograms on a line the mean distance of their running sums is the earth mover's distance: unlike
        # a difference bin by bin it is small if all values move by a little.
        moved = float(np.abs(self.shares - other.shares).sum(axis=-1).mean()) / (_BINS - 1)
        return (moved + float(np.abs(self.mosaic - other.mosaic).mean())) / 2


class HistogramCuts:
    """Finds cuts by histograms of colour and a mosaic of each frame.

    A frame begins a scene if it differs from the one before by more than `threshold`, by more than `ratio` times what
    the frames around differ on average, so that fast motion isn't a cut, and if it doesn't look some frames
    later as it did before, so that a flash isn't one either. Dissolves and fades aren't found.

    Args:
        threshold: 0 to 1, where 1 is from black to white.
        ratio: Of the difference to those around.
        reach: Frames before and after that count as around; a flash may last one less.
    """

    def __init__(self, threshold: float = 0.03, ratio: float = 4.0, reach: int = 4) -> None:
        self.threshold, self.ratio, self.reach = threshold, ratio, reach
        # The look of each frame and its distance from the one before it.
        self._recent: deque[tuple[_Look, float]] = deque(maxlen=2 * reach + 2)
        self._count = 0

    def add(self, picture: np.ndarray) -> list[int]:
        """Show the next frame; see `CutDetector`."""
        look = _look(picture)
        self._recent.append((look, look.distance(self._recent[-1][0]) if self._recent else 0.0))
        self._count += 1
        return self._judged(self.reach)

    def finish(self) -> list[int]:
        """The numbers that are still open; see `CutDetector`."""
        return [number for behind in range(self.reach - 1, -1, -1) for number in self._judged(behind)]

    def _judged(self, behind: int) -> list[int]:
        """The number of the frame so many before the last, if it begins a scene."""
        at = len(self._recent) - 1 - behind
        if at < 1:
            return []
        looks = [look for look, _ in self._recent]
        steps = [step for _, step in self._recent]
        # The first frame of all has no step.
        first = max(at - self.reach, len(self._recent) - self._count + 1)
        around = steps[first:at] + steps[at + 1 : at + 1 + self.reach]
        usual = float(np.mean(around)) if around else 0.0
        # Neither the start nor the end of a flash lasts: soon it looks as before.
        later, earlier = min(at + self.reach - 1, len(looks) - 1), max(at - self.reach, 0)
        lasting = min(looks[later].distance(looks[at - 1]), looks[at].distance(looks[earlier]))
        if steps[at] >= max(self.threshold, self.ratio * usual) and lasting >= self.threshold:
            return [self._count - 1 - behind]
        return []


def _look(picture: np.ndarray) -> _Look:
    height, width = picture.shape[:2]
    # Each pixel's histogram: 3 channels in each of 4 quarters.
    quarter = 2 * (np.arange(height) * 2 // height)[:, None] + (np.arange(width) * 2 // width)
    place = (quarter[..., None] * 3 + np.arange(3)) * _BINS + picture // (256 // _BINS)
    counts = np.bincount(place.ravel(), minlength=12 * _BINS).reshape(12, _BINS)
    shares = np.cumsum(counts, axis=1) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows, columns = min(_GRID, height), min(_GRID, width)
    sums = np.add.reduceat(picture.astype(np.float32), np.arange(rows) * height // rows, axis=0)
    sums = np.add.reduceat(sums, np.arange(columns) * width // columns, axis=1)
    tall = np.diff(np.append(np.arange(rows) * height // rows, height))
    wide = np.diff(np.append(np.arange(columns) * width // columns, width))
    return _Look(shares.astype(np.float32), sums / (tall[:, None] * wide)[..., None] / 255)


class PySceneDetectCuts:
    """The adaptive detector of PySceneDetect, which compares changes of hue, saturation and brightness.

    Needs the package `scenedetect`, 0.7 or newer.

    Args:
        frame_rate: Of the video, frames per second.
        threshold: How many times the change of the frames around (`adaptive_threshold`).

    Raises:
        InputError: If the package isn't installed, or too old.
    """

    def __init__(self, frame_rate: float, threshold: float = 3.0) -> None:
        self._timecode = _scenedetect().FrameTimecode
        self._frame_rate = float(frame_rate)
        self._detector = _scenedetect().AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=0)
        self._count = 0

    def add(self, picture: np.ndarray) -> list[int]:
        """Show the next frame; see `CutDetector`."""
        time = self._timecode(self._count, self._frame_rate)
        self._count += 1
        found = self._detector.process_frame(time, np.ascontiguousarray(picture[..., ::-1]))
        return [cut.frame_num for cut in found]

    def finish(self) -> list[int]:
        """The numbers that are still open; see `CutDetector`."""
        if not self._count:
            return []
        last = self._timecode(self._count - 1, self._frame_rate)
        return [cut.frame_num for cut in self._detector.post_process(last)]


def _scenedetect() -> Any:
    try:
        module = importlib.import_module("scenedetect")
    except ImportError as error:
        raise InputError(
            "the detector pyscenedetect needs the packages scenedetect and opencv",
            got=error,
            fix="pip install 'ltx-diffusers[scenes]', or take the detector histogram",
        ) from error
    version = str(getattr(module, "__version__", "0"))
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in (*version.split("."), "0")[:2])
    if (major, minor) < (0, 7):
        raise InputError("scenedetect is too old", got=version, expected="0.7 or newer")
    return module
