"""Checkpoints and finished folders on disk: written under a temporary name, then renamed, never half there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import PickleError
from typing import Any, NamedTuple

from accelerate import Accelerator
from safetensors import SafetensorError

from ..errors import TrainingError

_RECORD = "run.json"
_BEST = "best.json"


def latest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    return max((run / "checkpoints").glob("step-*[0-9]"), default=None)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was written at."""
    return int(checkpoint.name.removeprefix("step-"))


def save_checkpoint(
    accelerator: Accelerator,
    run: Path,
    step: int,
    *,
    keep: int,
    record: Mapping[str, Any] | None = None,
    extra: Callable[[Path], None] | None = None,
) -> Path:
    """Save the accelerator's state as checkpoint `step-N` and delete all but the newest `keep` and the best one.

    Args:
        accelerator: Knows models, optimizers and what else is registered.
        run: The run's folder.
        step: Steps taken.
        keep: How many of the newest to keep.
        record: What else to know of this checkpoint, for `read_record`.
        extra: Writes more into the checkpoint's folder, in every process.

    Raises:
        TrainingError: If it can't be written, as on a full disk; the earlier checkpoints stay.
    """
    target = run / "checkpoints" / f"step-{step:08d}"
    partial = target.with_name(f"{target.name}.partial")
    if accelerator.is_main_process:
        _sweep(target.parent)
    accelerator.wait_for_everyone()
    try:
        if accelerator.is_main_process:
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        if extra is not None:
            extra(partial)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (partial / _RECORD).write_text(json.dumps(dict(record or {}) | {"step": step}, indent=2) + "\n")
            _flush_to_disk(partial)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # PyTorch and safetensors have errors of their own
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        raise TrainingError(
            f"the checkpoint of step {step} could not be written",
            got=str(error).partition("\n")[0][:200],
            fix=f"look at the space on the disk of {run}, then resume from the last checkpoint",
        ) from error
    if accelerator.is_main_process:
        _discard(target)
        partial.rename(target)
        best = best_checkpoint(run)
        for old in sorted(target.parent.glob("step-*[0-9]"))[:-keep]:
            if best is None or old != best.folder:
                _discard(old)
    accelerator.wait_for_everyone()
    return target


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> None:
    """Give models, optimizers and what else is registered the state of a checkpoint.

    Raises:
        TrainingError: If it is damaged, or isn't that of these models and optimizers.
    """
    try:
        accelerator.load_state(str(checkpoint))
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, PickleError, SafetensorError) as error:
        raise TrainingError(
            "the checkpoint can't be read, or is that of another model, optimizer or way of sharding",
            got=f"{checkpoint}: {str(error).strip().partition(chr(10))[0][:200]}",
            fix="take the settings that it was written with; if it is damaged, delete it: the one before will be "
            "taken",
        ) from error


def read_record(checkpoint: Path) -> dict[str, Any]:
    """What `save_checkpoint` recorded with a checkpoint; empty if nothing."""
    path = checkpoint / _RECORD
    return json.loads(path.read_text()) if path.is_file() else {}


class Best(NamedTuple):
    """The best checkpoint of a run.

    Attributes:
        folder: Where it is.
        figure: Name of the figure that it is the best by.
        value: The figure.
    """

    folder: Path
    figure: str
    value: float


def best_checkpoint(run: Path) -> Best | None:
    """The checkpoint that `mark_best` named, if it is still there."""
    path = run / "checkpoints" / _BEST
    if not path.is_file():
        return None
    found = json.loads(path.read_text())
    folder = run / "checkpoints" / found["checkpoint"]
    return Best(folder, found["figure"], found["value"]) if folder.is_dir() else None


def mark_best(checkpoint: Path, figure: str, value: float) -> None:
    """Name a checkpoint the best one of its run, which is kept however old it gets."""
    path = checkpoint.parent / _BEST
    partial = path.with_name(f"{_BEST}.partial")
    found = {"checkpoint": checkpoint.name, "figure": figure, "value": value}
    partial.write_text(json.dumps(found, indent=2) + "\n")
    partial.replace(path)


def _discard(checkpoint: Path) -> None:
    """Delete a checkpoint. It loses its name first, so that what is left of a broken deletion isn't taken for one."""
    if checkpoint.exists():
        waste = checkpoint.with_name(f"{checkpoint.name}.old")
        shutil.rmtree(waste, ignore_errors=True)
        checkpoint.rename(waste)
        shutil.rmtree(waste, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Delete what killed processes left: half-written and half-deleted checkpoints."""
    for pattern in ("step-*.partial", "step-*.old"):
        for waste in folder.glob(pattern):
            shutil.rmtree(waste, ignore_errors=True)


def _flush_to_disk(folder: Path) -> None:
    """Wait until all files are on the disk: a name must not outlive a crash of the machine that its files don't."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def forget_origins(folder: Path) -> None:
    """Take out of the configs in a saved model where its parts were loaded from: paths of this machine."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextmanager
def publish_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A new folder to write into that takes the name `target` once it is whole.

    An exception inside leaves what `target` was before. With `replace` an existing folder is exchanged.
    """
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if replace and target.exists():
            old = target.with_name(f"{target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            partial.rename(target)
            shutil.rmtree(old)
        else:
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
