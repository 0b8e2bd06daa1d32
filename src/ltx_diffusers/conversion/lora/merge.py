"""LoRAs added to the weights of a checkpoint, tensor by tensor; the checkpoint keeps its layout and names."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, InputError
from ..tensors import INDEX_ENDING, PICKLES, SafetensorsFile, ShardedFiles, TensorSource, open_tensors
from ..writing import PlannedTensor, Progress, new_folder, write_safetensors
from .checkpoints import OpenTransformer, open_transformer
from .files import read_lora
from .layers import Lora, widened
from .report import LoraReport, check_effect, describe_lora, fitted

NOTE = "merged_loras"
"""Key in the metadata of merged files: names of the LoRAs and their weights, as JSON."""

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class MergeReport:
    """What merging did.

    Attributes:
        path: The new checkpoint.
        loras: What each LoRA does at weight 1, in the order in which they were given.
        changed: Parameters that were changed.
        rounding: Norm of what rounding to the checkpoint's dtype changed, over the norm of the whole change.
    """

    path: Path
    loras: tuple[LoraReport, ...]
    changed: int
    rounding: float


def merge_loras(
    checkpoint: str | Path,
    loras: Sequence[tuple[str | Path | Lora, float]],
    target: str | Path,
    *,
    progress: Progress | None = None,
    begin: Callable[[int], object] | None = None,
) -> MergeReport:
    """Write a copy of a checkpoint with LoRAs added to its transformer.

    Memory holds the LoRAs and one tensor at a time. Sums are made in float32 and rounded to the checkpoint's dtype.
    The weights mean what they mean for `set_adapters`, and the result is what PEFT computes with the adapters in that
    order; the order matters only where there is DoRA.

    Args:
        checkpoint: A single safetensors file, the transformer's folder, or a pipeline's folder, in any layout.
        loras: Files or folders of any format, or LoRAs, and their weights.
        target: The new file (replaced if it is there) or folder (new or empty), as `checkpoint` is.
        progress: Called with the number of bytes of each tensor that was written.
        begin: Called once with the number of tensors that will be written, when everything is checked.

    Raises:
        CheckpointError: If the checkpoint or a LoRA can't be used; before anything is written.
        InputError: If a LoRA would have no effect, a weight is 0 or not finite, or the target can't be written.
    """
    source, target = Path(checkpoint).expanduser(), Path(target).expanduser()
    _check_arguments(source, target, loras)
    with open_transformer(source) as model:
        chosen, reports = [], []
        for lora, weight in loras:
            read = lora if isinstance(lora, Lora) else read_lora(lora)
            read = fitted(read, model.shapes, differences=True)
            reports.append(describe_lora(read))
            check_effect(reports[-1], _name(lora))
            chosen.append((read, weight))
        changes = _Changes(chosen)
        _check_dtypes(model, changes.names)
        stored = {model.part.names[name]: name for name in changes.names}
        files, opened = _files(model.source), model.source.path
    note = json.dumps([[_name(lora), weight] for lora, weight in loras])
    rewrite = partial(_rewrite, changes=changes, stored=stored, note=note, progress=progress)

    if begin is not None:
        begin(sum(_count(path) for path in files))
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        rewrite(source, target)
    else:
        with new_folder(target) as folder:
            _copy_around(source, folder, opened)
            for path in files:
                rewrite(path, folder / path.relative_to(source))
    return MergeReport(target, tuple(reports), len(stored), changes.rounding)


class _Changes:
    """What LoRAs add to parameters, by our names, and how much of it rounding spoils."""

    def __init__(self, loras: Sequence[tuple[Lora, float]]) -> None:
        self._loras = loras
        self._change = self._error = 0.0
        names: dict[str, None] = {}
        for lora, _ in loras:
            for name, layer in lora.layers.items():
                names[f"{name}.weight"] = None
                if layer.bias is not None:
                    names[f"{name}.bias"] = None
            names |= dict.fromkeys(lora.differences)
        self.names = list(names)

    @property
    def rounding(self) -> float:
        """See `MergeReport`."""
        return math.sqrt(self._error / self._change) if self._change else 0.0

    def apply(self, name: str, parameter: Tensor) -> Tensor:
        """The changed parameter, in the dtype of the given one."""
        original = widened(parameter)
        layer_name, _, kind = name.rpartition(".")
        exact = original
        for lora, strength in self._loras:
            layer = lora.layers.get(layer_name)
            if layer is not None and kind == "weight":
                exact = layer.applied(exact, strength, original)
            if layer is not None and kind == "bias" and layer.bias is not None:
                exact = exact + layer.bias_update(strength)
            if name in lora.differences:
                exact = exact + strength * lora.differences[name].float()
        self._change += (exact - original).norm().item() ** 2
        rounded = exact.to(parameter.dtype)
        if not torch.isfinite(rounded).all():
            raise CheckpointError(
                f"the merged {name} is too large for {str(parameter.dtype).removeprefix('torch.')}",
                fix="use a smaller weight, or convert the checkpoint to bfloat16 first",
            )
        self._error += (exact - rounded).norm().item() ** 2
        return rounded


def _rewrite(
    source: Path,
    target: Path,
    *,
    changes: _Changes,
    stored: Mapping[str, str],
    note: str,
    progress: Progress | None,
) -> None:
    """One safetensors file with its changed tensors; `stored` has our names for those."""
    with open_tensors(source) as file:

        def load(name: str) -> Tensor:
            tensor = file.load(name)
            return changes.apply(stored[name], tensor) if name in stored else tensor

        infos = [file.info(name) for name in file.names()]
        plan = [PlannedTensor(info.name, info.dtype, info.shape, partial(load, info.name)) for info in infos]
        write_safetensors(target, plan, {**file.metadata, NOTE: note}, progress)


def _check_arguments(source: Path, target: Path, loras: Sequence[tuple[str | Path | Lora, float]]) -> None:
    if not loras:
        raise InputError("no LoRA was given to merge")
    for lora, weight in loras:
        if not math.isfinite(weight) or weight == 0:
            raise InputError(f"the weight of {_name(lora)} must be a number other than 0", got=weight)
    if source.name.endswith(INDEX_ENDING):
        raise InputError(
            "a sharded checkpoint is merged as a folder", got=source, fix=f"give {source.parent}"
        )
    if source.resolve() == target.resolve():
        raise InputError("the merged checkpoint must have another name than its source", got=target)
    if source.is_file() and (target.is_dir() or target.suffix != ".safetensors"):
        raise InputError(
            "a file is merged into a file", got=target, expected="a name that ends in .safetensors"
        )
    if source.is_dir() and (target.is_file() or (target.is_dir() and any(target.iterdir()))):
        raise InputError("a folder is merged into a folder, new or empty", got=f"{target}, which has content")
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise InputError("the merged folder can't be inside its source", got=target)


def _check_dtypes(model: OpenTransformer, names: Sequence[str]) -> None:
    """Refuse formats in which sums can't be stored."""
    if not isinstance(model.source, (SafetensorsFile, ShardedFiles)):
        raise CheckpointError(
            "LoRAs are merged into safetensors files",
            got=model.source.path,
            fix="convert it first (ltx-diffusers convert)",
        )
    for name in names:
        dtype = model.source.info(model.part.names[name]).dtype
        if dtype not in _DTYPES or name in model.part.scales:
            raise CheckpointError(
                "a LoRA would be lost in the rounding of 8-bit weights",
                got=f"{name} in {str(dtype).removeprefix('torch.')}",
                fix="convert the checkpoint first (ltx-diffusers convert --dtype bfloat16)",
            )


def _files(source: TensorSource) -> list[Path]:
    """The files that hold a checkpoint's tensors."""
    if source.path.suffix != ".json":
        return [source.path]
    places = json.loads(source.path.read_text(encoding="utf-8"))["weight_map"]
    return [source.path.parent / name for name in sorted(set(places.values()))]


def _count(path: Path) -> int:
    with open_tensors(path) as file:
        return len(file.names())


def _copy_around(source: Path, target: Path, opened: Path) -> None:
    """Copy a folder but for the transformer's weights, of which other variants would stay as they were.

    `opened` is the weights' file or index; an index is copied, because its shards keep their tensors.
    """

    def left_out(where: str, names: list[str]) -> list[str]:
        if Path(where) != opened.parent:
            return []
        weights = [name for name in names if name.endswith((".safetensors", *PICKLES))]
        indexes = [name for name in names if ".safetensors.index" in name and name != opened.name]
        return weights + indexes

    shutil.copytree(source, target, ignore=left_out, dirs_exist_ok=True)


def _name(lora: str | Path | Lora) -> str:
    return "the LoRA" if isinstance(lora, Lora) else Path(lora).name
