"""What is in a single checkpoint file, from its header. No tensor is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..conversion.describe import Part, describe
from ..conversion.gguf import GGUFFile
from ..conversion.model_classes import MODEL_CLASSES
from ..conversion.safetensors_header import DTYPES
from ..conversion.tensors import TensorSource, open_tensors
from ..errors import CheckpointError
from .inspection import BUFFERS, SETTINGS, Component

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LORA_MARKS = ("lora_A", "lora_B", "lora_down", "lora_up", "lora_unet_")


@dataclass(frozen=True)
class FileInfo:
    """A checkpoint file.

    Attributes:
        source: The file.
        layout: "official", "comfy", "diffusers" or "gguf".
        version: The release, None if several fit.
        version_from: Where that comes from: "metadata" or "tensors"; None without a version.
        candidates: Releases that fit what the file says; none for a model of its own.
        precision: Precision of most of its bytes.
        components: Its parts, and the scheduler that its metadata describes.
        unexpected: Tensors that belong to no part.
        metadata: The file's own remarks.
    """

    source: str
    layout: str
    version: str | None
    version_from: str | None
    candidates: tuple[str, ...]
    precision: str
    components: tuple[Component, ...]
    unexpected: tuple[str, ...]
    metadata: dict[str, Any]

    @property
    def parameters(self) -> int:
        """Learned values of all parts together."""
        return sum(component.parameters or 0 for component in self.components)


def inspect_file(path: str | Path, *, allow_pickle: bool = False) -> FileInfo:
    """What is in a single checkpoint file, or in the shards that an index names.

    Args:
        path: The file.
        allow_pickle: Whether a pickle may be opened, weights only.

    Raises:
        CheckpointError: If it is damaged, hostile, or no checkpoint of LTX-Video.
    """
    with open_tensors(path, allow_pickle=allow_pickle) as source:
        _refuse_lora(source)
        found = describe(source, undecided_ok=True)
        components = [_component(part, source) for part in found.parts.values()]
        if found.scheduler_config is not None:
            known = {name: found.scheduler_config.get(name) for name in SETTINGS["scheduler"]}
            settings = {name: value for name, value in known.items() if value is not None}
            components.append(Component("scheduler", None, "LTXFlowMatchScheduler", None, settings=settings))
        return FileInfo(
            source=str(path),
            layout=found.layout,
            version=found.version,
            version_from=found.version_from,
            candidates=found.candidates,
            precision=found.precision,
            components=tuple(components),
            unexpected=tuple(found.unexpected),
            metadata=dict(found.metadata),
        )


def _component(part: Part, source: TensorSource) -> Component:
    values: dict[str, int] = {}
    nbytes = parameters = 0
    for name, stored in part.names.items():
        info = source.info(stored)
        count = math.prod(info.shape)
        kind = source.quantization(stored).name if isinstance(source, GGUFFile) else _NAMES[info.dtype]
        values[kind] = values.get(kind, 0) + count
        nbytes += info.nbytes
        parameters += 0 if name in BUFFERS else count
    ours = MODEL_CLASSES.get(part.kind)
    config = part.config
    return Component(
        name=part.kind,
        library=None,
        class_name=ours.__name__ if ours else None,
        version=None,
        parameters=parameters,
        dtypes=tuple(sorted(values, key=lambda kind: -values[kind])),
        bytes=nbytes,
        settings={name: config[name] for name in SETTINGS.get(part.kind, ()) if config.get(name) is not None},
    )


def _refuse_lora(source: TensorSource) -> None:
    names = source.names()
    if names and all(any(mark in name for mark in (*_LORA_MARKS, ".alpha", "dora")) for name in names):
        raise CheckpointError(
            f"{source.path} is a LoRA, not a model",
            got=names[0],
            fix=f"ltx-diffusers lora info {source.path}",
        )
