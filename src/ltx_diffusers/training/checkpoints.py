"""Checkpoints and finished folders on disk: written under a temporary name, then renamed, never half there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError

from ..errors import TrainingError


def latest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    return max((run / "checkpoints").glob("step-*[0-9]"), default=None)


def save_checkpoint(accelerator: Accelerator, run: Path, step: int, *, keep: int) -> Path:
    """Save the accelerator's state as checkpoint `step-N` and delete all but the newest `keep`.

    Raises:
        TrainingError: If it can't be written, as on a full disk; the earlier checkpoints stay.
    """
    target = run / "checkpoints" / f"step-{step:08d}"
    partial = target.with_name(f"{target.name}.partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(partial))
    except (OSError, RuntimeError, SafetensorError) as error:  # PyTorch and safetensors have errors of their own
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        raise TrainingError(
            f"the checkpoint of step {step} could not be written",
            got=str(error).partition("\n")[0][:200],
            fix=f"look at the space on the disk of {run}, then resume from the last checkpoint",
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for old in sorted(target.parent.glob("step-*[0-9]"))[:-keep]:
            shutil.rmtree(old)
    return target


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
