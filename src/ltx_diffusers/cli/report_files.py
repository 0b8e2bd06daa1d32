"""Files of reports: the folder is checked before the work, each file is written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def check_folder(folder: Path) -> None:
    """Find out before a long run whether its results can be written.

    Raises:
        InputError: If the path can't be a folder, or can't be written to.
    """
    from ..errors import InputError

    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(
            "can't write to the output folder", got=str(folder), fix="choose another one with -o"
        )


def replace_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file under a temporary name, then rename it.

    Args:
        path: The file.
        write: Writes to the path that it is given.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: Path, report: dict[str, Any], *, indent: int | None = 2) -> Path:
    """Write a report as JSON; with `indent` None in one line, for large tables of numbers."""
    text = json.dumps(report, indent=indent, allow_nan=False) + "\n"
    return replace_file(path, lambda file: file.write_text(text, encoding="utf-8"))
