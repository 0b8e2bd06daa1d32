"""GGUF files: header and tensors, read and checked like safetensors.

The format: "GGUF", a version, the numbers of tensors and of remarks; the remarks; the tensors' names, shapes (innermost
dimension first), quantisations and places; then their bytes, aligned. Quantised values come in blocks along a row.

Values are dequantised by the package `gguf`, which is needed for quantised tensors only. `load_quantized` gives the
blocks as they are, for Diffusers' GGUF quantiser.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from ..errors import CheckpointError, InputError
from .safetensors_header import MAX_HEADER_BYTES, TensorInfo, damaged
from .tensors import TensorSource, read_bytes

_VERSIONS = (2, 3)
_MAX_TENSORS = 100_000
_MAX_REMARKS = 10_000
_DEFAULT_ALIGNMENT = 32

# Kind of a remark's value -> struct format.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

_PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}


class Quantization(NamedTuple):
    """How the values of a GGUF tensor are stored."""

    number: int
    """Its number in GGUF files."""
    name: str
    """Its name, such as "Q4_K"."""
    block_values: int
    """Values of a block."""
    block_bytes: int
    """Bytes of a block."""


QUANTIZATIONS = {
    entry[0]: Quantization(*entry)
    for entry in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (20, "IQ4_NL", 32, 18),
        (23, "IQ4_XS", 256, 136),
        (30, "BF16", 1, 2),
    )
}
"""The quantisations that Diffusers computes with, by their numbers."""


class GGUFFile(TensorSource):
    """One GGUF file; `metadata` has its remarks, and as "precision" its most frequent quantisation by bytes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        try:
            reader = _Reader(path, self._file, path.stat().st_size)
            metadata, infos, self._offsets, self._quantizations = _read_header(reader)
        except BaseException:
            self._file.close()
            raise
        super().__init__(path, metadata, infos)

    def quantization(self, name: str) -> Quantization:
        """How a tensor is stored.

        Raises:
            CheckpointError: If there is no such tensor.
        """
        self.info(name)
        return self._quantizations[name]

    def load(self, name: str) -> torch.Tensor:
        """Read one tensor, dequantised to float32 if it is quantised; see `TensorSource.load`.

        Raises:
            InputError: If it is quantised and the package `gguf` isn't installed.
        """
        info, kind = self.info(name), self.quantization(name)
        data = self._bytes(name)
        if kind.number in _PLAIN:
            return data.view(_PLAIN[kind.number]).reshape(info.shape)
        package = _gguf()
        values = package.quants.dequantize(
            data.reshape(-1, self._row_bytes(name)).numpy(), package.GGMLQuantizationType(kind.number)
        )
        return torch.from_numpy(values).reshape(info.shape)

    def load_quantized(self, name: str) -> torch.Tensor:
        """The blocks of a tensor as they are: uint8, of its shape with a row's bytes as the last dimension.

        Raises:
            CheckpointError: If there is no such tensor, or it can't be read.
        """
        return self._bytes(name).reshape(*self.info(name).shape[:-1], self._row_bytes(name))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _bytes(self, name: str) -> torch.Tensor:
        return read_bytes(self._file, self.path, self._offsets[name], self.info(name).nbytes)

    def _row_bytes(self, name: str) -> int:
        kind = self.quantization(name)
        return self.info(name).shape[-1] // kind.block_values * kind.block_bytes


class _Reader:
    """Reads the header from front to back, never more than the file has, and never more than a bound."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path = path
        self.size = size
        self.position = 0
        # The header is at the front; tensors behind it make up the rest of the file.
        self._data = file.read(min(size, MAX_HEADER_BYTES))
        while len(self._data) < min(size, MAX_HEADER_BYTES):
            more = file.read(min(size, MAX_HEADER_BYTES) - len(self._data))
            if not more:
                break
            self._data += more

    def take(self, count: int) -> bytes:
        """The next bytes."""
        end = self.position + count
        if end > len(self._data):
            raise damaged(self.path, "its GGUF header is cut off or too long", got=f"{end} bytes")
        data = self._data[self.position : end]
        self.position = end
        return data

    def number(self, form: str) -> Any:
        """The next number, of a `struct` format."""
        form = f"<{form}"
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        """The next string."""
        try:
            return self.take(self.number("Q")).decode("utf-8")
        except UnicodeDecodeError:
            raise damaged(self.path, "its GGUF header has a string that isn't UTF-8") from None

    def value(self, kind: int, depth: int = 0) -> Any:
        """The next remark's value."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY or depth > 2:
            raise damaged(self.path, "its GGUF header has a value of an unknown kind", got=kind)
        inner, count = self.number("I"), self.number("Q")
        if count > len(self._data):
            raise damaged(self.path, "its GGUF header has an array longer than itself", got=count)
        return [self.value(inner, depth + 1) for _ in range(count)]


