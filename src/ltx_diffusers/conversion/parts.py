"""The models in a checkpoint, each with our names for its tensors, checked against our classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import CheckpointError
from .layouts import FoundPart
from .model_classes import shapes_of
from .renames import VaeLayout, to_diffusers
from .tensors import TensorSource

FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALE_ENDINGS = (".scale_weight", ".weight_scale")
"""Names, behind a layer's, of the factor that its fp8 weight must be multiplied with."""

_ACTIVATION_ENDINGS = (".scale_input", ".input_scale", ".comfy_quant")
MARKS = ("scaled_fp8",)
"""Tensors by which ComfyUI marks files; they hold nothing."""

_OPTIONAL = {"vae": {"latents_mean"}}
"""Tensors that official files may lack: a missing mean is 0."""


@dataclass(frozen=True)
class Part:
    """One model in a checkpoint.

    Attributes:
        kind: "transformer", "vae", "spatial_upsampler", "temporal_upsampler", or "text_encoder" (listed only).
        config: All arguments of our class for it; {} for a text encoder.
        names: Our tensor name -> name in the file.
        dropped: Names in the file that no model needs: unused statistics, scales of activations.
        scales: Our tensor name -> name in the file of the factor of its fp8 values.
        vae_family: Kind of the VAE for `renames`, None for other parts.
        unexpected: Names in the file, among this model's, that the model doesn't have.
    """

    kind: str
    config: dict[str, Any]
    names: dict[str, str]
    dropped: list[str] = field(default_factory=list)
    scales: dict[str, str] = field(default_factory=dict)
    vae_family: str | VaeLayout | None = None
    unexpected: list[str] = field(default_factory=list)


def map_part(
    source: TensorSource, part: FoundPart, config: dict[str, Any], family: str | VaeLayout | None
) -> Part:
    """A part with our names for its tensors, checked against our model.

    Args:
        source: The file.
        part: The part as it was found.
        config: Of our class; {} for a text encoder.
        family: Kind of the VAE, None for other parts.

    Raises:
        CheckpointError: If a tensor is missing or there twice, has a wrong shape or dtype, or an unknown kind of scale.
    """
    if part.kind == "text_encoder":
        return Part(part.kind, {}, {part.inside(name): name for name in part.names})
    names: dict[str, str] = {}
    scales: dict[str, str] = {}
    dropped: list[str] = []
    for name in part.names:
        inside = part.inside(name)
        ending = next((ending for ending in SCALE_ENDINGS if inside.endswith(ending)), None)
        if inside in MARKS or inside.endswith(_ACTIVATION_ENDINGS):
            dropped.append(name)
            continue
        if ending is not None:
            inside = f"{inside.removesuffix(ending)}.weight"
        ours = to_diffusers(part.kind, inside, family) if part.naming == "official" else inside
        if ours is None:
            dropped.append(name)
            continue
        target = names if ending is None else scales
        if ours in target:
            raise CheckpointError(f"{source.path}: two tensors are {ours}", got=f"{target[ours]}, {name}")
        target[ours] = name
    expected = shapes_of(part.kind, config)
    unexpected = [names.pop(ours) for ours in list(names) if ours not in expected]
    _check_tensors(source, part.kind, names, expected)
    _check_scales(source, names, scales)
    return Part(part.kind, config, names, dropped, scales, family, unexpected)


def _check_tensors(
    source: TensorSource, kind: str, names: Mapping[str, str], expected: Mapping[str, tuple[int, ...]]
) -> None:
    missing = [name for name in expected if name not in names and name not in _OPTIONAL.get(kind, ())]
    if missing:
        raise CheckpointError(
            f"{source.path} lacks {len(missing)} of the {kind.replace('_', ' ')}'s {len(expected)} tensors",
            got=f"no {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}",
        )
    for name, stored in names.items():
        info = source.info(stored)
        if info.shape != expected[name]:
            raise CheckpointError(
                f"{source.path}: {stored} has another shape than its config says",
                got=info.shape,
                expected=expected[name],
            )
        if not info.dtype.is_floating_point:
            raise CheckpointError(
                f"{source.path}: {stored} isn't stored as floating-point numbers",
                got=info.dtype,
                fix="use a file in bf16, fp16, fp32, fp8 or GGUF",
            )


def _check_scales(source: TensorSource, names: Mapping[str, str], scales: Mapping[str, str]) -> None:
    """Scales must belong to weights, one for the whole tensor or one per row."""
    for name, stored in scales.items():
        if name not in names:
            raise CheckpointError(f"{source.path}: {stored} scales a tensor that isn't there")
        rows, shape = source.info(names[name]).shape[0], source.info(stored).shape
        if (
            shape not in ((), (1,), (1, 1), (rows,), (rows, 1))
            or not source.info(stored).dtype.is_floating_point
        ):
            raise CheckpointError(
                f"{source.path}: {stored} scales in a way that isn't known",
                got=shape,
                expected=f"one factor, or {rows}",
            )
