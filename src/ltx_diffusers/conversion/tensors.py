"""Tensors of checkpoint files, read one by one: safetensors, sharded or not, GGUF, and pickles when asked.

Opening checks everything that a header says (see `safetensors_header`); nothing is loaded then. A loaded tensor has
its own memory, so that dropping it frees it.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch

from ..errors import CheckpointError, InputError
from .safetensors_header import MAX_HEADER_BYTES, TensorInfo, damaged, parse_json, read_header

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
"""Endings of files that hold pickles, which can run code when they are opened carelessly."""

INDEX_ENDING = ".safetensors.index.json"
_INDEX_NAME = re.compile(r".+\.safetensors\.index(\.[\w-]+)?\.json")
_SHARD_NAME = re.compile(r"[\w.+-]+\.safetensors")
_BASE_NAMES = ("diffusion_pytorch_model", "model")


class TensorSource(ABC):
    """A checkpoint whose tensors can be looked at and loaded one by one. Close it, or use it in `with`.

    Attributes:
        path: The file or folder.
        metadata: The file's own remarks; {} if it has none.
        config: The `config.json` beside a component's weights; None if there is none.
    """

    def __init__(
        self, path: Path, metadata: dict[str, Any], infos: dict[str, TensorInfo], config: dict | None = None
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.config = config
        self._infos = infos

    def names(self) -> list[str]:
        """Names of all tensors, in the order of the file."""
        return list(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def info(self, name: str) -> TensorInfo:
        """What the file says of a tensor.

        Raises:
            CheckpointError: If there is no such tensor.
        """
        if name not in self._infos:
            raise CheckpointError(f"{self.path} has no tensor {name!r}")
        return self._infos[name]

    @abstractmethod
    def load(self, name: str) -> torch.Tensor:
        """Read one tensor, on the CPU, in memory of its own.

        Raises:
            CheckpointError: If there is no such tensor, or it can't be read.
        """

    def region(self, name: str) -> tuple[int, int] | None:
        """Where a tensor's bytes lie as safetensors files store them: descriptor of an open file, and offset.

        None if they aren't stored like that.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Close the files."""

    def __enter__(self) -> TensorSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class SafetensorsFile(TensorSource):
    """One safetensors file."""

    def __init__(self, path: Path, config: dict | None = None) -> None:
        self._file = _open(path)
        try:
            header = read_header(path, self._file, path.stat().st_size)
        except BaseException:
            self._file.close()
            raise
        super().__init__(path, header.metadata, header.tensors, config)
        self._offsets = header.offsets

    def load(self, name: str) -> torch.Tensor:
        """Read one tensor; see `TensorSource.load`."""
        info = self.info(name)
        data = read_bytes(self._file, self.path, self._offsets[name], info.nbytes)
        return data.view(info.dtype).reshape(info.shape)

    def region(self, name: str) -> tuple[int, int]:
        """Where a tensor's bytes lie; see `TensorSource.region`."""
        self.info(name)
        return self._file.fileno(), self._offsets[name]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ShardedFiles(TensorSource):
    """Safetensors files that an index names; all in one folder."""

    def __init__(self, index: Path, config: dict | None = None) -> None:
        places = _read_index(index)
        self._shards: dict[str, SafetensorsFile] = {}
        try:
            for name in sorted(set(places.values())):
                self._shards[name] = SafetensorsFile(index.parent / name)
            infos = self._gather(index, places)
        except BaseException:
            self.close()
            raise
        metadata: dict[str, Any] = {}
        for shard in self._shards.values():
            metadata |= shard.metadata
        super().__init__(index, metadata, infos, config)
        self._places = places

    def _gather(self, index: Path, places: dict[str, str]) -> dict[str, TensorInfo]:
        """All tensors; each must be where the index says, and nowhere else."""
        infos = {}
        for file_name, shard in self._shards.items():
            for name in shard.names():
                if places.get(name) != file_name:
                    raise damaged(
                        index,
                        f"the tensor {name} of {file_name} isn't where the index says",
                        expected=places.get(name, "no such tensor"),
                    )
                infos[name] = shard.info(name)
        missing = [name for name in places if name not in infos]
        if missing:
            raise damaged(index, f"{places[missing[0]]} lacks the tensor {missing[0]} that the index names")
        return infos

    def load(self, name: str) -> torch.Tensor:
        """Read one tensor; see `TensorSource.load`."""
        self.info(name)
        return self._shards[self._places[name]].load(name)

    def region(self, name: str) -> tuple[int, int]:
        """Where a tensor's bytes lie; see `TensorSource.region`."""
        self.info(name)
        return self._shards[self._places[name]].region(name)

    def close(self) -> None:
        """Close the files."""
        for shard in self._shards.values():
            shard.close()


class PickleFile(TensorSource):
    """A file of `torch.save`, read by torch's unpickler for weights, which runs no code of the file.

    Its tensors are mapped into memory, so that only those that are used are read.

    Raises:
        CheckpointError: If it isn't a plain state dict.
    """

    def __init__(self, path: Path, config: dict | None = None) -> None:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # the unpickler meets whatever a stranger wrote
            raise CheckpointError(
                f"{path} can't be read as plain weights",
                got=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
                fix="save it as safetensors where you trust it",
            ) from None
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} holds no state dict", got=type(content).__name__)
        self._tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
        infos = {}
        for name, tensor in self._tensors.items():
            needed = tensor.numel() * tensor.element_size()
            # A view with stride 0 can claim any size; a file with its real content can't be smaller than it.
            if not isinstance(name, str) or tensor.layout != torch.strided or needed > path.stat().st_size:
                raise damaged(
                    path, f"{str(name)[:100]!r} isn't a tensor of this file", got=tuple(tensor.shape)
                )
            infos[name] = TensorInfo(name, tensor.dtype, tuple(tensor.shape), needed)
        super().__init__(path, {}, infos, config)

    def load(self, name: str) -> torch.Tensor:
        """Read one tensor; see `TensorSource.load`."""
        self.info(name)
        return self._tensors[name].detach().clone(memory_format=torch.contiguous_format)

    def close(self) -> None:
        """Let the file go."""
        self._tensors = {}


