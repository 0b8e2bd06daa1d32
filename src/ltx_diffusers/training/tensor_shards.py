"""Tensors kept on disk under keys that say what they are: safetensors files of many entries each.

An entry is a few named tensors under one key. Nothing is ever changed: a file is written under a temporary name,
renamed when it is whole, and then only read. So whatever ends a process, what lies in the folder is right.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import InputError, MediaError

logger = logging.getLogger(__name__)

_SHARD = re.compile(r"(\d{5})-(\d{6})\.safetensors")
_OPEN_FILES = 64


class ShardWriter:
    """Adds entries to a folder of shards. Several processes may write to one folder, each with its own number.

    Args:
        folder: Made if it isn't there.
        writer: Number of this process; its files' names begin with it.
        entries: Most entries of a file.
        max_bytes: A file is written when it has grown to this.

    Attributes:
        keys: The file that holds each entry that is on disk.
    """

    def __init__(self, folder: Path, writer: int = 0, entries: int = 256, max_bytes: int = 2**28) -> None:
        self.folder, self.writer = folder, writer
        self.entries, self.max_bytes = entries, max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f".{writer:05d}-*.part"):
            leftover.unlink(missing_ok=True)
        self.keys = index_shards(folder)
        numbers = [_SHARD.fullmatch(name).groups() for name in _shards(folder)]
        self._next = 1 + max((int(number) for who, number in numbers if int(who) == writer), default=-1)
        self._waiting: dict[str, dict[str, torch.Tensor]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.keys or key in self._waiting

    def put(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Add an entry; it is on disk after the next `flush`, at the latest. A key that is there stays as it is.

        Raises:
            MediaError: If a full file can't be written.
        """
        if key in self:
            return
        self._waiting[key] = {name: tensor.contiguous() for name, tensor in tensors.items()}
        size = sum(tensor.nbytes for entry in self._waiting.values() for tensor in entry.values())
        if len(self._waiting) >= self.entries or size >= self.max_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            MediaError: If it can't be written; nothing of it is there then.
        """
        if not self._waiting:
            return
        path = self.folder / f"{self.writer:05d}-{self._next:06d}.safetensors"
        temporary = path.with_name(f".{path.name}.part")
        flat = {
            f"{key}/{name}": tensor for key, entry in self._waiting.items() for name, tensor in entry.items()
        }
        try:
            save_file(flat, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise MediaError(f"{path} could not be written", got=error) from error
        self.keys |= dict.fromkeys(self._waiting, path.name)
        self._next += 1
        self._waiting = {}


class ShardReader:
    """Entries of a folder of shards. Can be pickled, and keeps some files open.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, tuple[Any, dict[str, list[str]]]] = {}

    def read(self, shard: str, key: str) -> dict[str, torch.Tensor]:
        """The tensors of an entry.

        Raises:
            InputError: If the file is gone or damaged, or has no such entry.
        """
        path = self.folder / shard
        try:
            file, names = self._opened(shard)
            return {name.partition("/")[2]: file.get_tensor(name) for name in names[key]}
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} can't be read", got=error, fix="precompute again") from error
        except KeyError:
            raise InputError(f"{path} has no entry {key}", fix="precompute again") from None

    def _opened(self, shard: str) -> tuple[Any, dict[str, list[str]]]:
        if shard not in self._open:
            if len(self._open) >= _OPEN_FILES:
                self._open.pop(next(iter(self._open)))
            file = safe_open(self.folder / shard, framework="pt")
            self._open[shard] = file, _names_by_key(file)
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)


def index_shards(folder: Path) -> dict[str, str]:
    """The file that holds each entry of a folder; damaged files are passed over with a warning."""
    found: dict[str, str] = {}
    for shard in _shards(folder):
        try:
            with safe_open(folder / shard, framework="pt") as file:
                found |= dict.fromkeys(_names_by_key(file), shard)
        except (OSError, SafetensorError) as error:
            logger.warning("%s is damaged, what was in it is computed again: %s", folder / shard, error)
    return found


def shard_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file of a folder of shards."""
    return {shard: (folder / shard).stat().st_size for shard in _shards(folder)}


def remove_unused(folder: Path, used: Container[str]) -> int:
    """Remove the shards of which no entry is used any more. Gives the number of bytes that became free.

    Args:
        folder: Where they are.
        used: Keys of entries.
    """
    wanted = {shard for key, shard in index_shards(folder).items() if key in used}
    freed = 0
    for shard, size in shard_sizes(folder).items():
        if shard not in wanted:
            (folder / shard).unlink()
            freed += size
    return freed


def _shards(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if _SHARD.fullmatch(path.name))


def _names_by_key(file: Any) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name in file.keys():  # noqa: SIM118 - not a dict
        names.setdefault(name.partition("/")[0], []).append(name)
    return names
