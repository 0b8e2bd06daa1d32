"""The files that a video is made from, read, and made into conditions of the pipeline.

Frames are uint8 (F, H, W, 3). They are read before torch is imported, so that a bad file is answered at once, and
brought to the video's size, length and rate when these are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.video import read_image, read_video
from ..errors import InputError
from ..geometry import LTX_RATIOS, VideoSize
from .conditions import LAST, parse_span
from .settings import FILES, Settings

DEFAULT_OVERLAP = 9
"""Frames that a video and its extension share: two latents, which is what shows a motion."""

DEFAULT_DENOISE_STRENGTH = 0.6

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi")
_WHITE = 128
_WORKED_ON = ("source", "from_video", "extend", "extend_backward")


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip as it was read.

    Attributes:
        frames: uint8 (F, H, W, 3).
        rate: Frames per second; None for a single picture.
    """

    frames: np.ndarray
    rate: float | None

    def at(self, rate: float) -> np.ndarray:
        """The frames that are shown at another frame rate, so that motion keeps its speed."""
        from ..pipelines.preparation import frames_at_rate

        if self.rate is None:
            return self.frames
        return self.frames[list(frames_at_rate(len(self.frames), rate, self.rate))]


@dataclass(frozen=True, eq=False)
class Media:
    """What was read; the names are those of the settings."""

    images: tuple[np.ndarray, ...] = ()
    videos: tuple[Clip, ...] = ()
    references: tuple[Clip, ...] = ()
    extend: Clip | None = None
    extend_backward: Clip | None = None
    source: Clip | None = None
    mask: Clip | None = None
    from_video: Clip | None = None

    @property
    def followed(self) -> Clip | None:
        """The video that is worked on, whose size and frame rate the new one has unless told otherwise."""
        found = (getattr(self, name) for name in _WORKED_ON)
        return next((clip for clip in found if clip is not None), None)


def read_media(settings: Settings) -> Media:
    """Read every file that a video is made from; of the long ones that are worked on no more than is used.

    Raises:
        MediaError: If a file is missing or can't be read.
        InputError: If the mask hasn't the source's size.
    """
    files = {name: getattr(settings, name) for name in FILES}
    media = Media(
        images=tuple(_read_picture(given.file) for given in settings.images),
        videos=tuple(_read_clip(given.file) for given in settings.videos),
        references=tuple(_read_clip(given.file) for given in settings.references),
        **{
            name: None if given is None else _read_clip(given.file, **_used_part(settings, name))
            for name, given in files.items()
        },
    )
    if media.mask is not None and media.mask.frames.shape[1:3] != media.source.frames.shape[1:3]:
        raise InputError(
            "the mask must have the size of the source",
            got=_size_text(media.mask),
            expected=_size_text(media.source),
        )
    return media


