"""Parts of videos, decoded with PyAV: as few frames as a clip needs, from a file or from bytes in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import InputError, MediaError

# Time stamps are rounded to the container's unit of time, which may be a millisecond: as a share of a frame.
_SLACK = 0.1
_LARGEST = 2**26  # pixels of a frame; a forged header must not fill the memory

Fit = Callable[[np.ndarray], np.ndarray]
"""What is done to each picture, uint8 (H, W, 3), when it is decoded, so that large frames needn't be kept."""


@dataclass(frozen=True)
class MediaFacts:
    """What a file's header says.

    Attributes:
        width, height: In pixels, as stored: a rotation by the camera comes on top.
        num_frames: Number of frames, estimated from the duration where the header doesn't say; 1 for a picture.
        frame_rate: Average frames per second; None for a picture.
        seconds: Duration; 0 for a picture.
    """

    width: int
    height: int
    num_frames: int
    frame_rate: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Window:
    """Which frames of a video make a clip.

    Attributes:
        num_frames: Frames of the clip.
        place: Where it lies among all the places it fits at: 0 is the start of the video, 1 its end.
        frame_rate: Frames per second of the clip, by taking what is shown at each moment; None takes the video's own
            frames.
        stride: Of those frames, every so many are taken.
        start, end: Stretch of the video, in seconds, that the clip lies in; None ends with the video.
    """

    num_frames: int
    place: float = 0.0
    frame_rate: float | None = None
    stride: int = 1
    start: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        """Check the settings. Raises `InputError`."""
        if self.num_frames < 1 or self.stride < 1:
            raise InputError("frames and stride must be positive", got=f"{self.num_frames} and {self.stride}")
        if self.frame_rate is not None and not 0 < self.frame_rate < math.inf:
            raise InputError("the frame rate must be positive", got=self.frame_rate)

    def seconds(self, frame_rate: float) -> float:
        """From the clip's first frame to its last, in a video of some frame rate."""
        return (self.num_frames - 1) * self.stride / (self.frame_rate or frame_rate)

    def rate(self, frame_rate: float) -> float:
        """Frames per second of the clip, in a video of some frame rate."""
        return (self.frame_rate or frame_rate) / self.stride

    def fits(self, seconds: float, frame_rate: float) -> bool:
        """Whether a video of some duration and frame rate is long enough."""
        return self.seconds(frame_rate) <= seconds - (1 - _SLACK) / frame_rate


