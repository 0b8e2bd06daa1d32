"""Safetensors files written tensor by tensor, and targets that appear whole or not at all.

A safetensors file begins with the length of its header (8 bytes, little-endian) and the header: JSON with the dtype,
shape and place of every tensor. All of that is known before any tensor is read, so the header goes first and each
tensor is read, written and dropped in turn: memory holds one tensor, whatever the size of the checkpoint.

Targets are written under a temporary name (`NAME.partial`), flushed to the disk and renamed. Killed half-way, a
conversion leaves the temporary file or folder and no target; the next run to the same target begins it anew.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import CheckpointError, InputError
from .safetensors_header import DTYPES

try:
    import fcntl
except ImportError:  # Windows: two conversions to one target at a time aren't noticed there
    fcntl = None

# The order of the safetensors library, last first: by alignment, so that every tensor is aligned.
_STORAGE_ORDER = (
    torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn, torch.int16, torch.uint16,
    torch.float16, torch.bfloat16, torch.int32, torch.uint32, torch.float32, torch.complex64, torch.float64,
    torch.int64, torch.uint64,
)  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_HEADER_ALIGNMENT = 8
_FLUSHED_TOGETHER = 64 * 2**20
# How systems say that they don't copy from file to file.
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.EXDEV)

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B", re.IGNORECASE)

Progress = Callable[[int], object]
"""Called with the number of bytes that were just written."""


class PlannedTensor(NamedTuple):
    """A tensor that is going to be written.

    Attributes:
        name: Its name in the file.
        dtype: Its dtype there.
        shape: Its shape.
        load: Gives the tensor, of that dtype and shape, when its turn has come. Nothing else holds on to it.
        region: Descriptor of an open file and the offset in it where these very bytes lie, if they do: then the
            system copies them, and they never enter this process.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]
    region: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_size(size: str | int) -> int:
    """A size in bytes: a number, or text such as "5GB" (10^9 bytes) or "512MiB" (2^20 bytes each).

    Raises:
        InputError: If it isn't a positive size.
    """
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match:
        number, prefix, binary = match.groups()
        power = "_KMGT".index(prefix.upper() or "_")
        size = int(float(number) * (1024 if binary else 1000) ** power)
    if isinstance(size, str) or size <= 0:
        raise InputError("not a size", got=repr(size), expected='a size such as "5GB" or "500MB"')
    return size


def write_safetensors(
    path: Path,
    tensors: Sequence[PlannedTensor],
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a safetensors file, one tensor in memory at a time.

    The file is byte for byte what the safetensors library writes for the same tensors and up to one entry of metadata
    (it leaves the order of several to chance). Bytes that lie in another file just as they are needed are copied by
    the system. The file takes the name `path` once it is whole; a file there is replaced.

    Args:
        path: The file.
        tensors: What to write, in any order.
        metadata: Text by name, for the header.
        progress: Called after each tensor with its number of bytes.

    Raises:
        CheckpointError: If two tensors have one name, a dtype can't be stored, or a tensor isn't as planned.
        InputError: If another process is writing the same file.
        OSError: If the disk is full or can't be written.
    """
    ordered = sorted(tensors, key=_storage_place)
    header = _header(ordered, metadata)
    with new_file(path) as partial, partial.open("r+b", buffering=0) as file:
        _write_all(file, header)
        waiting = 0
        for tensor in ordered:
            if not _copied(tensor, file):
                _write_all(file, _bytes_of(tensor))
            waiting += tensor.nbytes
            if waiting >= _FLUSHED_TOGETHER:
                _begin_flush(file, waiting)
                waiting = 0
            if progress is not None:
                progress(tensor.nbytes)
        os.fsync(file.fileno())


def write_sharded(
    folder: Path,
    stem: str,
    tensors: Sequence[PlannedTensor],
    shard_size: int | None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write one component's weights into an existing folder, in shards if they are larger than `shard_size`.

    Names are those of Diffusers and Transformers: `STEM.safetensors`, or `STEM-00001-of-00002.safetensors` and so on
    with `STEM.safetensors.index.json`.

    Args:
        folder: Where to write.
        stem: "diffusion_pytorch_model" or "model".
        tensors: What to write; shards are filled in this order.
        shard_size: The most bytes of tensors in a shard (a larger tensor gets its own); None for one file.
        metadata: Text by name, for the header of each file.
        progress: Called after each tensor with its number of bytes.

    Returns:
        The files with weights.

    Raises:
        CheckpointError, InputError, OSError: As `write_safetensors`.
    """
    shards = split_into_shards(tensors, shard_size)
    if len(shards) == 1:
        path = folder / f"{stem}.safetensors"
        write_safetensors(path, tensors, metadata, progress)
        return [path]
    names = [f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard, metadata, progress)
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)},
        "weight_map": {
            tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard
        },
    }
    write_json(folder / f"{stem}.safetensors.index.json", index)
    return [folder / name for name in names]


