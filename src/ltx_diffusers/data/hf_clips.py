"""Clips from datasets of Hugging Face's library `datasets`, as its `save_to_disk` writes them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from ..errors import InputError, MediaError
from . import data_readers
from .clips import Problem
from .list_clips import PATH_FIELDS, SPLITS
from .media_clips import MediaClips
from .media_entries import (
    CAPTION_FIELDS,
    FACT_FIELDS,
    PART_FIELDS,
    MediaEntry,
    caption_in,
    facts_in,
    is_media,
    part_in,
)
from .moving_shapes import Split
from .row_conditions import CONDITIONS_FIELD, conditions_in

_ONE_SPLIT, _SPLITS = "state.json", "dataset_dict.json"
_ROWS_AT_ONCE = 1000
_ENDINGS = {"Video": ".mp4", "Image": ".png"}
"""Endings of the names of what has none, by the feature of its column."""


@dataclass(frozen=True, slots=True)
class RowEntry(MediaEntry):
    """A picture or video in a row of a dataset.

    Attributes:
        row: Number of the row.
        column: The column that holds it.
        root: What paths that aren't absolute are relative to.
    """

    row: int = 0
    column: str = ""
    root: Path = Path()

    @property
    def place(self) -> tuple[Any, ...]:
        """The dataset, the row and its column."""
        return (self.path, self.row, self.column)

    @property
    def is_file(self) -> bool:
        """Never: a list can't name a row."""
        return False

    def open(self) -> Path | IO[bytes]:
        """The bytes in the row, or the path that stands there.

        Raises:
            MediaError: If the row has neither.
        """
        value = _open_split(self.path)[self.row : self.row + 1][self.column][0].as_py()
        if isinstance(value, dict):
            content, value = value.get("bytes"), value.get("path")
            if content:
                return io.BytesIO(content)
        if not value:
            raise MediaError("the row is empty")
        return self.root / value


@data_readers.register("hf-dataset")
class DatasetClips(MediaClips):
    """Pictures and videos of a dataset of Hugging Face's library `datasets`, on disk.

    The folder is one that `save_to_disk` wrote, of one split or of several; splits called train, validation, val or
    test are trained on or held out accordingly. The media are in a column of its features Video or Image, or in one
    of paths, called as in lists; captions, times, crops and conditions likewise as in lists.

    Args:
        num_frames, height, width, split, seed: See `ClipReader`.
        path: The folder.
        root: What paths in the dataset are relative to; by default its own folder.
        media_column, caption_column: Names of those columns, if they can't be told.
        settings: Those of `Cut`, by name.

    Raises:
        InputError: As `MediaClips`, or if the package `datasets` isn't installed.
        MediaError: If there is no such dataset, or no media in it.
    """

    def __init__(
        self,
        num_frames: int = 17,
        height: int = 96,
        width: int = 96,
        split: Split = "train",
        seed: int = 0,
        *,
        path: str | Path,
        root: str | Path | None = None,
        media_column: str | None = None,
        caption_column: str | None = None,
        **settings: Any,
    ) -> None:
        entries, problems = list_dataset(path, root, media_column=media_column, caption_column=caption_column)
        super().__init__(entries, problems, num_frames, height, width, split, seed, **settings)


def is_dataset(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / _SPLITS).is_file() or (path / _ONE_SPLIT).is_file()


def list_dataset(
    path: str | Path,
    root: str | Path | None = None,
    *,
    media_column: str | None = None,
    caption_column: str | None = None,
) -> tuple[list[MediaEntry], list[Problem]]:
    """The rows of a dataset on disk, and what is wrong with them; no picture or video is read.

    Raises:
        InputError: If the package `datasets` isn't installed, or there is no such column.
        MediaError: If there is no such dataset, or no media in it.
    """
    path = Path(path)
    if not is_dataset(path):
        raise MediaError(f"there is no dataset in {path}", expected="a folder that save_to_disk has written")
    folders = [path]
    if (path / _SPLITS).is_file():
        folders = sorted(folder for folder in path.iterdir() if (folder / _ONE_SPLIT).is_file())
    entries: list[MediaEntry] = []
    problems: list[Problem] = []
    for folder in folders:
        for entry in _rows(folder, Path(root or path), media_column, caption_column):
            (problems if isinstance(entry, Problem) else entries).append(entry)
    if not entries:
        raise MediaError(
            f"the dataset {path} has no pictures or videos", got=problems[0] if problems else None
        )
    return entries, problems


def _rows(
    folder: Path, root: Path, media_column: str | None, caption_column: str | None
) -> Iterator[MediaEntry | Problem]:
    rows = _open_split(folder)
    column = _media_column(rows.features, media_column, folder)
    kind = type(rows.features[column]).__name__
    given = [caption_column] if caption_column else list(CAPTION_FIELDS)
    if caption_column and caption_column not in rows.features:
        raise InputError(
            f"the dataset {folder} has no column {caption_column!r}", expected=", ".join(rows.features)
        )
    others = [
        name for name in (*given, *FACT_FIELDS, *PART_FIELDS, CONDITIONS_FIELD) if name in rows.features
    ]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        table = rows[start : start + _ROWS_AT_ONCE]
        paths = _paths(table[column])
        facts = table.select(others).to_pylist() if others else [{}] * len(paths)
        for index, (said, fields) in enumerate(zip(paths, facts, strict=True)):
            row = start + index
            name = f"{folder.name}/{row}/{Path(said or '').name}"
            if not is_media(name):
                if kind not in _ENDINGS:
                    yield Problem(name, "its path is neither a picture nor a video by its ending")
                    continue
                name = name.rstrip("/") + _ENDINGS[kind]
            try:
                part, conditions = part_in(fields), conditions_in(fields, root)
            except ValueError as error:
                yield Problem(name, str(error))
                continue
            words = fields.get(caption_column) if caption_column else caption_in(fields)
            yield RowEntry(
                name=name,
                key=Path(said).with_suffix("").as_posix() if said else str(row),
                path=folder,
                caption=" ".join(words.split()) if isinstance(words, str) else "",
                facts=facts_in(fields),
                split=SPLITS.get(folder.name),
                part=part,
                conditions=conditions,
                row=row,
                column=column,
                root=root,
            )


def _media_column(features: Any, wanted: str | None, folder: Path) -> str:
    if wanted is not None and wanted in features:
        return wanted
    if wanted is None:
        media = [name for name, kind in features.items() if type(kind).__name__ in _ENDINGS]
        paths = [name for name in PATH_FIELDS if name in features]
        if media or paths:
            return (media or paths)[0]
    raise InputError(
        f"the dataset {folder} has no column of pictures or videos",
        got=wanted,
        expected=", ".join(features),
        fix="name it with media_column",
    )


def _paths(column: Any) -> list[str | None]:
    """The paths in a column of texts, or of bytes with paths; the bytes stay where they are."""
    import pyarrow

    if pyarrow.types.is_struct(column.type):
        column = pyarrow.compute.struct_field(column, "path")
    return column.to_pylist()


@lru_cache(maxsize=8)
def _open_split(folder: Path) -> Any:
    """A split as Arrow tables, mapped from the disk."""
    try:
        import pyarrow.compute  # noqa: F401
        from datasets import load_from_disk
    except ImportError:
        raise InputError(
            "datasets of Hugging Face's need the package datasets",
            fix="pip install 'ltx-diffusers[datasets]'",
        ) from None
    try:
        return load_from_disk(str(folder)).with_format("arrow")
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().partition("\n")[0][:200]
        raise MediaError(f"the dataset {folder} can't be read", got=first_line) from error
