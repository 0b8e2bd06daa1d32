"""The header of a safetensors file, read and checked in bounded memory.

A file begins with the length of its header (8 bytes, little-endian) and the header: JSON with the dtype, shape and
place of every tensor. Nothing in it is believed: a file can claim tensors that are larger than itself, that overlap,
or that lie outside of it. All of that is found here, before a tensor is touched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from ..errors import CheckpointError

MAX_HEADER_BYTES = 32 * 2**20
"""Headers of released files have less than a megabyte; a parsed header takes some ten times its length."""

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
    "C64": torch.complex64,
}
"""Dtypes of safetensors files, by their names there."""

_FIX = "the file is damaged or hostile; get it again from its source"


class TensorInfo(NamedTuple):
    """A tensor as its file describes it."""

    name: str
    """Its name in the file."""
    dtype: torch.dtype
    """The dtype in which it is loaded; for a quantised GGUF tensor, that of its dequantised values."""
    shape: tuple[int, ...]
    """Its shape."""
    nbytes: int
    """Bytes that it takes in the file."""


class Header(NamedTuple):
    """A checked header."""

    metadata: dict[str, str]
    """The file's own remarks, such as the official package's "config"."""
    tensors: dict[str, TensorInfo]
    """Its tensors, in the order in which their bytes lie in the file."""
    offsets: dict[str, int]
    """Where each tensor's bytes begin, counted from the beginning of the file."""


def damaged(path: Path, what: str, **details: object) -> CheckpointError:
    """The error for a file whose content contradicts itself."""
    return CheckpointError(f"{path}: {what}", **{"fix": _FIX, **details})


def parse_json(path: Path, text: bytes) -> Any:
    """JSON that is UTF-8, of bounded depth, and names nothing twice.

    Raises:
        CheckpointError: If it isn't that.
    """
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise damaged(path, "its header isn't readable JSON", got=_short(error)) from None


def read_header(path: Path, file: BinaryIO, size: int) -> Header:
    """Read and check the header of a safetensors file.

    Args:
        path: The file's name, for messages.
        file: The file, at its beginning.
        size: Its length in bytes.

    Raises:
        CheckpointError: If the header isn't one, or contradicts itself or the file.
    """
    prefix = file.read(8)
    if len(prefix) < 8:
        raise damaged(path, "too short for a safetensors file", got=f"{size} bytes")
    length = int.from_bytes(prefix, "little")
    if length > size - 8:
        raise damaged(
            path,
            "not a safetensors file, or cut off: its header would reach beyond its end",
            got=f"a header of {length} bytes in a file of {size}",
        )
    if length > MAX_HEADER_BYTES:
        raise damaged(
            path, "its header is too long", got=length, expected=f"at most {MAX_HEADER_BYTES} bytes"
        )
    content = parse_json(path, file.read(length))
    if not isinstance(content, dict):
        raise damaged(path, "its header isn't a JSON object", got=type(content).__name__)
    metadata = _checked_metadata(path, content.pop("__metadata__", {}))
    infos, begins = {}, {}
    for name, entry in content.items():
        infos[name], begins[name] = _checked_entry(path, name, entry)
    order = sorted(infos, key=lambda name: (begins[name], infos[name].nbytes))
    _check_places(path, [infos[name] for name in order], begins, size - 8 - length)
    return Header(
        metadata,
        {name: infos[name] for name in order},
        {name: 8 + length + begins[name] for name in order},
    )


def _checked_metadata(path: Path, metadata: Any) -> dict[str, str]:
    """`__metadata__`, which must map strings to strings."""
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise damaged(path, "its __metadata__ must map strings to strings", got=_short(metadata))
    return metadata


def _checked_entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int]:
    """One tensor's entry, and where its bytes begin behind the header."""
    if not isinstance(entry, Mapping) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise damaged(path, f"the entry of {_short(name)} isn't a tensor's", got=_short(entry))
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise CheckpointError(
            f"{path}: the tensor {_short(name)} has an unknown dtype",
            got=_short(entry["dtype"]),
            expected=f"one of {', '.join(DTYPES)}",
        )
    shape, place = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or len(shape) > 8:
        raise damaged(path, f"the tensor {_short(name)} has no valid shape", got=_short(shape))
    if not _are_sizes(place) or len(place) != 2 or place[0] > place[1]:
        raise damaged(path, f"the tensor {_short(name)} has no valid place", got=_short(place))
    needed = math.prod(shape) * dtype.itemsize
    if place[1] - place[0] != needed:
        raise damaged(
            path,
            f"the tensor {_short(name)} of shape {_short(shape)} has the wrong length",
            got=f"{place[1] - place[0]} bytes",
            expected=needed,
        )
    return TensorInfo(name, dtype, tuple(shape), needed), place[0]


def _check_places(path: Path, infos: list[TensorInfo], begins: Mapping[str, int], available: int) -> None:
    """Check that the tensors, in the order of their places, fill the file without gap or overlap."""
    end = 0
    for info in infos:
        if begins[info.name] != end:
            problem = "overlaps another" if begins[info.name] < end else "leaves a gap before it"
            raise damaged(
                path, f"the tensor {_short(info.name)} {problem}", got=begins[info.name], expected=end
            )
        end += info.nbytes
    if end != available:
        raise damaged(
            path,
            "cut off" if end > available else "it goes on after its last tensor",
            got=f"{available} bytes of tensors",
            expected=end,
        )


def _are_sizes(values: Any) -> bool:
    """Whether this is a list of whole numbers that fit into 63 bits and aren't negative."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the name {_short(twice)} is there twice")
    return content


def _short(value: object) -> str:
    """A value for a message, at most a line long."""
    text = str(value) if isinstance(value, (str, Exception)) else repr(value)[:200]
    return text if len(text) <= 120 else f"{text[:117]}..."
