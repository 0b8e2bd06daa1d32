"""Clips from a list: a CSV, JSON or JSONL file that names pictures and videos, with captions."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import MediaError
from . import data_readers
from .clips import Problem
from .media_clips import MediaClips
from .media_entries import MediaEntry, caption_in, facts_in, is_media, part_in
from .moving_shapes import Split
from .row_conditions import conditions_in

PATH_FIELDS = ("path", "file", "file_name", "file_path", "video", "video_path", "image")
"""Columns that hold the file; the first that a list has counts."""

REFERENCE_FIELDS = ("reference", "references", "reference_path", "reference_video")
"""Columns that hold what a clip is made from: a file, or a list of them; the first that a list has counts."""

MASK_FIELDS = ("mask", "mask_path", "mask_video")
"""Columns that hold the mask of what is made anew; the first that a list has counts."""

LIST_ENDINGS = (".csv", ".tsv", ".json", ".jsonl")
SPLITS = {
    "train": "train",
    "held-out": "held-out",
    "validation": "held-out",
    "val": "held-out",
    "test": "held-out",
}
"""What a column `split` may say."""

_LONGEST_FIELD = 2**24


@data_readers.register("list")
class ListClips(MediaClips):
    """Pictures and videos named by a CSV, JSON or JSONL file, with their captions.

    A row has a column for the file (`PATH_FIELDS`) and may have one for the caption (`caption`, `text` or `prompt`),
    for the split (`split`), and `fps` with `duration` of the whole file in seconds, by which videos that are too short
    are passed over without being opened. `start` and `end` in seconds and `crop` (left, top, width, height in pixels)
    name the part of a file that a row is about; several rows may name parts of one file. What a clip is made from
    (`REFERENCE_FIELDS`) and which part is made anew (`MASK_FIELDS`) is read at the clip's own moments. `conditions`
    says which frames a clip is given in training (`row_conditions`).

    Args:
        num_frames, height, width, split, seed: See `ClipReader`.
        path: The list.
        root: Where the files are; by default the list's own folder.
        path_column, caption_column: Names of those columns, if they are others.
        settings: Those of `Cut`, by name.

    Raises:
        InputError: As `MediaClips`.
        MediaError: As `read_list`.
    """

    def __init__(
        self,
        num_frames: int = 17,
        height: int = 96,
        width: int = 96,
        split: Split = "train",
        seed: int = 0,
        *,
        path: str | os.PathLike,
        root: str | os.PathLike | None = None,
        path_column: str | None = None,
        caption_column: str | None = None,
        **settings: Any,
    ) -> None:
        entries, problems = read_list(path, root, path_column=path_column, caption_column=caption_column)
        super().__init__(entries, problems, num_frames, height, width, split, seed, **settings)


def read_list(
    path: str | os.PathLike,
    root: str | os.PathLike | None = None,
    *,
    path_column: str | None = None,
    caption_column: str | None = None,
) -> tuple[list[MediaEntry], list[Problem]]:
    """Read a list of pictures and videos, and say which of its rows are of no use.

    Args:
        path: A .csv or .tsv file with a header, a .json file with a list of objects, or a .jsonl file with an object
            per line.
        root: What the list's paths are relative to; by default its own folder.
        path_column, caption_column: Names of those columns, if they are others than `PATH_FIELDS` and
            `CAPTION_FIELDS`.

    Returns:
        The usable rows in the list's order, and the problems. Whether a file exists is only seen when it is read.

    Raises:
        MediaError: If the list can't be read, has another ending, or has no usable row.
    """
    path = Path(path)
    if path.suffix.lower() not in LIST_ENDINGS:
        raise MediaError("lists end in another way", got=path, expected=", ".join(LIST_ENDINGS))
    root = path.parent if root is None else Path(root)
    entries: list[MediaEntry] = []
    problems: list[Problem] = []
    try:
        for place, row in _rows(path):
            try:
                entries.append(_entry(row, root, path_column, caption_column))
            except (ValueError, TypeError) as error:
                problems.append(Problem(f"{path.name}, {place}", str(error)))
    except OSError as error:
        raise MediaError(f"the list {path} can't be read", got=error.strerror or error) from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise MediaError(f"the list {path} can't be read", got=str(error)[:200]) from error
    if not entries:
        raise MediaError(
            f"the list {path} names no pictures or videos", got=problems[0] if problems else "no rows"
        )
    return entries, problems


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Each row with words that say where it is. A row of JSONL that isn't JSON comes as a `ValueError`."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"line {number}", _parsed(line)
    elif kind == ".json":
        rows = json.loads(path.read_bytes())
        if isinstance(rows, dict):  # a single object that holds the list
            lists = [value for value in rows.values() if isinstance(value, list)]
            rows = lists[0] if len(lists) == 1 else rows
        if not isinstance(rows, list):
            raise ValueError("it must hold a list of objects")
        for number, row in enumerate(rows, 1):
            yield f"row {number}", row
    else:
        csv.field_size_limit(_LONGEST_FIELD)
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",")
            for row in reader:
                yield f"line {reader.line_num}", row


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"it isn't JSON: {error}")


def _entry(row: Any, root: Path, path_column: str | None, caption_column: str | None) -> MediaEntry:
    if isinstance(row, Exception):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"it isn't an object but {type(row).__name__}")
    columns = PATH_FIELDS if path_column is None else (path_column,)
    name = next((row[column] for column in columns if row.get(column)), None)
    if not isinstance(name, str):
        given = ", ".join(map(str, row))
        raise ValueError(f"it has no file in a column {' or '.join(columns)}, but {given[:200] or 'nothing'}")
    if "\0" in name or not is_media(name):
        raise ValueError(f"{name[:100]!r} is neither a picture nor a video by its ending")
    caption = caption_in(row) if caption_column is None else row.get(caption_column)
    if caption is not None and not isinstance(caption, str):
        raise ValueError(f"its caption is no text but {type(caption).__name__}")
    split = row.get("split") or None
    if split is not None and split not in SPLITS:
        raise ValueError(f"its split is {str(split)[:50]!r}, none of {', '.join(SPLITS)}")
    masks = _files(row, MASK_FIELDS, root)
    if len(masks) > 1:
        raise ValueError("it has more than one mask")
    return MediaEntry(
        name=name,
        key=Path(name).with_suffix("").as_posix(),
        path=root / name,
        caption=" ".join((caption or "").split()),
        facts=facts_in(row),
        split=SPLITS[split] if split else None,
        references=_files(row, REFERENCE_FIELDS, root),
        mask=masks[0] if masks else None,
        part=part_in(row),
        conditions=conditions_in(row, root),
    )


def _files(row: dict[str, Any], columns: tuple[str, ...], root: Path) -> tuple[Path, ...]:
    """Pictures and videos in the first of some columns that says something: one, a list, or a list as JSON text."""
    column = next((column for column in columns if row.get(column)), None)
    if column is None:
        return ()
    names = row[column]
    if isinstance(names, str):
        names = json.loads(names) if names.lstrip().startswith("[") else [names]
    if not isinstance(names, list):
        raise ValueError(f"its {column} is no file")
    for name in names:
        if not isinstance(name, str) or "\0" in name or not is_media(name):
            raise ValueError(
                f"its {column} {str(name)[:100]!r} is neither a picture nor a video by its ending"
            )
    return tuple(root / name for name in names)
