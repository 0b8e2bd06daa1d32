"""Checkpoints from one layout into another, tensor by tensor.

Everything that can be refused is refused before the first byte is written: the source's headers and configs are
checked against our models, the target's layout is planned in full, and the disk must have room for it. Then tensors
go from the source to the target one by one. The target appears whole or not at all (see `writing`).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import CheckpointError, InputError
from .opening import open_model
from .targets import PLANS, Plan, check_layout
from .verify import Report, compare
from .writing import new_folder, parse_size, write_json, write_safetensors, write_sharded

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that weights can be converted to."""

SINGLE_FILE_ENDING = ".safetensors"

StageProgress = Callable[[str, int, int], object]
"""Called with the stage ("writing" or "verifying"), the bytes done, and the bytes in all."""


@dataclass(frozen=True)
class ConvertedPart:
    """What was written of one part: tensors, values in them, dtypes (most frequent first), and bytes."""

    kind: str
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    nbytes: int


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        target: The file or folder written.
        layout: Its layout.
        version: The release, None if it isn't known.
        parts: What was written.
        nbytes: Size of all weights.
        seconds: Time that writing them took.
        notes: What was inferred and what was left out, in sentences.
        report: Of the comparison, if one was asked for.
    """

    target: Path
    layout: str
    version: str | None
    parts: tuple[ConvertedPart, ...]
    nbytes: int
    seconds: float
    notes: tuple[str, ...] = ()
    report: Report | None = None


def convert(
    source: str | Path,
    target: str | Path,
    to: str = "diffusers",
    *,
    dtype: torch.dtype | None = None,
    shard_size: int | str | None = None,
    version: str | None = None,
    allow_pickle: bool = False,
    verify: bool = False,
    progress: StageProgress | None = None,
) -> Conversion:
    """Convert a checkpoint into another layout.

    Memory holds one tensor at a time. A conversion that is killed leaves `TARGET.partial`, which the next one to the
    same target replaces, and no target.

    Args:
        source: A single file, an index of shards, or a folder in Diffusers' layout: a pipeline's or a component's.
        target: A new folder for "diffusers", a new file that ends in .safetensors for the others.
        to: "diffusers", "official" or "comfy"; see `targets`.
        dtype: float32, bfloat16 or float16 for all weights; None leaves each tensor's, and its bits.
        shard_size: For "diffusers": the most that one weight file may hold, in bytes or as "5GB"; None for one file
            per component.
        version: The release, a key of `releases.RELEASES`, for what the source doesn't tell.
        allow_pickle: Whether pickles may be read, weights only.
        verify: Whether to read both sides again and compare them; the result is in `Conversion.report`.
        progress: Called after each tensor.

    Raises:
        CheckpointError: If the source can't be used, or the target's layout can't hold it.
        InputError: If an argument is wrong, the target exists, or the disk has no room.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    shards = None if shard_size is None else parse_size(shard_size)
    _check_arguments(source, target, to, dtype, shards)
    with open_model(source, version=version, allow_pickle=allow_pickle) as model:
        plan = PLANS[to](model, dtype)
        _check_room(target.parent, plan.nbytes)
        started = time.perf_counter()
        _write(plan, target, to, shards, _counter("writing", plan.nbytes, progress))
        seconds = time.perf_counter() - started
        report = None
        if verify:
            with open_model(target) as written:
                counted = _counter("verifying", plan.nbytes, progress)
                report = compare(plan, model, written, counted)
        notes = (*model.notes, *(f"left out: {what}" for what in plan.left_out))
        return Conversion(target, to, model.version, _parts(plan), plan.nbytes, seconds, notes, report)


def _check_arguments(
    source: Path, target: Path, to: str, dtype: torch.dtype | None, shards: int | None
) -> None:
    check_layout(to)
    if dtype is not None and dtype not in DTYPES:
        raise InputError("can't convert to this dtype", got=dtype, expected="float32, bfloat16 or float16")
    single = to != "diffusers"
    if single and target.suffix != SINGLE_FILE_ENDING:
        raise InputError(
            f"{to} is a single file", got=target, expected=f"a name that ends in {SINGLE_FILE_ENDING}"
        )
    if not single and target.suffix == SINGLE_FILE_ENDING:
        raise InputError("diffusers is a folder", got=target, expected="a folder's name")
    if single and shards is not None:
        raise InputError(f"{to} is a single file, which has no shards", got=f"shard_size={shards}")
    if not source.exists():
        raise CheckpointError(f"there is no file or folder {source}")
    if target.exists() and not (target.is_dir() and not single and not any(target.iterdir())):
        raise InputError(f"{target} exists already", fix="remove it, or choose another name")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise InputError(f"{target.parent} isn't a folder to write into")


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the disk of {folder} has no room for the target",
            got=f"{free / 1e9:.2f} GB free",
            expected=f"{needed / 1e9:.2f} GB",
        )


def _counter(stage: str, total: int, progress: StageProgress | None) -> Callable[[int], None] | None:
    """Turns the bytes of single tensors into the bytes done so far."""
    if progress is None:
        return None
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(stage, done, total)

    return advance


def _write(
    plan: Plan, target: Path, to: str, shards: int | None, progress: Callable[[int], None] | None
) -> None:
    if to != "diffusers":
        (weights,) = plan.weights
        write_safetensors(target, weights.tensors, weights.metadata, progress)
        return
    with new_folder(target) as folder:
        for weights in plan.weights:
            place = folder / weights.folder
            place.mkdir(exist_ok=True)
            write_sharded(place, weights.stem, weights.tensors, shards, weights.metadata, progress)
        for path, content in plan.configs.items():
            (folder / path).parent.mkdir(exist_ok=True)
            write_json(folder / path, content)
        for path, original in plan.copied.items():
            shutil.copytree(original, folder / path)


def _parts(plan: Plan) -> tuple[ConvertedPart, ...]:
    parts = []
    for kind, tensors in plan.parts.items():
        counts: dict[str, int] = {}
        for tensor in tensors:
            name = str(tensor.dtype).removeprefix("torch.")
            counts[name] = counts.get(name, 0) + tensor.nbytes // tensor.dtype.itemsize
        dtypes = tuple(sorted(counts, key=lambda name: -counts[name]))
        parts.append(
            ConvertedPart(
                kind, len(tensors), sum(counts.values()), dtypes, sum(tensor.nbytes for tensor in tensors)
            )
        )
    return tuple(parts)
