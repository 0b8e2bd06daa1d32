"""Measurements kept in a file, a line for each picture or video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from ...errors import InputError, MediaError

_START = b'{"key": "'


class Journal:
    """Measurements by key, of which each is on the disk as soon as it is known.

    A line that was cut off when a run was killed is passed over. Used as a context, which closes it.

    Args:
        path: A .jsonl file; made if it isn't there. None keeps nothing.

    Raises:
        InputError: If the file holds something else.
        MediaError: If it can't be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self._found: dict[str, dict[str, Any]] = {}
        self._path = path
        self._file: IO[bytes] | None = None
        if path is None:
            return
        try:
            torn = self._load(path) if path.exists() else False
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            if torn:
                self._file.write(b"\n")
        except OSError as error:
            raise MediaError(f"{path} can't be used", got=error.strerror or error) from error

    @property
    def keys(self) -> frozenset[str]:
        """What is known so far."""
        return frozenset(self._found)

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._found[key]

    def put(self, key: str, found: dict[str, Any]) -> None:
        """Keep a measurement.

        Raises:
            MediaError: If it can't be written.
        """
        self._found[key] = found
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"key": key, "found": found}).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise MediaError(f"{self._path} can't be written", got=error.strerror or error) from error

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, path: Path) -> bool:
        """Read the file; True if its last line was cut off."""
        strangers = 0
        line = b""
        with path.open("rb") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    self._found[row["key"]] = row["found"]
                except (ValueError, TypeError, KeyError, RecursionError):
                    strangers += 1
        is_torn = bool(line) and not line.endswith(b"\n")
        cut_off = is_torn and (line.startswith(_START) or _START.startswith(line))
        if strangers > cut_off and not self._found:
            raise InputError(f"{path} holds no measurements", fix="name another file")
        return is_torn