def follow(settings: Settings, media: Media) -> Settings:
    """The settings with size and frame rate of the video that is worked on, where none are given.

    A source or a video to start from also gives the length. Sides are cut to multiples of 32, lengths to 8k + 1.
    """
    clip = media.followed
    if clip is None:
        return settings
    changes: dict[str, Any] = {}
    if settings.width is None:
        height, width = clip.frames.shape[1:3]
        changes["height"] = max(1, height // LTX_RATIOS.height) * LTX_RATIOS.height
        changes["width"] = max(1, width // LTX_RATIOS.width) * LTX_RATIOS.width
    if settings.frame_rate is None and clip.rate is not None:
        changes["frame_rate"] = clip.rate
    if settings.num_frames is None and (clip is media.source or clip is media.from_video):
        frames = len(clip.at(settings.frame_rate or clip.rate or 1.0))
        changes["num_frames"] = _whole_latents(frames)
    return replace(settings, **changes)


def build_arguments(settings: Settings, media: Media, size: VideoSize, frame_rate: float) -> dict[str, Any]:
    """What `LTXConditionPipeline` is called with for these files.

    Args:
        settings: Which files are given, where and how.
        media: Their contents.
        size: Frames, height and width of the video, in pixels.
        frame_rate: Frames per second of the video.

    Raises:
        InputError: If a file doesn't fit the video.
    """
    conditions = [
        *_content_conditions(settings, media, size, frame_rate),
        *_references(settings, media, size, frame_rate),
    ]
    if media.source is not None:
        conditions.append(_region(settings, media, size, frame_rate))
    arguments: dict[str, Any] = {"conditions": conditions} if conditions else {}
    if media.from_video is not None:
        arguments["initial_video"] = _fitted(settings, media.from_video, size, frame_rate)
        arguments["denoise_strength"] = settings.denoise_strength
    return arguments


def joined(settings: Settings, media: Media, frames: np.ndarray) -> np.ndarray:
    """A new video together with those that it goes on with and leads up to; what they share is shown once."""
    parts = [frames]
    size = VideoSize(*frames.shape[:3])
    if media.extend_backward is not None:
        after = _fitted(settings, media.extend_backward, size, settings.frame_rate, whole=True)
        shared = _overlap(settings, len(after))
        parts = [parts[0][: len(frames) - shared], after]
    if media.extend is not None:
        before = _fitted(settings, media.extend, size, settings.frame_rate, whole=True)
        parts = [before, parts[0][_overlap(settings, len(before)) :], *parts[1:]]
    return np.concatenate(parts)


def _content_conditions(settings: Settings, media: Media, size: VideoSize, frame_rate: float) -> list[Any]:
    """Pictures and clips at their frames, and the ends of videos that are extended."""
    from ..pipelines.media import VideoCondition

    prepared = {"fit": settings.fit or "crop", "blur": settings.blur or 0.0, "crf": settings.crf}
    built = [
        VideoCondition(image=picture, frame_index=given.frame, strength=given.strength, **prepared)
        for given, picture in zip(settings.images, media.images, strict=True)
    ]
    for given, clip in zip(settings.videos, media.videos, strict=True):
        frames = clip.at(frame_rate)
        length = _whole_latents(len(frames))
        # What ends at a frame counted from the end keeps its own end.
        frames = frames[len(frames) - length :] if given.frame < 0 else frames[:length]
        built.append(
            VideoCondition(video=frames, frame_index=given.frame, strength=given.strength, **prepared)
        )
    shared = 0
    for name, begin in (("extend", 0), ("extend_backward", LAST)):
        clip = getattr(media, name)
        if clip is None:
            continue
        frames = clip.at(frame_rate)
        overlap = _overlap(settings, len(frames))
        shared += overlap
        frames = frames[:overlap] if begin == LAST else frames[len(frames) - overlap :]
        built.append(VideoCondition(video=frames, frame_index=begin, **prepared))
    if shared >= size.frames:
        raise InputError(
            "nothing new is left in a video that extends another",
            got=f"{size.frames} frames, {shared} of them given",
            fix="raise --frames or lower --overlap",
        )
    return built


def _references(settings: Settings, media: Media, size: VideoSize, frame_rate: float) -> list[Any]:
    from ..pipelines.media import ReferenceVideo

    built = []
    for given, clip in zip(settings.references, media.references, strict=True):
        frames = clip.at(frame_rate)[: size.frames]
        built.append(
            ReferenceVideo(
                frames[: _whole_latents(len(frames))],
                given.strength,
                settings.reference_scale or 1.0,
                fit=settings.fit or "crop",
            )
        )
    return built


def _region(settings: Settings, media: Media, size: VideoSize, frame_rate: float) -> Any:
    from ..pipelines.media import RegionOfVideo

    anew = np.full(size, settings.mask is not None or settings.retake is not None)
    if media.mask is not None:
        mask = media.mask
        if mask.rate is not None:
            mask = Clip(mask.frames, media.source.rate)  # its frames are the source's, one by one
        white = _fitted(settings, mask, size, frame_rate, whole=mask.rate is None)
        anew &= white.mean(axis=3) >= _WHITE
    if settings.retake is not None:
        begin, end = parse_span(settings.retake)
        seconds = np.arange(size.frames) / frame_rate
        anew &= ((seconds >= begin) & (seconds < end))[:, None, None]
    if settings.outpaint:
        anew |= _bars(media.source, size)
    if not anew.any():
        raise InputError(
            "nothing of the source is made anew",
            got=f"{size.frames} frames of {size.width}x{size.height} at {frame_rate:g} fps",
            expected="white in --mask, frames in --retake, or another shape with --outpaint",
        )
    return RegionOfVideo(_fitted(settings, media.source, size, frame_rate), ~anew, settings.source.strength)


def _bars(source: Clip, size: VideoSize) -> np.ndarray:
    """Where a source that is fitted in whole leaves the video free, (height, width)."""
    from ..pipelines.preparation import prepare_image

    white = np.full_like(source.frames[0], 255)
    return prepare_image(white, size.height, size.width, fit="pad")[..., 0] < _WHITE


def _fitted(
    settings: Settings, clip: Clip, size: VideoSize, frame_rate: float, *, whole: bool = False
) -> np.ndarray:
    """A clip in the video's size, rate and (unless all of it is wanted) length."""
    from ..pipelines.preparation import prepare_clip

    fit = "pad" if settings.outpaint else settings.fit or "crop"
    frames = clip.at(frame_rate)
    if not whole and len(frames) < size.frames:
        raise InputError(
            "a video that is worked on is too short",
            got=f"{len(frames)} frames at {frame_rate:g} per second",
            expected=f"at least {size.frames}",
            fix="lower --frames",
        )
    return prepare_clip(frames if whole else frames[: size.frames], size.height, size.width, fit=fit)


def _overlap(settings: Settings, frames: int) -> int:
    """Frames that a video and its extension share."""
    if settings.overlap is None:
        return _whole_latents(min(frames, DEFAULT_OVERLAP))
    if settings.overlap > frames:
        raise InputError(
            "the overlap is longer than the video that is extended", got=settings.overlap, expected=frames
        )
    return settings.overlap


def _whole_latents(frames: int) -> int:
    """The largest 8k + 1 that isn't above a number of frames."""
    return (frames - 1) // LTX_RATIOS.time * LTX_RATIOS.time + 1


def _read_picture(file: str) -> np.ndarray:
    if Path(file).suffix.lower() in _VIDEOS:
        raise InputError(f"{file} isn't a picture but a video", fix="give it with --video")
    return read_image(file)


def _read_clip(file: str, **part: int) -> Clip:
    if Path(file).suffix.lower() in _PICTURES and not Path(file).is_dir():
        return Clip(read_image(file)[None], None)
    return Clip(*read_video(file, **part))


def _used_part(settings: Settings, name: str) -> dict[str, int]:
    """Which frames of a file are used, as `read_video` takes it, where that is known before it is read."""
    overlap = settings.overlap or DEFAULT_OVERLAP
    worked_on = [name for name in _WORKED_ON if getattr(settings, name) is not None]
    if settings.frame_rate is not None or len(worked_on) > 1:
        return {}  # how many frames are shown at another rate, its own rate decides
    if settings.join and name.startswith("extend"):
        return {}
    if name == "extend":
        return {"last_frames": overlap}
    length = overlap if name == "extend_backward" else settings.num_frames
    return {} if length is None else {"max_frames": length}


def _size_text(clip: Clip) -> str:
    return f"{clip.frames.shape[2]}x{clip.frames.shape[1]}"
