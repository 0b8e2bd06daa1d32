"""What is in a model, read from its JSON files and the headers of its weight files. No weights are loaded.

A safetensors file begins with the length of its header, 8 bytes, little-endian, and the header: JSON with the
dtype, shape and place of every tensor.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..errors import InputError
from .sources import COMPONENT_FILE, PIPELINE_FILE, find_model, unknown_repository, unreachable_repository

_CONFIG_FILES = (COMPONENT_FILE, "scheduler_config.json", "tokenizer_config.json", "preprocessor_config.json")
# The latents' statistics are stored among the weights but aren't learned.
BUFFERS = ("latents_mean", "latents_std")
_MAX_HEADER_BYTES = 100_000_000

# The fields that decide how a model is used, by component; the rest of a config is its structure's detail.
SETTINGS = {
    "transformer": (
        "causal_temporal_positioning",
        "timestep_scale_multiplier",
        "num_layers",
        "num_attention_heads",
        "attention_head_dim",
        "in_channels",
        "caption_channels",
    ),
    "vae": (
        "latent_channels",
        "spatial_compression_ratio",
        "temporal_compression_ratio",
        "timestep_conditioning",
        "default_decode_timestep",
        "default_decode_noise_scale",
        "encoder_causal",
        "decoder_causal",
    ),
    "scheduler": (
        "schedule",
        "schedule_options",
        "shifting",
        "shift_terminal",
        "stochastic_sampling",
        "allowed_inference_steps",
        "default_num_inference_steps",
        "default_guidance_scale",
        "use_dynamic_shifting",
        "base_shift",
        "max_shift",
    ),
    "spatial_upsampler": ("in_channels", "mid_channels", "num_blocks_per_stage", "spatial_upsample"),
    "temporal_upsampler": ("in_channels", "mid_channels", "num_blocks_per_stage", "temporal_upsample"),
    "text_encoder": ("d_model", "num_layers", "vocab_size"),
    "tokenizer": ("model_max_length",),
}


class Tensor(NamedTuple):
    """A tensor as the header of its file describes it."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Component:
    """One component of a model.

    Attributes:
        name: Its name in the pipeline ("vae"); the folder's name if it stands alone.
        library: Library of its class, None if the component stands alone.
        class_name: Its class.
        version: Version of the library that saved it, None if it isn't recorded.
        parameters: Number of learned values, None if it has no readable weights.
        dtypes: Dtypes of the weights, the most frequent first.
        bytes: Size of the weights.
        settings: Fields of its config that decide how it is used.
    """

    name: str
    library: str | None
    class_name: str | None
    version: str | None
    parameters: int | None = None
    dtypes: tuple[str, ...] = ()
    bytes: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelInfo:
    """A model: its source, the class and version of its pipeline (None for a lone component), its components."""

    source: str
    pipeline: str | None
    version: str | None
    components: tuple[Component, ...]

    @property
    def parameters(self) -> int:
        """Learned values of all components together."""
        return sum(component.parameters or 0 for component in self.components)


class ModelFiles(Protocol):
    """Files of a model, wherever they are. Names are relative, with slashes."""

    def names(self) -> list[str]:
        """All files."""

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file's object."""

    def read_header(self, name: str) -> dict[str, Tensor]:
        """Tensors of a safetensors file by name."""


class FolderFiles:
    """Files of a model in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """All files."""
        files = (path for path in self._folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self._folder).as_posix() for path in files)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file's object.

        Raises:
            InputError: If it isn't one.
        """
        return _read_json(self._folder / name)

    def read_header(self, name: str) -> dict[str, Tensor]:
        """Tensors of a safetensors file by name; see `read_safetensors_header`."""
        return read_safetensors_header(self._folder / name)


