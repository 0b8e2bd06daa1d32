"""What a conversion writes: every tensor and config of the target, planned before anything is written.

One function per layout. A target that can't be made is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from ..errors import CheckpointError, InputError
from ..schedulers.flow_match import LTXFlowMatchScheduler
from .in_tree import CLASSES, check_fits, in_tree_config, pipeline_index
from .kept_statistics import kept_statistics, to_json
from .loading import load_tensor
from .model_classes import MODEL_CLASSES, shapes_of
from .official_configs import (
    scheduler_from_official,
    scheduler_to_official,
    transformer_from_official,
    transformer_to_official,
    upsampler_from_official,
    upsampler_to_official,
    vae_from_official,
    vae_to_official,
)
from .opening import PIPELINE_FILE, SCHEDULER_FILE, OpenModel, all_fields
from .own_settings import ENTRY, RELEASE, SCHEDULER, STATISTICS, unstated
from .renames import to_official
from .text_encoders import COMFY_PREFIX, T5_ENCODER
from .writing import PlannedTensor

PREFIXES = MappingProxyType(
    {"transformer": "model.diffusion_model.", "vae": "vae.", "text_encoder": COMFY_PREFIX}
)
"""What stands before a part's names in a single file; nothing before an upsampler's."""

_OFFICIAL_CONFIGS: Mapping[str, tuple[Callable, Callable]] = {
    "transformer": (transformer_to_official, transformer_from_official),
    "vae": (vae_to_official, vae_from_official),
    "spatial_upsampler": (upsampler_to_official, upsampler_from_official),
    "temporal_upsampler": (upsampler_to_official, upsampler_from_official),
}
"""Kind -> our config to the official one, and back."""

_FORMAT = {"format": "pt"}
_WIDER_THAN_HALF = (torch.bfloat16, torch.float32, torch.float64)
# Metadata of a source file that isn't taken over: written anew, or ComfyUI's remarks on how it was made.
_NOT_TAKEN_OVER = ("config", "format", ENTRY, "prompt", "workflow")


class PlannedWeights(NamedTuple):
    """The weights of a single file, or those of one component in a folder."""

    folder: Path
    """Below the target; `.` for the target itself."""
    stem: str
    """Name of a component's files, without ending."""
    tensors: list[PlannedTensor]
    metadata: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """A target.

    Attributes:
        weights: Its weights; one entry for a single file.
        parts: Tensors of each part, under our names, as they will be.
        configs: Content of its JSON files, by their place in a folder.
        copied: Folders that are copied as they are, by their place.
        left_out: What the source has and this layout doesn't hold, in words.
    """

    weights: list[PlannedWeights]
    parts: dict[str, list[PlannedTensor]]
    configs: dict[Path, dict[str, Any]] = field(default_factory=dict)
    copied: dict[Path, Path] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of all weights."""
        return sum(tensor.nbytes for weights in self.weights for tensor in weights.tensors)


def plan_diffusers(model: OpenModel, dtype: torch.dtype | None) -> Plan:
    """A folder in Diffusers' layout: a pipeline's, or a component's if the source is a single part.

    Raises:
        CheckpointError: If Diffusers' classes can't hold the model.
    """
    alone = len(model.parts) == 1 and not model.is_pipeline
    parts = {kind: planned_tensors(model, kind, dtype) for kind in model.parts}
    weights: list[PlannedWeights] = []
    configs: dict[Path, dict[str, Any]] = {}
    components: dict[str, tuple[str, str]] = {}
    for kind, tensors in parts.items():
        folder = Path() if alone else Path(kind)
        config = dict(model.parts[kind].config)
        if kind == "text_encoder":
            components[kind] = model.classes.get(kind, T5_ENCODER)
            if dtype is not None:  # Transformers loads in the dtype that the config states
                config = {**config, "dtype": str(dtype).removeprefix("torch.")}
                config.pop("torch_dtype", None)
        else:
            config = in_tree_config(kind, config)
            check_fits(kind, config, {tensor.name: tensor.shape for tensor in tensors})
            components[kind] = ("diffusers", CLASSES[kind])
        configs[folder / "config.json"] = config
        stem = "model" if kind == "text_encoder" else "diffusion_pytorch_model"
        weights.append(PlannedWeights(folder, stem, tensors, _metadata(_remarks(model, kind, alone))))
    copied = {}
    if not alone:
        if model.undecided is not None:
            raise model.undecided
        if model.scheduler is not None:
            configs[SCHEDULER_FILE] = in_tree_config(SCHEDULER, all_fields(model.scheduler))
            components[SCHEDULER] = ("diffusers", CLASSES[SCHEDULER])
        if model.tokenizer is not None:
            copied[Path("tokenizer")] = model.tokenizer
            components["tokenizer"] = model.classes["tokenizer"]
        configs[Path(PIPELINE_FILE)] = pipeline_index(components)
    return Plan(weights, parts, configs, copied, _left_out(model, parts, tokenizer=True))


def plan_official(model: OpenModel, dtype: torch.dtype | None) -> Plan:
    """A single file with transformer and VAE, or one of the two, or an upsampler.

    Raises:
        CheckpointError: If the official classes can't express the model, or it lacks what they must know.
    """
    return _plan_file(model, dtype, [kind for kind in model.parts if kind != "text_encoder"], PREFIXES)


def plan_comfy(model: OpenModel, dtype: torch.dtype | None) -> Plan:
    """A single file as ComfyUI's checkpoint loader wants it: the official one, with the text encoder if there is one.

    A VAE alone is written without a prefix, as ComfyUI's loader of VAEs wants it.

    Raises:
        CheckpointError: As `plan_official`.
    """
    kinds = list(model.parts)
    return _plan_file(model, dtype, kinds, {} if kinds == ["vae"] else PREFIXES)


PLANS: Mapping[str, Callable[[OpenModel, torch.dtype | None], Plan]] = MappingProxyType(
    {"diffusers": plan_diffusers, "official": plan_official, "comfy": plan_comfy}
)
"""Layouts that can be written."""


def check_layout(to: str) -> None:
    """Check a layout's name.

    Raises:
        InputError: If there is no such layout.
    """
    if to not in PLANS:
        raise InputError("unknown layout", got=repr(to), expected=f"one of {', '.join(PLANS)}")


def planned_tensors(model: OpenModel, kind: str, dtype: torch.dtype | None) -> list[PlannedTensor]:
    """A part's tensors under our names, each in `dtype` or, if None, in its own.

    Raises:
        CheckpointError: If the weights are scaled fp8, which only `dtype` can undo.
    """
    part, source = model.parts[kind], model.sources[kind]
    if part.scales and dtype is None:
        raise CheckpointError(
            f"the {kind} of {model.path} has scaled fp8 weights, which other layouts have no place for",
            fix="give the dtype in which to write them, such as bfloat16",
        )
    tensors = []
    for name, stored in part.names.items():
        info = source.info(stored)
        target = info.dtype if dtype is None or not info.dtype.is_floating_point else dtype
        region = source.region(stored) if target == info.dtype and name not in part.scales else None
        tensors.append(
            PlannedTensor(name, target, info.shape, partial(load, model, kind, name, target), region)
        )
    if kind != "text_encoder":
        tensors += _defaults(tensors, shapes_of(kind, part.config))
    return tensors


def load(model: OpenModel, kind: str, name: str, dtype: torch.dtype) -> torch.Tensor:
    """The tensor that we call `name`, in a dtype, with its scale applied.

    Raises:
        CheckpointError: If it can't be read, or has values too large for the dtype.
    """
    part, source = model.parts[kind], model.sources[kind]
    tensor = load_tensor(part, source, name, dtype)
    stored = source.info(part.names[name]).dtype
    if dtype == torch.float16 and stored in _WIDER_THAN_HALF and tensor.isinf().any():
        original = load_tensor(part, source, name, torch.float32)
        if original.isfinite().all():
            raise CheckpointError(
                f"{name} of the {kind} has values too large for float16",
                got=original.abs().max().item(),
                expected=f"at most {torch.finfo(dtype).max}",
                fix="choose bfloat16 or float32",
            )
    return tensor


def _defaults(tensors: list[PlannedTensor], shapes: Mapping[str, tuple[int, ...]]) -> list[PlannedTensor]:
    """Tensors that files may leave out because they are 0 then: the latents' mean."""
    missing = shapes.keys() - {tensor.name for tensor in tensors}
    dtype = tensors[-1].dtype
    return [
        PlannedTensor(name, dtype, shapes[name], partial(torch.zeros, shapes[name], dtype=dtype))
        for name in sorted(missing)
    ]