def split_into_shards(tensors: Sequence[PlannedTensor], shard_size: int | None) -> list[list[PlannedTensor]]:
    """Runs of tensors of at most `shard_size` bytes each; at least one run."""
    shards: list[list[PlannedTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shard_size is not None and shards[-1] and filled + tensor.nbytes > shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return shards


def write_json(path: Path, content: object) -> None:
    """Write a JSON file in the form of Diffusers' configs: indented, keys sorted."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """An empty file to write into that takes the name `target` when the block ends without an exception.

    Raises:
        InputError: If another process is writing the same target.
    """
    partial = target.with_name(f"{target.name}.partial")
    partial.touch()
    try:
        with _alone(partial, target):
            os.truncate(partial, 0)  # what a killed run had written
            yield partial
            partial.replace(target)
    except _TakenError as taken:
        raise taken.error from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder to write into that takes the name `target` when the block ends without an exception.

    Raises:
        InputError: If `target` exists and isn't an empty folder, or another process is writing it.
    """
    partial = target.with_name(f"{target.name}.partial")
    partial.mkdir(exist_ok=True)
    try:
        with _alone(partial, target):
            _empty(partial)  # what a killed run had written
            yield partial
            if target.is_dir():
                with suppress(OSError):  # not empty: the rename says so
                    target.rmdir()
            partial.rename(target)
    except _TakenError as taken:
        raise taken.error from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


class _TakenError(Exception):
    """Another process holds a temporary file or folder, which therefore isn't ours to remove."""

    def __init__(self, target: Path) -> None:
        self.error = InputError(
            f"another process is writing {target}", fix="wait for it, or choose another name"
        )


@contextmanager
def _alone(partial: Path, target: Path) -> Iterator[None]:
    """Hold a lock on a temporary file or folder. The system drops it when this process ends, however it ends."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _TakenError(target) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _storage_place(tensor: PlannedTensor) -> tuple[int, str]:
    """Where the safetensors library would put a tensor: large alignments first, then by name."""
    if tensor.dtype not in _NAMES:
        raise CheckpointError(
            "this dtype can't be stored in a safetensors file", got=f"{tensor.dtype} for {tensor.name}"
        )
    return -_STORAGE_ORDER.index(tensor.dtype), tensor.name


def _header(tensors: Sequence[PlannedTensor], metadata: Mapping[str, str] | None) -> bytes:
    """The file's first bytes: length and JSON, padded so that the tensors begin aligned."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for tensor in tensors:
        if tensor.name in header:
            raise CheckpointError("two tensors have one name", got=tensor.name)
        end = position + tensor.nbytes
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _copied(planned: PlannedTensor, file: io.FileIO) -> bool:
    """Copy a tensor's bytes from file to file, where the system can; False if none were."""
    if planned.region is None or not hasattr(os, "sendfile"):
        return False
    source, offset = planned.region
    rest = planned.nbytes
    while rest:
        try:
            count = os.sendfile(file.fileno(), source, offset, rest)
        except OSError as error:
            if rest == planned.nbytes and error.errno in _NOT_SUPPORTED:
                return False
            raise
        if count == 0:
            raise CheckpointError(f"the file of {planned.name} was cut off while it was read")
        rest, offset = rest - count, offset + count
    return True


def _bytes_of(planned: PlannedTensor) -> memoryview:
    tensor = planned.load()
    if tensor.dtype != planned.dtype or tuple(tensor.shape) != tuple(planned.shape):
        raise CheckpointError(
            f"the tensor {planned.name} isn't what its file announced",
            got=f"{tensor.dtype} {tuple(tensor.shape)}",
            expected=f"{planned.dtype} {tuple(planned.shape)}",
        )
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _begin_flush(file: io.FileIO, count: int) -> None:
    """Have the last `count` bytes written to the disk while the next ones are read, not all of them at the end."""
    if hasattr(os, "posix_fadvise"):
        # Told that nobody will read them, Linux starts writing the pages, and later gives up their memory.
        os.posix_fadvise(file.fileno(), file.tell() - count, count, os.POSIX_FADV_DONTNEED)


def _write_all(file: io.FileIO, content: bytes | memoryview) -> None:
    """Write to an unbuffered file, which may take less than it is given (Linux: 2 GiB at a time)."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
