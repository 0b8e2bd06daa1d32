"""LoRA files and folders: found, read in any format, written in a chosen one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError, InputError
from ..tensors import PICKLES, TensorSource, open_tensors
from ..writing import PlannedTensor, new_folder, write_json, write_safetensors
from .adapter_config import AdapterConfig, peft_settings
from .formats import check_format, from_tensors, to_tensors
from .layers import Lora

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"
"""Where Diffusers keeps PEFT's description in a file's metadata."""

WEIGHT_ENDINGS = (".safetensors", *PICKLES)
"""Endings of files that may be LoRAs."""

_PEFT_STEM = "adapter_model"
_MAX_CONFIG_BYTES = 10_000_000
_SKIPPED = ("scheduler", "optimizer", "checkpoint")


def find_lora_file(folder: Path, weight_name: str | None = None) -> Path:
    """The weights in a folder: PEFT's, Diffusers', or the only file of their kind.

    Raises:
        CheckpointError: If there are none, or it isn't clear which.
    """
    if weight_name is not None:
        if Path(weight_name).name != weight_name:
            raise CheckpointError("weight_name must be a file's plain name", got=repr(weight_name))
        if not (folder / weight_name).is_file():
            raise CheckpointError(f"the folder {folder} has no file {weight_name}")
        return folder / weight_name
    names = [path.name for path in folder.iterdir() if path.is_file()]
    return folder / choose_lora_file(names, f"the folder {folder}")


def choose_lora_file(names: Sequence[str], where: str) -> str:
    """Which of the files in one place is the LoRA: Diffusers', PEFT's, or the only one of its kind.

    Raises:
        CheckpointError: If there is none, or it isn't clear which.
    """
    for name in (DIFFUSERS_FILE, PEFT_FILE):
        if name in names:
            return name
    candidates = [name for name in sorted(names) if not any(word in name for word in _SKIPPED)]
    weights = [name for name in candidates if name.endswith(".safetensors")]
    weights = weights or [name for name in candidates if name.endswith(PICKLES)]
    if len(weights) == 1:
        return weights[0]
    raise CheckpointError(
        f"{where} has {'several files that may be the LoRA' if weights else 'no LoRA'}",
        got=", ".join(weights[:5]) or None,
        expected=f"{DIFFUSERS_FILE}, {PEFT_FILE} or one .safetensors file",
        fix="name the file (weight_name)" if weights else None,
    )


def read_lora(
    source: str | Path | Mapping[str, Tensor],
    *,
    weight_name: str | None = None,
    allow_pickle: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Lora:
    """Read a LoRA of any format.

    Args:
        source: A file, a folder (of PEFT, of Diffusers, or with one .safetensors), or tensors by key.
        weight_name: In a folder: the file.
        allow_pickle: Whether a pickle may be opened, for weights only.
        settings: PEFT's description, for tensors that were given without a file.

    Raises:
        CheckpointError: If it is missing, damaged, or no LoRA of an LTX-Video transformer.
    """
    if isinstance(source, Mapping):
        config = None if settings is None else AdapterConfig(settings, "the adapter's settings")
        return from_tensors(source, config)
    path = Path(source).expanduser()
    if path.is_dir():
        path = find_lora_file(path, weight_name)
    with open_tensors(path, allow_pickle=allow_pickle) as file:
        config = _config_of(path, file.metadata)
        lora = from_tensors(_LoadedWhenAsked(file), config, str(path))
        return replace(lora, metadata=_remarks(file.metadata))


class _LoadedWhenAsked(Mapping):
    """A file's tensors; a large checkpoint that is no LoRA is recognised without loading it."""

    def __init__(self, file: TensorSource) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Tensor:
        return self._file.load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.names())

    def __len__(self) -> int:
        return len(self._file.names())


def write_lora(
    lora: Lora, target: str | Path, format: str = "diffusers", dtype: torch.dtype | None = None
) -> Path:
    """Write a LoRA.

    Args:
        lora: The LoRA.
        target: For "peft" a folder, new or empty. Otherwise a file, replaced if it is there, or a folder, which
            gets `pytorch_lora_weights.safetensors`.
        format: One of `formats.FORMATS`.
        dtype: Of the tensors; None keeps theirs. Alphas stay float32.

    Returns:
        The file with the weights.

    Raises:
        UnknownNameError: If there is no such format.
        InputError: If the format can't hold this LoRA, or the target can't be written.
    """
    check_format(format)
    path = check_target(target, format)
    lora = lora if dtype is None else lora.to(dtype)
    tensors = to_tensors(lora, format)
    plan = [
        PlannedTensor(name, tensor.dtype, tuple(tensor.shape), lambda t=tensor: t)
        for name, tensor in tensors.items()
    ]
    metadata = {"format": "pt", **lora.metadata}
    if format == "peft":
        with new_folder(path) as folder:
            write_safetensors(folder / PEFT_FILE, plan, metadata)
            write_json(
                folder / PEFT_CONFIG,
                {"peft_type": "LORA", "base_model_name_or_path": None, **peft_settings(lora)},
            )
        return path / PEFT_FILE
    if format == "diffusers":
        settings = {f"transformer.{name}": value for name, value in peft_settings(lora).items()}
        metadata[METADATA_KEY] = json.dumps(settings, indent=2, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, plan, metadata)
    return path


def check_target(target: str | Path, format: str) -> Path:
    """Where a LoRA will be written: the folder for "peft", otherwise the file.

    Raises:
        InputError: If it can't be.
    """
    path = Path(target).expanduser()
    if format == "peft":
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise InputError("the peft format is a folder, new or empty", got=f"{path}, which has content")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
    if path.is_dir() or not path.suffix:
        return path / DIFFUSERS_FILE
    if path.suffix != ".safetensors":
        raise InputError("a LoRA is written as a .safetensors file, or into a folder", got=path)
    return path


def _remarks(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What a file says of itself, but for how it stores things."""
    own = ("format", METADATA_KEY)
    return {key: text for key, text in metadata.items() if key not in own and isinstance(text, str)}


def _config_of(path: Path, metadata: Mapping[str, Any]) -> AdapterConfig | None:
    """PEFT's description of a file: in its metadata, or beside it."""
    if METADATA_KEY in metadata:
        source = f"the metadata of {path}"
        settings = _parse(metadata[METADATA_KEY], source)
        prefix = "transformer."
        if any(name.startswith(prefix) for name in settings):
            settings = {
                name.removeprefix(prefix): value
                for name, value in settings.items()
                if name.startswith(prefix)
            }
        return AdapterConfig(settings, source)
    beside = path.parent / PEFT_CONFIG
    if path.stem == _PEFT_STEM and beside.is_file():
        if beside.stat().st_size > _MAX_CONFIG_BYTES:
            raise CheckpointError(
                f"{beside} is too long for what it should be", got=f"{beside.stat().st_size} bytes"
            )
        return AdapterConfig(
            _parse(beside.read_text(encoding="utf-8", errors="replace"), str(beside)), str(beside)
        )
    return None


def _parse(text: object, source: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{source} isn't a JSON object", got=repr(text)[:80])
    return settings
