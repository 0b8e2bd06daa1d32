"""Whether a converted model is what it was made from: strict both ways, tensor by tensor, and by its outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..schedulers.flow_match import LTXFlowMatchScheduler
from .loading import iterate_part
from .model_classes import MODEL_CLASSES
from .opening import OpenModel, open_model
from .own_settings import unstated
from .parts import FP8_DTYPES
from .small_runs import SMALL, outputs
from .targets import PLANS, Plan, check_layout

_NAMED = 3
"""Names that a line of the report gives; the report itself has all."""


@dataclass(frozen=True)
class PartReport:
    """One component of a converted model, compared with its source.

    Attributes:
        kind: Which.
        tensors: How many the target has.
        parameters: Values in them.
        dtypes: Tensors of each dtype.
        checksum: SHA-256 over names (those of Diffusers' classes, sorted), dtypes, shapes and values: the same for
            the same weights in every layout.
        missing: Tensors that the model has by its config, or the source, and the target lacks.
        unexpected: Tensors of the target that neither the model nor the source has.
        shapes: Tensors whose shape isn't the model's or the source's.
        dtypes_differ: Tensors whose dtype isn't the one asked for, or else the source's.
        not_finite: Tensors with NaN or infinite values.
        values: Tensors whose values aren't the source's, rounded to the dtype asked for.
        settings: Fields of the model's config that the source states otherwise.
        output_difference: Largest difference of both models' outputs in float32; None if the model is too large to
            be run, or isn't one of ours.
    """

    kind: str
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    checksum: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    dtypes_differ: tuple[str, ...] = ()
    not_finite: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    output_difference: float | None = None

    @property
    def problems(self) -> dict[str, tuple[str, ...]]:
        """Tensors, or settings, by what is wrong with them; {} if nothing is."""
        found = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.shapes,
            "of another dtype": self.dtypes_differ,
            "with NaN or infinite values": self.not_finite,
            "with other values": self.values,
            "settings stated otherwise": self.settings,
        }
        return {problem: names for problem, names in found.items() if names}

    @property
    def ok(self) -> bool:
        """Whether there is no problem, and the outputs, if any, are equal."""
        return not self.problems and not self.output_difference

    def lines(self) -> list[str]:
        """The report as text."""
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items())
        verdict = "equal" if self.ok else "DIFFERS"
        lines = [
            f"verified {self.kind}: {verdict}, {self.tensors} tensors ({dtypes}), {self.parameters:,} parameters, "
            f"sha256 {self.checksum}"
        ]
        for problem, names in self.problems.items():
            lines.append(f"  {len(names)} {problem}: {_some(names)}")
        if self.output_difference is not None:
            lines.append(f"  largest difference of the outputs: {self.output_difference:g}")
        return lines


@dataclass(frozen=True)
class Report:
    """A converted model, compared with its source, part by part.

    Attributes:
        parts: Of the target.
        lost: Kinds of parts that the target should have and hasn't.
        unexpected: Tensors of the target that belong to no part.
        scheduler: Fields of the scheduler's config that the source states otherwise.
    """

    parts: tuple[PartReport, ...]
    lost: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    scheduler: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything is there and as it should be."""
        whole = not (self.lost or self.unexpected or self.scheduler)
        return whole and all(part.ok for part in self.parts)

    def lines(self) -> list[str]:
        """The report as text."""
        lines = [f"verified {kind}: LOST" for kind in self.lost]
        if self.unexpected:
            lines.append(f"{len(self.unexpected)} tensors belong to no part: {_some(self.unexpected)}")
        if self.scheduler:
            lines.append(f"the scheduler's settings differ: {_some(self.scheduler)}")
        return [*lines, *(line for part in self.parts for line in part.lines())]


def verify(
    source: str | Path,
    target: str | Path,
    to: str,
    *,
    dtype: torch.dtype | None = None,
    version: str | None = None,
    allow_pickle: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Report:
    """Compare a model with one that was converted from it before.

    Args:
        source: What it was made from.
        target: The file or folder.
        to: Its layout.
        dtype: The dtype that was asked for, None if none was.
        version: The release, for what the source doesn't tell.
        allow_pickle: Whether pickles may be read, weights only.
        progress: Called after each tensor with its number of bytes.

    Raises:
        CheckpointError: If either can't be opened, or the target lacks tensors of its models.
        InputError: If there is no such layout.
    """
    check_layout(to)
    with open_model(source, version=version, allow_pickle=allow_pickle) as model:
        plan = PLANS[to](model, dtype)
        with open_model(target) as written:
            return compare(plan, model, written, progress)


def compare(
    plan: Plan, source: OpenModel, target: OpenModel, progress: Callable[[int], object] | None = None
) -> Report:
    """Compare a model just written with the source that it was planned from, tensor by tensor.

    Opening the target has already checked its configs, names and shapes against our models.

    Args:
        plan: What should have been written; gives the source's tensors in the dtypes asked for.
        source: What it was made from.
        target: What was written.
        progress: Called after each tensor with its number of bytes.
    """
    lost = tuple(kind for kind in plan.parts if kind not in target.parts)
    parts = [_compare_part(plan, source, target, kind, progress) for kind in plan.parts if kind not in lost]
    scheduler = ()
    if "transformer" in plan.parts and source.scheduler is not None:
        scheduler = tuple(unstated(source.scheduler, target.scheduler or {}, LTXFlowMatchScheduler))
    return Report(tuple(parts), lost, target.unexpected, scheduler)


def _compare_part(
    plan: Plan,
    source: OpenModel,
    target: OpenModel,
    kind: str,
    progress: Callable[[int], object] | None,
) -> PartReport:
    part, file = target.parts[kind], target.sources[kind]
    planned = {tensor.name: tensor for tensor in plan.parts[kind]}
    shapes, dtypes_differ, not_finite, values = [], [], [], []
    dtypes: dict[str, int] = {}
    checksum = hashlib.sha256()
    parameters = 0
    for name in sorted(part.names):
        tensor = file.load(part.names[name])
        label = str(tensor.dtype).removeprefix("torch.")
        checksum.update(f"{name} {label} {list(tensor.shape)}\n".encode())
        checksum.update(memoryview(_bytes(tensor).numpy()))
        dtypes[label] = dtypes.get(label, 0) + 1
        parameters += tensor.numel()
        if not (tensor.float() if tensor.dtype in FP8_DTYPES else tensor).isfinite().all():
            not_finite.append(name)
        if name not in planned:
            continue
        expected = planned[name]
        if tuple(tensor.shape) != tuple(expected.shape):
            shapes.append(name)
        elif tensor.dtype != expected.dtype:
            dtypes_differ.append(name)
        elif not torch.equal(_bytes(tensor), _bytes(expected.load())):
            values.append(name)
        if progress is not None:
            progress(expected.nbytes)
    return PartReport(
        kind=kind,
        tensors=len(part.names),
        parameters=parameters,
        dtypes=dtypes,
        checksum=checksum.hexdigest(),
        missing=tuple(name for name in planned if name not in part.names),
        unexpected=tuple(name for name in part.names if name not in planned),
        shapes=tuple(shapes),
        dtypes_differ=tuple(dtypes_differ),
        not_finite=tuple(not_finite),
        values=tuple(values),
        settings=_settings(source.parts[kind].config, part.config, kind),
        output_difference=None if shapes else _output_difference(plan, source, target, kind, parameters),
    )


def _settings(source: Mapping[str, Any], target: Mapping[str, Any], kind: str) -> tuple[str, ...]:
    return tuple(unstated(source, target, MODEL_CLASSES[kind])) if kind in MODEL_CLASSES else ()


def _output_difference(
    plan: Plan, source: OpenModel, target: OpenModel, kind: str, parameters: int
) -> float | None:
    """Largest difference of what both models compute, each built from its own config and weights."""
    if kind not in MODEL_CLASSES or parameters > SMALL:
        return None
    part, file = target.parts[kind], target.sources[kind]
    written = outputs(kind, part.config, dict(iterate_part(part, file, torch.float32)))
    planned = {tensor.name: tensor.load() for tensor in plan.parts[kind]}
    expected = outputs(kind, source.parts[kind].config, planned)
    if [tensor.shape for tensor in written] != [tensor.shape for tensor in expected]:
        return float("inf")
    return max((ours - theirs).abs().max().item() for ours, theirs in zip(written, expected, strict=True))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's values as bytes, so that NaN equals NaN and -0 isn't 0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
