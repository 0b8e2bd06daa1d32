"""One picture or video of a set: where its bytes are, and what is known of it before it is read."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import MediaError

if TYPE_CHECKING:
    from .row_conditions import RowCondition

PICTURE_ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))
VIDEO_ENDINGS = frozenset((".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif", ".ts"))

CAPTION_FIELDS = ("caption", "text", "prompt")
"""Fields of a list or of metadata that hold what a clip shows; the first that is there counts."""

PART_FIELDS = ("start", "end", "crop")
"""Fields of a list or of metadata that hold which part of a picture or video is meant."""

FACT_FIELDS = ("fps", "frame_rate", "duration", "seconds", "width", "height")
"""What is kept of a list's or metadata's other fields."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a picture or video an entry is about; what lies outside is never seen.

    Attributes:
        start: Where it begins, in seconds from the start of the video.
        end: Where it ends, in seconds: the first frame that is not in it. None: at the video's end.
        crop: Left, top, width and height in pixels of the picture as it is shown. None: the whole picture.
    """

    start: float = 0.0
    end: float | None = None
    crop: tuple[int, int, int, int] | None = None

    def seconds(self, whole: float) -> float:
        """Its duration within a video of some duration; not positive if it lies behind the video's end."""
        return (whole if self.end is None else min(self.end, whole)) - self.start

    def checked_crop(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The crop, or the whole picture if there is none.

        Raises:
            MediaError: If it stands over a picture of this size.
        """
        left, top, wide, tall = self.crop or (0, 0, width, height)
        if left + wide > width or top + tall > height:
            raise MediaError("its crop stands over the picture", got=self.crop, expected=f"{width}x{height}")
        return left, top, wide, tall


@dataclass(frozen=True, slots=True)
class MediaEntry:
    """A picture or video, as a file or as a member of a tar.

    Attributes:
        name: Its path as the user knows it, in an archive as "shard.tar/member".
        key: What it is called within its set, without ending; decides the split.
        path: The file, or the archive that holds it.
        caption: What it shows; "" if nobody wrote that.
        span: First byte and number of bytes within an archive; None for a file of its own.
        facts: What a list or metadata says of it, such as `fps` and `duration` in seconds. Not checked.
        split: "train" or "held-out" if a list says so.
        references: Files of what it is made from: for training in context, at the same moments.
        part: Which part of it is meant; None: all.
        mask: File of a picture or video whose bright part is what is made anew; None: everything.
        conditions: What clips of it are given in training; () for nothing, None if nobody says.
    """

    name: str
    key: str
    path: Path
    caption: str = ""
    span: tuple[int, int] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None
    references: tuple[Path, ...] = ()
    mask: Path | None = None
    part: Part | None = None
    conditions: tuple[RowCondition, ...] | None = None

    @property
    def is_picture(self) -> bool:
        """Whether its ending says that it is a picture."""
        return is_picture(self.name)

    @property
    def place(self) -> tuple[Any, ...]:
        """Where its bytes are: the same for entries that are parts of one file."""
        return (self.path, self.span)

    @property
    def is_file(self) -> bool:
        """Whether it is a file of its own, which a list can name."""
        return self.span is None

    @property
    def files_beside(self) -> tuple[Path, ...]:
        """Files that go with it: references, the mask, and those of its conditions."""
        given = [condition.file for condition in self.conditions or ()]
        return tuple(file for file in (*self.references, self.mask, *given) if file is not None)

    def open(self) -> Path | IO[bytes]:
        """What to read it from: the file's path, or the member's bytes in memory.

        Raises:
            OSError: If the archive is gone, or shorter than it was.
        """
        if self.span is None:
            return self.path
        start, size = self.span
        with self.path.open("rb") as archive:
            archive.seek(start)
            content = archive.read(size)
        if len(content) < size:
            raise OSError(f"the archive ends after {len(content)} of {size} bytes")
        return io.BytesIO(content)


def is_media(name: str) -> bool:
    """Whether a name's ending is one of a picture or a video."""
    return _ending(name) in PICTURE_ENDINGS | VIDEO_ENDINGS


def is_picture(name: str) -> bool:
    """Whether a name's ending is one of a picture."""
    return _ending(name) in PICTURE_ENDINGS


def caption_in(facts: Mapping[str, Any]) -> str:
    """The caption among the fields of a list or of metadata; "" if there is none."""
    found = (facts[name] for name in CAPTION_FIELDS if isinstance(facts.get(name), str))
    return next(found, "").strip()


def facts_in(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What is worth keeping of the fields of a list or of metadata."""
    return {name: fields[name] for name in FACT_FIELDS if name in fields}


def part_in(facts: Mapping[str, Any]) -> Part | None:
    """The part that the fields `start`, `end` and `crop` of a list or of metadata name; None if they name none.

    Times are seconds; a crop is a list of left, top, width and height in pixels, or text with these four.

    Raises:
        ValueError: If a field can't be used.
    """
    said = {name: facts[name] for name in PART_FIELDS if facts.get(name) not in (None, "")}
    if not said:
        return None
    start = _seconds("start", said.get("start", 0.0))
    end = _seconds("end", said["end"]) if "end" in said else None
    if end is not None and end <= start:
        raise ValueError(f"it ends at {end:g} s, not after its start at {start:g} s")
    return Part(start, end, _crop(said["crop"]) if "crop" in said else None)


def _seconds(name: str, value: object) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"its {name} is {str(value)[:50]!r}, no number of seconds")
    return seconds


def _crop(value: object) -> tuple[int, int, int, int]:
    sides = re.findall(r"-?\d+(?:\.\d+)?", value) if isinstance(value, str) else value
    try:
        numbers = [float(side) for side in sides]  # type: ignore[union-attr]
        box = tuple(int(number) for number in numbers)
    except (TypeError, ValueError, OverflowError):
        numbers, box = [], ()
    if len(box) != 4 or list(box) != numbers or min(box[:2]) < 0 or min(box[2:]) < 1:
        raise ValueError(f"its crop is {str(value)[:50]!r}, not left, top, width and height in pixels")
    return box


def number_in(facts: Mapping[str, Any], *names: str) -> float | None:
    """The first positive number among some fields; None if there is none. Text that is a number counts as one."""
    for name in names:
        try:
            value = float(facts.get(name))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if 0 < value < float("inf"):
            return value
    return None


def _ending(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot >= 0 else ""