def probe_video(source: Path | IO[bytes]) -> MediaFacts:
    """Read a video's header, without decoding a frame.

    Raises:
        MediaError: If it can't be read, has no video stream, or doesn't say how long or how fast it is.
    """
    import av

    try:
        with _open(source) as container:
            return _facts(container, _video_stream(container))
    except (OSError, ValueError, av.FFmpegError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError("it can't be read", got=one_line(error)) from error


def count_frames(source: Path | IO[bytes]) -> MediaFacts:
    """Decode a whole video and say what is really in it; its frames are let go at once.

    Raises:
        MediaError: If it can't be read to its end, its frame size changes, or it has fewer frames than its header says.
    """
    import av

    try:
        with _open(source) as container:
            stream = _video_stream(container)
            facts, count, sizes = _facts(container, stream), 0, set()
            for frame in container.decode(stream):
                _refuse_damaged(frame)
                count += 1
                sizes.add((frame.width, frame.height))
            said = stream.frames
    except (OSError, ValueError, av.FFmpegError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError("it can't be read", got=one_line(error)) from error
    if len(sizes) > 1:
        raise MediaError("its frame size changes", expected="one size")
    if count < (said or 1):
        raise MediaError("it has fewer frames than it says", got=count, expected=said or "at least one")
    return replace(facts, num_frames=count)


def decode_clip(source: Path | IO[bytes], window: Window, fit: Fit | None = None) -> tuple[np.ndarray, float]:
    """The frames of a window, and how many of them make a second.

    The video is sought near the first frame, not read from its start.

    Args:
        source: A file, or its bytes.
        window: Which frames.
        fit: What is done to each.

    Returns:
        Frames, uint8 (F, H, W, 3), and their rate.

    Raises:
        MediaError: If the video can't be read, is too short, or changes its size.
    """
    import av

    try:
        with _open(source) as container:
            stream = _video_stream(container)
            facts = _facts(container, stream)
            chosen = _choose(container, stream, facts, window)
            frames = [_pixels(frame) if fit is None else fit(_pixels(frame)) for frame in chosen]
    except (OSError, ValueError, av.FFmpegError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError("it can't be read", got=one_line(error)) from error
    if len({frame.shape for frame in frames}) > 1:
        raise MediaError("its frame size changes", expected="one size")
    return np.stack(frames), window.rate(facts.frame_rate)


def walk_video(
    source: Path | IO[bytes], start: float = 0.0, end: float | None = None
) -> Iterator[tuple[float, Any]]:
    """Every frame of a stretch of a video, as PyAV decodes it, with its time in seconds from the video's start.

    Args:
        source: A file, or its bytes.
        start: Where the stretch begins, in seconds.
        end: The first moment after it; None goes on to the video's end.

    Raises:
        MediaError: If the video can't be read, a frame is damaged, or there are fewer frames than its header says.
    """
    import av

    count = 0
    try:
        with _open(source) as container:
            stream = _video_stream(container)
            slack = _SLACK / (_facts(container, stream).frame_rate or 1.0)
            for time, frame in _timed(container, stream, start, None if end is None else end - slack):
                if time >= start - slack:
                    _refuse_damaged(frame)
                    yield time, frame
                    count += 1
            said = stream.frames if start == 0 and end is None else 0
    except (OSError, ValueError, av.FFmpegError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError("it can't be read", got=one_line(error)) from error
    if count < said:
        raise MediaError("it has fewer frames than it says", got=count, expected=said)


def one_line(error: BaseException) -> str:
    """Why something failed, in one line, without FFmpeg's error number and the path."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


def _open(source: Path | IO[bytes]) -> Any:
    import av

    return av.open(str(source) if isinstance(source, Path) else source, metadata_errors="replace")


def _video_stream(container: Any) -> Any:
    if not container.streams.video:
        raise MediaError("it has no video stream")
    stream = container.streams.video[0]
    stream.thread_count = 1  # readers run in many processes
    return stream


def _facts(container: Any, stream: Any) -> MediaFacts:
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise MediaError("it has no frame rate")
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / 1_000_000  # FFmpeg's unit of time
    else:
        seconds = stream.frames / float(rate)
    if container.format.name == "gif" and stream.frames and seconds > 0:
        rate = stream.frames / seconds  # FFmpeg's is that of the first delay alone
    num_frames = stream.frames or round(seconds * float(rate))
    if num_frames < 1 or seconds <= 0:
        raise MediaError("it doesn't say how long it is")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > _LARGEST:
        raise MediaError(
            "its frames are too large", got=f"{width}x{height}", expected=f"{_LARGEST} pixels at most"
        )
    return MediaFacts(width, height, num_frames, float(rate), seconds)


def _choose(container: Any, stream: Any, facts: MediaFacts, window: Window) -> Iterator[Any]:
    """The decoded frames that a window wants, one after the other."""
    rate = facts.frame_rate
    length = window.seconds(rate)
    seconds = (facts.seconds if window.end is None else min(window.end, facts.seconds)) - window.start
    if not window.fits(seconds, rate):
        raise MediaError(
            "it is too short", got=f"{seconds:g} s", expected=f"at least {length + 1 / rate:.3g} s"
        )
    start = window.start + window.place * max(0.0, seconds - 1 / rate - length)
    times = _timed(container, stream, start, None if window.end is None else window.end - _SLACK / rate)
    choose = _own_frames if window.frame_rate is None else _shown_at
    count = 0
    for frame in choose(times, start, window, _SLACK / rate):
        yield frame
        count += 1
        if count == window.num_frames:
            return
    raise MediaError("it ends before the clip does", got=f"{count} frames", expected=window.num_frames)


def _timed(container: Any, stream: Any, start: float, end: float | None) -> Iterator[tuple[float, Any]]:
    """Decoded frames with their times in seconds from the video's start: some before `start`, all before `end`."""
    origin = float((stream.start_time or 0) * stream.time_base)
    if start > 0:
        container.seek(round((origin + start) / stream.time_base), stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.time is None:
            raise MediaError("a frame has no time stamp")
        if end is not None and frame.time - origin >= end:
            return
        yield frame.time - origin, frame


def _own_frames(
    pictures: Iterator[tuple[float, Any]], start: float, window: Window, slack: float
) -> Iterator[Any]:
    passed = 0
    for time, frame in pictures:
        if time < start - slack:
            continue
        if passed % window.stride == 0:
            yield frame
        passed += 1


def _shown_at(
    pictures: Iterator[tuple[float, Any]], start: float, window: Window, slack: float
) -> Iterator[Any]:
    """At each moment of the clip the frame that is on the screen."""
    step = window.stride / window.frame_rate
    count, shown, last = 0, None, -math.inf
    for time, frame in pictures:
        while shown is not None and start + count * step < time - slack:
            yield shown
            count += 1
        shown, last = frame, time
    while start + count * step <= last + slack:
        yield shown
        count += 1


def _refuse_damaged(frame: Any) -> None:
    """Decoders fill holes with something; they say so."""
    if frame.is_corrupt:
        raise MediaError("a frame is damaged")


def _pixels(frame: Any) -> np.ndarray:
    _refuse_damaged(frame)
    picture = frame.to_ndarray(format="rgb24", threads=1)
    # FFmpeg counts counter-clockwise, as np.rot90 does.
    return np.rot90(picture, round(frame.rotation / 90)) if frame.rotation else picture