def _read_header(
    reader: _Reader,
) -> tuple[dict[str, Any], dict[str, TensorInfo], dict[str, int], dict[str, Quantization]]:
    """Remarks, tensors, their places in the file and their quantisations."""
    path = reader.path
    if reader.take(4) != b"GGUF":
        raise damaged(path, "not a GGUF file")
    version = reader.number("I")
    if version not in _VERSIONS:
        raise CheckpointError(f"{path} is GGUF of an unknown version", got=version, expected=_VERSIONS)
    tensors, remarks = reader.number("Q"), reader.number("Q")
    if tensors > _MAX_TENSORS or remarks > _MAX_REMARKS:
        raise damaged(path, "its GGUF header is absurd", got=f"{tensors} tensors, {remarks} remarks")
    metadata: dict[str, Any] = {}
    for _ in range(remarks):
        key = reader.string()
        if key in metadata:
            raise damaged(path, f"its GGUF header has {key[:100]!r} twice")
        metadata[key] = reader.value(reader.number("I"))
    infos: dict[str, TensorInfo] = {}
    places: dict[str, int] = {}
    kinds: dict[str, Quantization] = {}
    for _ in range(tensors):
        info, kind, place = _read_tensor(reader)
        if info.name in infos:
            raise damaged(path, f"two tensors are called {info.name[:100]!r}")
        infos[info.name], kinds[info.name], places[info.name] = info, kind, place
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment > 2**20:
        raise damaged(path, "its general.alignment is absurd", got=str(alignment)[:50])
    start = math.ceil(reader.position / alignment) * alignment
    offsets = {name: start + place for name, place in places.items()}
    _check_places(reader, infos, offsets)
    by_bytes: dict[str, int] = {}
    for name, kind in kinds.items():
        by_bytes[kind.name] = by_bytes.get(kind.name, 0) + infos[name].nbytes
    if by_bytes:
        metadata["precision"] = max(by_bytes, key=by_bytes.get)
    return metadata, infos, offsets, kinds


def _read_tensor(reader: _Reader) -> tuple[TensorInfo, Quantization, int]:
    name = reader.string()
    dimensions = reader.number("I")
    if not 1 <= dimensions <= 5:
        raise damaged(
            reader.path, f"the tensor {name[:100]!r} has no valid shape", got=f"{dimensions} dimensions"
        )
    shape = tuple(reversed([reader.number("Q") for _ in range(dimensions)]))
    number, place = reader.number("I"), reader.number("Q")
    kind = QUANTIZATIONS.get(number)
    if kind is None:
        raise CheckpointError(
            f"{reader.path}: the tensor {name[:100]!r} has an unknown quantisation",
            got=f"number {number}",
            expected=", ".join(entry.name for entry in QUANTIZATIONS.values()),
        )
    count = math.prod(shape)
    nbytes = count // kind.block_values * kind.block_bytes
    if shape[-1] % kind.block_values or nbytes > reader.size:
        raise damaged(reader.path, f"the tensor {name[:100]!r} has an impossible shape", got=shape)
    return TensorInfo(name, _PLAIN.get(number, torch.float32), shape, nbytes), kind, place


def _check_places(reader: _Reader, infos: dict[str, TensorInfo], offsets: dict[str, int]) -> None:
    """Check that tensors lie in the file and don't overlap."""
    end = 0
    for name in sorted(infos, key=offsets.get):
        if offsets[name] < end:
            raise damaged(reader.path, f"the tensor {name[:100]!r} overlaps another")
        end = offsets[name] + infos[name].nbytes
        if end > reader.size:
            raise damaged(reader.path, f"cut off: the tensor {name[:100]!r} would reach beyond its end")


def _gguf() -> Any:
    """The package `gguf`."""
    try:
        import gguf
        import gguf.quants
    except ImportError:
        raise InputError(
            "quantised GGUF tensors need the package gguf", fix="pip install 'ltx-diffusers[gguf]'"
        ) from None
    return gguf