def _plan_file(
    model: OpenModel, dtype: torch.dtype | None, kinds: list[str], prefixes: Mapping[str, str]
) -> Plan:
    upsamplers = [kind for kind in kinds if kind.endswith("upsampler")]
    if not kinds or (upsamplers and len(kinds) > 1):
        raise CheckpointError(
            f"{model.path} has no parts that official files hold together", got=", ".join(model.parts)
        )
    official: dict[str, Any] = {}
    remarks: dict[str, dict[str, Any]] = {}
    parts = {kind: planned_tensors(model, kind, dtype) for kind in kinds}
    tensors: list[PlannedTensor] = []
    for kind, planned in parts.items():
        prefix, part = prefixes.get(kind, ""), model.parts[kind]
        if kind not in MODEL_CLASSES:  # the text encoder, whose names are the same
            tensors += [tensor._replace(name=prefix + tensor.name) for tensor in planned]
            continue
        write, read = _OFFICIAL_CONFIGS[kind]
        config = write(part.config)
        official |= config if upsamplers else {kind: config}
        remarks[kind] = unstated(part.config, read(config), MODEL_CLASSES[kind])
        for tensor in planned:
            name = to_official(kind, tensor.name, part.vae_family)
            tensors.append(tensor._replace(name=prefix + name))
    if "vae" in parts:
        for name, kept in kept_statistics(model.parts["vae"], model.sources["vae"]).items():
            name = prefixes.get("vae", "") + name
            tensors.append(PlannedTensor(name, kept.dtype, tuple(kept.shape), partial(_same, kept)))
    if model.scheduler is None and model.undecided is not None:
        raise model.undecided
    if model.scheduler is not None and "transformer" in parts:
        config = scheduler_to_official(model.scheduler)
        allowed = model.scheduler.get("allowed_inference_steps")
        official[SCHEDULER] = config
        if allowed is not None:
            official["allowed_inference_steps"] = list(allowed)
        back = scheduler_from_official(config, allowed)
        remarks[SCHEDULER] = unstated(model.scheduler, back, LTXFlowMatchScheduler)
        if allowed is not None and "stochastic_sampling" in model.scheduler:
            # Of distilled models it must be stated: some need it, and their official configs are the same.
            remarks[SCHEDULER]["stochastic_sampling"] = model.scheduler["stochastic_sampling"]
    if model.version is not None:
        remarks[RELEASE] = {"name": model.version}
    metadata = {**_taken_over(model), "config": json.dumps(official), **_metadata(remarks)}
    weights = [PlannedWeights(Path(), "", tensors, metadata)]
    return Plan(weights, parts, left_out=_left_out(model, parts, tokenizer=False))


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _remarks(model: OpenModel, kind: str, alone: bool) -> dict[str, dict[str, Any]]:
    """What Diffusers' layout has no other place for."""
    remarks: dict[str, dict[str, Any]] = {}
    if kind == "vae":
        remarks[STATISTICS] = to_json(kept_statistics(model.parts[kind], model.sources[kind]))
    if kind == "transformer" and alone and model.scheduler is not None:
        remarks[SCHEDULER] = model.scheduler
    if kind != "text_encoder" and model.version is not None:
        remarks[RELEASE] = {"name": model.version}
    return remarks


def _metadata(remarks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    content = {name: fields for name, fields in remarks.items() if fields}
    return {**_FORMAT, **({ENTRY: json.dumps(content)} if content else {})}


def _taken_over(model: OpenModel) -> dict[str, str]:
    """Remarks of a single source file, such as its licence."""
    if model.layout in ("diffusers", "gguf"):
        return {}
    (source, *_) = model.sources.values()
    return {name: str(value) for name, value in source.metadata.items() if name not in _NOT_TAKEN_OVER}


def _left_out(model: OpenModel, parts: Mapping[str, Any], *, tokenizer: bool) -> tuple[str, ...]:
    left = [kind.replace("_", " ") for kind in model.parts if kind not in parts]
    if model.tokenizer is not None and not tokenizer:
        left.append("tokenizer")
    if model.unexpected:
        names = ", ".join(model.unexpected[:3]) + (", ..." if len(model.unexpected) > 3 else "")
        left.append(f"{len(model.unexpected)} tensors that belong to no part ({names})")
    return tuple(left)
