"""Clips from a folder of pictures and videos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import MediaError
from . import data_readers
from .clips import Problem
from .media_clips import MediaClips
from .media_entries import MediaEntry, is_media
from .moving_shapes import Split

CAPTION_ENDING = ".txt"
"""A text file of the same name holds the caption of a picture or video."""


@data_readers.register("folder")
class FolderClips(MediaClips):
    """Pictures and videos of a folder and of all folders in it, with captions from text files of the same name.

    Args:
        num_frames, height, width, split, seed: See `ClipReader`.
        path: The folder.
        settings: Those of `Cut`, by name.

    Raises:
        InputError: As `MediaClips`.
        MediaError: If there is no such folder, or nothing in it.
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
        **settings: Any,
    ) -> None:
        entries, problems = list_folder(path)
        super().__init__(entries, problems, num_frames, height, width, split, seed, **settings)


def list_folder(path: str | os.PathLike) -> tuple[list[MediaEntry], list[Problem]]:
    """All pictures and videos under a folder in order of their names, and what is wrong with their captions.

    Hidden files and folders are passed over, and so is everything that isn't a picture or a video by its ending.
    Links to folders are followed, each folder once.

    Raises:
        MediaError: If there is no such folder, or nothing in it.
    """
    root = Path(path)
    if not root.is_dir():
        raise MediaError(f"there is no folder {root}")
    entries, problems = [], []
    for file in _files(root):
        if not is_media(file.name):
            continue
        name = file.relative_to(root)
        caption = ""
        try:
            caption = read_caption(file)
        except (OSError, UnicodeDecodeError) as error:
            problems.append(
                Problem(str(name.with_suffix(CAPTION_ENDING)), f"the caption can't be read: {error}")
            )
        entries.append(MediaEntry(str(name), name.with_suffix("").as_posix(), file, caption))
    if not entries:
        raise MediaError(f"the folder {root} has no pictures or videos")
    return entries, problems


def read_caption(file: Path) -> str:
    """The text beside a picture or video; "" if there is none.

    Raises:
        OSError: If there is one that can't be read; `UnicodeDecodeError` if it isn't text.
    """
    beside = file.with_suffix(CAPTION_ENDING)
    return " ".join(beside.read_text(encoding="utf-8").split()) if beside.is_file() else ""


def _files(root: Path) -> list[Path]:
    seen, found = set(), []
    for folder, folders, files in os.walk(root, followlinks=True):
        here = Path(folder).resolve()
        if here in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(files) if not name.startswith(".")]
    return found