def open_tensors(path: str | Path, *, variant: str | None = None, allow_pickle: bool = False) -> TensorSource:
    """Open a checkpoint without loading it.

    Args:
        path: A `.safetensors` file; an index `*.safetensors.index.json` of shards; the folder of one component
            with either of these; a `.gguf` file; or a pickle (`.ckpt`, `.pt`, `.pth`, `.bin`).
        variant: For a folder: the variant of its weights, such as "fp16".
        allow_pickle: Whether pickles may be opened, for weights only.

    Raises:
        CheckpointError: If the file is missing, damaged, hostile or of an unknown kind.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _open_folder(path, variant, allow_pickle)
    if variant is not None:
        raise InputError("a variant belongs to a folder", got=f"{variant!r} for the file {path}")
    return _open_file(path, allow_pickle)


def read_bytes(file: BinaryIO, path: Path, offset: int, count: int) -> torch.Tensor:
    """Bytes (count,) of a file, as a tensor of uint8 with memory of its own.

    Raises:
        CheckpointError: If the file ends before.
    """
    data = torch.empty(count, dtype=torch.uint8)
    view = memoryview(data.numpy())
    file.seek(offset)
    done = 0
    while done < count:
        read = file.readinto(view[done:])
        if not read:
            raise damaged(path, "cut off while it was read", got=f"{done} bytes", expected=count)
        done += read
    return data


def read_config(folder: Path) -> dict | None:
    """The `config.json` of a component's folder; None if there is none.

    Raises:
        CheckpointError: If it isn't a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
    content = parse_json(path, _read_small(path))
    if not isinstance(content, dict):
        raise damaged(path, "not a JSON object", got=type(content).__name__)
    return content


def _open_file(path: Path, allow_pickle: bool, config: dict | None = None) -> TensorSource:
    if not path.exists():
        raise CheckpointError(f"there is no file {path}")
    if not path.is_file():
        raise CheckpointError(f"{path} isn't a regular file")
    config = config or _config_beside(path)
    if _INDEX_NAME.fullmatch(path.name):
        return ShardedFiles(path, config)
    ending = path.suffix.lower()
    if ending in PICKLES:
        if not allow_pickle:
            raise CheckpointError(
                f"{path} is a pickle, which can run code",
                fix="use a .safetensors file, or allow pickles (allow_pickle=True) to read its weights only",
            )
        return PickleFile(path, config)
    if ending == ".gguf":
        from .gguf import GGUFFile

        return GGUFFile(path)
    if ending in (".safetensors", ".sft"):
        return SafetensorsFile(path, config)
    raise CheckpointError(
        f"{path} is of an unknown kind",
        got=path.suffix or "no ending",
        expected=f".safetensors, .safetensors.index.json, .gguf, {', '.join(PICKLES)}, or a folder",
    )


def _open_folder(folder: Path, variant: str | None, allow_pickle: bool) -> TensorSource:
    """The weights of a component's folder, in the order in which Diffusers looks for them."""
    mark = f".{variant}" if variant else ""
    for base in _BASE_NAMES:
        for name in (
            f"{base}{mark}.safetensors",
            f"{base}.safetensors.index{mark}.json",
            f"{base}{mark}.bin",
        ):
            if (folder / name).is_file():
                return _open_file(folder / name, allow_pickle, read_config(folder))
    if (folder / "model_index.json").is_file():
        raise CheckpointError(
            f"{folder} is a whole pipeline",
            expected="the folder of one component",
            fix=f"load it with from_pretrained, or give one of its parts, such as {folder / 'transformer'}",
        )
    found = sorted(
        path.name for path in folder.iterdir() if ".safetensors" in path.name or path.suffix in PICKLES
    )
    kind = f"weights of the variant {variant!r}" if variant else "weights"
    raise CheckpointError(
        f"the folder {folder} has no {kind}",
        got=", ".join(found[:5]) or "no weight files",
        expected=f"{_BASE_NAMES[0]}{mark}.safetensors or an index of shards",
    )


def _config_beside(path: Path) -> dict | None:
    """The config of a component whose weights were given by their own file name."""
    return read_config(path.parent) if path.name.startswith(_BASE_NAMES[0]) else None


def _read_index(index: Path) -> dict[str, str]:
    """Tensor -> file of an index; files must be plain names, so that nothing outside the folder is opened."""
    content = parse_json(index, _read_small(index))
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise damaged(index, "an index must have a weight_map", got=json.dumps(places)[:100])
    for tensor, name in places.items():
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name) or name.startswith("."):
            raise damaged(
                index,
                f"the index places {tensor[:100]} in a file that it can't name",
                got=str(name)[:100],
                expected="a file name that ends in .safetensors, in the same folder",
            )
    return places


def _read_small(path: Path) -> bytes:
    """A whole JSON file, unless it is absurdly long."""
    size = path.stat().st_size
    if size > MAX_HEADER_BYTES:
        raise damaged(path, "too long for what it should be", got=f"{size} bytes")
    return path.read_bytes()


def _open(path: Path) -> BinaryIO:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    return path.open("rb", buffering=0)
