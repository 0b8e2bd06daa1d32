"""The clips that a measurement is made on: a data reader by name, or all files of a set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data import data_readers
from ..data.clips import Clip, ClipReader, skipped_by
from ..data.media_clips import MediaClips
from ..data.media_entries import MediaEntry, is_media
from ..data.media_sets import find_entries
from ..errors import InputError, UnknownNameError
from ..training.clips import open_clips


@dataclass(frozen=True)
class ClipRequest:
    """Which clips, as `open_clips` takes it; a size that LTX-Video couldn't take is fine.

    Attributes:
        reader: Name of a registered data reader.
        num_frames, height, width: Of a clip.
        seed: Of the set.
        options: Of the reader.
    """

    reader: str
    num_frames: int = 17
    height: int = 96
    width: int = 96
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


def open_clip_set(
    data: str | os.PathLike,
    num_frames: int = 17,
    height: int = 96,
    width: int = 96,
    split: Literal["all", "train", "held-out"] = "all",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> ClipReader:
    """A reader of clips to measure on.

    Args:
        data: A picture or video, a folder, list or tar of such, or the name of a data reader that needs no files.
        num_frames, height, width: Of a clip.
        split: "all" takes every file once, each from its middle; of a reader without files, the held-out clips.
        seed: Of a reader without files, and of the order of a split of files.
        options: Of the reader.

    Raises:
        InputError: If there is no such set, or an option can't be used.
        MediaError: If files can't be read.
        UnknownNameError: If there is neither such a file or folder nor such a data reader.
    """
    options = dict(options or {})
    path = Path(data)
    if str(data) not in data_readers and not path.exists():
        raise UnknownNameError(
            f"there is nothing at {data}, and no data reader of that name",
            expected=f"a picture, a video, a folder, list or tar of them, or one of {', '.join(data_readers.list())}",
        )
    if str(data) in data_readers:
        chosen = "held-out" if split == "all" else split
        return open_clips(ClipRequest(str(data), num_frames, height, width, seed, options), chosen)
    if path.is_file() and is_media(path.name):
        entries, problems = [MediaEntry(path.name, path.stem, path)], []
    else:
        entries, problems = find_entries(path)
    if split == "all":
        # Held-out clips come from the middle, without chance.
        entries, split = [replace(entry, split="held-out") for entry in entries], "held-out"
    return MediaClips(entries, problems, num_frames, height, width, split, seed, **options)


def distinct_clips(reader: ClipReader, count: int) -> Iterator[Clip]:
    """The first clips of a reader, at most `count`; of files, each file at most once.

    Raises:
        InputError: If `count` isn't positive.
    """
    if count < 1:
        raise InputError("the number of clips must be positive", got=count)
    if not isinstance(reader, MediaClips):
        for number in range(count):
            yield reader[number]
        return
    seen: set[str] = set()
    for number in range(reader.num_entries):
        clip = reader[number]
        # Where a file is broken another takes its number, which may have come before or come again.
        if clip.name not in seen:
            seen.add(clip.name)
            yield clip
        if len(seen) == count:
            return


def count_clips(reader: ClipReader, count: int) -> int:
    """How many clips `distinct_clips` gives if none is broken."""
    return min(count, reader.num_entries) if isinstance(reader, MediaClips) else count


def left_out(reader: ClipReader) -> list[str]:
    """What couldn't be used, in words."""
    return [str(problem) for problem in skipped_by(reader)]


def clips_of(clips: Iterable[Clip]) -> list[np.ndarray]:
    """The frames of clips."""
    return [clip.frames for clip in clips]
