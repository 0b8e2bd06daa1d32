"""How clips are cut out of pictures and videos: which frames, which part, which size."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from ..errors import InputError, MediaError
from .decoding import Window, decode_clip, one_line
from .media_entries import MediaEntry, Part, number_in
from .pictures import MIDDLE, crop_frames, fit_frames
from .video import read_image

_CHOICES = {"resize": ("cover", "none"), "stills": ("all", "pictures", "videos")}


@dataclass(frozen=True)
class Cut:
    """Settings of what is cut out of each picture or video.

    Attributes:
        frame_rate: Frames per second of a clip, by taking the frame that is shown at each moment; None takes the
            video's own frames.
        stride: Of those frames, every so many are taken.
        resize: "cover" shrinks to the clip's size, keeping proportions, and cuts what stands over; "none" cuts a part
            out of the frames as they are.
        upscale: Whether "cover" may also enlarge; otherwise what is smaller than the clip is left out.
        stills: Where clips of one frame come from.
        held_out_share: Share of the entries that are held out.

    Raises:
        InputError: If a value can't be used.
    """

    frame_rate: float | None = None
    stride: int = 1
    resize: Literal["cover", "none"] = "cover"
    upscale: bool = False
    stills: Literal["all", "pictures", "videos"] = "all"
    held_out_share: float = 0.05

    def __post_init__(self) -> None:
        """Check the settings. Raises `InputError`."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name} of a data reader is unknown",
                    got=repr(getattr(self, name)),
                    expected=", ".join(choices),
                )
        if not isinstance(self.upscale, bool):
            raise InputError("upscale must be true or false", got=repr(self.upscale))
        if not _is_number(self.held_out_share) or not 0 < self.held_out_share < 1:
            raise InputError("held_out_share must lie between 0 and 1", got=repr(self.held_out_share))
        if not isinstance(self.stride, int) or isinstance(self.stride, bool) or self.stride < 1:
            raise InputError("stride must be a positive number of frames", got=repr(self.stride))
        if self.frame_rate is not None and (
            not _is_number(self.frame_rate) or not 0 < self.frame_rate < math.inf
        ):
            raise InputError("frame_rate must be positive", got=repr(self.frame_rate))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Cut:
        """Settings by name.

        Raises:
            InputError: If there is no such setting, with near names, or a value can't be used.
        """
        names = [field.name for field in fields(cls)]
        for name in options:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=2)
                raise InputError(
                    f"unknown option {name!r} of the data reader",
                    expected=" or ".join(near) if near else f"one of {', '.join(names)}",
                )
        return cls(**options)

    def window(self, num_frames: int, place: float = 0.0, part: Part | None = None) -> Window:
        """The frames of a clip at a place of the video, or of a part of it: 0 is its start, 1 its end."""
        part = part or Part()
        return Window(num_frames, place, self.frame_rate, self.stride, part.start, part.end)

    def takes(self, entry: MediaEntry, num_frames: int) -> bool:
        """Whether clips of so many frames may come from an entry, by its kind and what a list says of its length."""
        if entry.is_picture:
            return num_frames == 1 and self.stills != "videos"
        if num_frames == 1 and self.stills == "pictures":
            return False
        seconds = number_in(entry.facts, "duration", "seconds")
        rate = number_in(entry.facts, "fps", "frame_rate")
        if seconds is None and entry.part is not None and entry.part.end is not None:
            seconds = entry.part.end
        if seconds is None or rate is None:
            return True
        return self.window(num_frames).fits((entry.part or Part()).seconds(seconds), rate)

    def picture(
        self, picture: np.ndarray, height: int, width: int, position: tuple[float, float] = MIDDLE
    ) -> np.ndarray:
        """The part of a picture, uint8 (H, W, 3), that a clip shows, in the clip's size.

        Raises:
            MediaError: If the picture is too small.
        """
        old_height, old_width = picture.shape[:2]
        may_enlarge = self.upscale and self.resize == "cover"
        if not may_enlarge and (old_height < height or old_width < width):
            raise MediaError(
                "it is too small", got=f"{old_width}x{old_height}", expected=f"at least {width}x{height}"
            )
        fit = fit_frames if self.resize == "cover" else crop_frames
        return fit(picture, height, width, position)

    def clip(
        self,
        source: Path | IO[bytes],
        is_picture: bool,
        size: tuple[int, int, int],
        place: float = MIDDLE[0],
        position: tuple[float, float] = MIDDLE,
        part: Part | None = None,
    ) -> tuple[np.ndarray, float | None]:
        """Read a clip: its frames, uint8 (F, H, W, 3), and their rate per second, None for a picture.

        Args:
            source: A file, or its bytes.
            is_picture: Whether it is a picture; then the clip has one frame.
            size: Frames, height and width of the clip.
            place: Which stretch of a video: 0 is its start, 1 its end.
            position: Which part of the picture.
            part: The only part that may be seen; place and position are within it.

        Raises:
            MediaError: If it can't be read, or is too short or too small.
        """
        num_frames, height, width = size

        def fit(picture: np.ndarray) -> np.ndarray:
            if part is not None and part.crop is not None:
                left, top, wide, tall = part.checked_crop(picture.shape[1], picture.shape[0])
                picture = picture[top : top + tall, left : left + wide]
            return self.picture(picture, height, width, position)

        try:
            if is_picture:
                return fit(read_image(source))[None], None
            return decode_clip(source, self.window(num_frames, place, part), fit)
        except MediaError:
            raise
        except Exception as error:  # decoders meet damaged files with errors of any kind
            raise MediaError("it can't be read", got=f"{type(error).__name__}: {one_line(error)}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