class RepositoryFiles:
    """Files of a repository on the Hub; fetches JSON files and the heads of weight files, nothing more."""

    def __init__(self, repository: str) -> None:
        from huggingface_hub import HfApi

        self._repository = repository
        self._api = HfApi()

    def names(self) -> list[str]:
        """All files."""
        return self._api.list_repo_files(self._repository)

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file's object.

        Raises:
            InputError: If it isn't one.
        """
        return _read_json(Path(self._api.hf_hub_download(self._repository, name)))

    def read_header(self, name: str) -> dict[str, Tensor]:
        """Tensors of a safetensors file by name."""
        found = self._api.parse_safetensors_file_metadata(self._repository, name).tensors
        return {key: Tensor(info.dtype, tuple(info.shape)) for key, info in found.items()}


def read_safetensors_header(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name.

    Raises:
        InputError: If it isn't a safetensors file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: Tensor(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("not a safetensors file", got=path, fix=f"({error})") from None


def inspect_model(model: str) -> ModelInfo:
    """What is in a model.

    Args:
        model: "embedded", a folder, or a repository; see `find_model`.

    Raises:
        UnknownNameError: If there is no such model; the message lists near names.
        InputError: If its files are broken, or the Hub can't be reached and the repository isn't in the cache.
    """
    found = find_model(model)
    if isinstance(found, Path):
        return _inspect(FolderFiles(found), model, found.name)
    return _inspect_repository(found)


def _inspect_repository(repository: str) -> ModelInfo:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    name = repository.partition("/")[2]
    try:
        return _inspect(RepositoryFiles(repository), repository, name)
    except (RepositoryNotFoundError, HFValidationError):
        raise unknown_repository(repository) from None
    except InputError:
        raise
    except Exception as problem:  # the client's network errors have no common base
        try:
            cached = Path(snapshot_download(repository, local_files_only=True))
        except OSError:
            raise unreachable_repository(repository, problem) from None
        return _inspect(FolderFiles(cached), repository, name)


def _inspect(files: ModelFiles, source: str, name: str) -> ModelInfo:
    names = files.names()
    if PIPELINE_FILE not in names:
        if COMPONENT_FILE not in names:
            raise InputError(f"{source} has no model", expected=f"a {PIPELINE_FILE} or a {COMPONENT_FILE}")
        alone = _component(files, names, name, "", None, None)
        return ModelInfo(source, None, None, (alone,))
    index = files.read_json(PIPELINE_FILE)
    components = [
        _component(files, names, name, f"{name}/", *entry)
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 2 and entry[1] is not None
    ]
    return ModelInfo(source, index.get("_class_name"), index.get("_diffusers_version"), tuple(components))


def _component(
    files: ModelFiles, names: list[str], name: str, prefix: str, library: str | None, class_name: str | None
) -> Component:
    config: dict[str, Any] = {}
    for config_name in _CONFIG_FILES:
        if prefix + config_name in names:
            config = files.read_json(prefix + config_name)
            break
    tensors: dict[str, Tensor] = {}
    for weights in _weight_files(names, prefix):
        tensors |= files.read_header(weights)
    learned = [tensor for key, tensor in tensors.items() if key not in BUFFERS]
    kind = name if name in SETTINGS else _kind_of(class_name or config.get("_class_name", ""))
    return Component(
        name=name,
        library=library,
        class_name=class_name
        or config.get("_class_name")
        or next(iter(config.get("architectures", [])), None),
        version=config.get("_diffusers_version") or config.get("transformers_version"),
        parameters=sum(_count(tensor) for tensor in learned) if tensors else None,
        dtypes=_by_frequency(learned),
        bytes=sum(_count(tensor) * _bits(tensor.dtype) for tensor in tensors.values()) // 8,
        settings={key: config[key] for key in SETTINGS.get(kind, ()) if config.get(key) is not None},
    )


def _weight_files(names: Iterable[str], prefix: str) -> list[str]:
    """Weight files of one component: the plain ones if there are also variants such as `model.fp16.safetensors`."""
    inside = [name for name in names if name.startswith(prefix) and "/" not in name[len(prefix) :]]
    weights = [name for name in inside if name.endswith(".safetensors")]
    plain = [name for name in weights if "." not in name[len(prefix) :].removesuffix(".safetensors")]
    return plain or weights


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError("not a JSON file", got=path, fix=f"({error})") from None
    if not isinstance(content, dict):
        raise InputError("not a JSON object", got=path)
    return content


def _kind_of(class_name: str) -> str:
    kinds = {
        "Transformer": "transformer",
        "Autoencoder": "vae",
        "Scheduler": "scheduler",
        "T5": "text_encoder",
    }
    return next((kind for part, kind in kinds.items() if part in class_name), "")


def _count(tensor: Tensor) -> int:
    return math.prod(tensor.shape)


def _bits(dtype: str) -> int:
    """Bits of one value of a safetensors dtype such as BF16, F8_E4M3 or BOOL."""
    digits = dtype.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ").partition("_")[0]
    return int(digits) if digits else 8


def _by_frequency(tensors: list[Tensor]) -> tuple[str, ...]:
    values: dict[str, int] = {}
    for tensor in tensors:
        values[tensor.dtype] = values.get(tensor.dtype, 0) + _count(tensor)
    return tuple(sorted(values, key=lambda dtype: -values[dtype]))
