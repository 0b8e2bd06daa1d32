"""Scenes written as a list that the reader "list" reads."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import InputError, MediaError
from ..media_entries import MediaEntry
from ..row_conditions import CONDITIONS_FIELD
from .measuring import MeasuredScene
from .rules import Verdict


def check_list_writable(path: Path, source: Path, entries: Iterable[MediaEntry]) -> None:
    """Check before any work that `write_list` can write entries of a set.

    Args:
        path: The list.
        source: Where the set was read from; it isn't written over.
        entries: The set.

    Raises:
        InputError: If the name doesn't end in .jsonl, or something lies within a tar or a dataset, where a list
            can't point to.
        MediaError: If the folder isn't there or can't be written.
    """
    if path.suffix.lower() != ".jsonl":
        raise InputError("lists of scenes are written as JSON lines", got=path, expected="a name in .jsonl")
    inside = next((entry for entry in entries if not entry.is_file), None)
    if inside is not None:
        raise InputError(
            "a list can't name what lies in a tar or a dataset",
            got=inside.name,
            fix="filter the files, then pack the list",
        )
    folder = path.absolute().parent
    if not folder.is_dir():
        raise MediaError(f"the output folder {folder} doesn't exist", fix="create it first")
    if path.exists() and source.exists() and path.samefile(source):
        raise InputError("the list would be written over the one that is read", got=path, fix="name another")
    if path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(f"{path} can't be written")


def write_list(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Write scenes as a list, whole or not at all, with their numbers, and with the reasons of those left out.

    Paths are relative to the list's folder. The reader finds `path`, `caption`, `split`, `references`, `mask`,
    `conditions`, `start`, `end`, `crop` and what is known of the whole file: `fps`, `duration`, `width` and `height`.

    Raises:
        MediaError: If it can't be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for verdict in verdicts:
                row = scene_row(verdict.scene, path.absolute().parent)
                if verdict.reasons:
                    row["reasons"] = [f"{rule}: {details}" for rule, details in verdict.reasons]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise MediaError(f"{path} could not be written", got=error.strerror or error) from error
    finally:
        temporary.unlink(missing_ok=True)


def scene_row(scene: MeasuredScene, folder: Path) -> dict[str, Any]:
    """A scene as a row of a list in a folder."""
    entry, facts = scene.entry, scene.facts
    row: dict[str, Any] = {"path": _relative(entry.path, folder)}
    if entry.caption:
        row["caption"] = entry.caption
    if entry.split is not None:
        row["split"] = entry.split
    if entry.references:
        row["references"] = [_relative(path, folder) for path in entry.references]
    if entry.mask is not None:
        row["mask"] = _relative(entry.mask, folder)
    if entry.conditions is not None:
        row[CONDITIONS_FIELD] = [
            one.as_row(None if one.file is None else _relative(one.file, folder)) for one in entry.conditions
        ]
    if scene.part is not None:
        if scene.part.start or scene.part.end is not None:
            row["start"] = scene.part.start
        if scene.part.end is not None:
            row["end"] = scene.part.end
        if scene.part.crop is not None:
            row["crop"] = list(scene.part.crop)
    row |= {"width": facts.width, "height": facts.height}
    if not entry.is_picture:
        row |= {"fps": round(facts.frame_rate or 0.0, 6), "duration": round(facts.seconds, 6)}
    return row | {"scores": dict(scene.scores)}


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.absolute(), folder)).as_posix()
    except ValueError:  # another drive
        return str(path.absolute())
