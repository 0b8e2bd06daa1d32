"""Sets of pictures and videos, whatever they lie in: a folder, a list, WebDataset tars, or a dataset on disk."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import MediaError
from .clips import Problem
from .folder_clips import list_folder
from .hf_clips import is_dataset, list_dataset
from .list_clips import LIST_ENDINGS, read_list
from .media_entries import MediaEntry
from .tar_clips import index_shards
from .tars import find_shards


def reader_of(path: str | os.PathLike) -> str:
    """Name of the data reader for a path: "folder", "list", "webdataset" or "hf-dataset".

    A folder is one of tars if it has some directly in it, and a dataset if `datasets` has written it.

    Raises:
        MediaError: If there is nothing, or it is none of these.
    """
    path = Path(path)
    if path.is_dir():
        if is_dataset(path):
            return "hf-dataset"
        return "webdataset" if any(path.glob("*.tar")) else "folder"
    if path.suffix == ".tar":
        return "webdataset"
    if not path.exists():
        raise MediaError(f"there is nothing at {path}")
    if path.suffix.lower() in LIST_ENDINGS:
        return "list"
    raise MediaError(
        "this is no set of pictures and videos",
        got=path,
        expected=f"a folder, a list ({', '.join(LIST_ENDINGS)}) or a tar",
    )


def find_entries(path: str | os.PathLike) -> tuple[list[MediaEntry], list[Problem]]:
    """Every picture and video of a set, and what is wrong with the set so far; no picture or video is opened.

    Raises:
        MediaError: As `reader_of`, or if the set is empty or can't be read.
    """
    kind = reader_of(path)
    if kind == "folder":
        return list_folder(path)
    if kind == "list":
        return read_list(path)
    if kind == "hf-dataset":
        return list_dataset(path)
    return index_shards(find_shards(Path(path)))
