"""The folder of a run: whether a run can begin there, and a lock against two at once."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from ..errors import InputError
from .checkpoints import latest_checkpoint
from .config import RunConfig
from .optimizer import check_optimizer
from .processes import join_processes

MODEL_FOLDER = "model"
"""Where in a run's folder the finished model is written."""

LOCK_FILE = "run.lock"
"""Names the process that trains in a run's folder."""

_PACKAGES = {
    "tensorboard": ("tensorboard", 'pip install "ltx-diffusers[train]"'),
    "wandb": ("wandb", "pip install wandb"),
    "trackio": ("trackio", "pip install trackio"),
}
_held: dict[tuple[int, Path], int] = {}
"""File descriptors of the locks of each process: a forked one inherits this table, but not the right to use it."""


def check_run(config: RunConfig, *, resume: bool = False) -> Path | None:
    """Check before any work whether a run can begin, without writing anything.

    Returns:
        The checkpoint to go on from; None for a new run.

    Raises:
        InputError: If the run's folder holds checkpoints or a finished model and `resume` is False, or no checkpoint
            and `resume` is True, if the folder can't be written, or a package is missing that a logger or the
            optimizer needs.
    """
    folder = Path(config.output)
    checkpoint = latest_checkpoint(folder)
    if checkpoint is not None and not resume:
        raise InputError(
            "the run's folder already holds checkpoints",
            got=folder,
            fix="add --resume to go on, or choose another output=",
        )
    if checkpoint is None and resume:
        raise InputError("there is no checkpoint to resume from", got=folder, fix="leave out --resume")
    if checkpoint is None and (folder / MODEL_FOLDER).exists():
        raise InputError(
            "the run's folder already holds a model", got=folder / MODEL_FOLDER, fix="choose another output="
        )
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError("can't write to the run's folder", got=folder, fix="choose another output=")
    for logger in config.loggers:
        package, install = _PACKAGES[logger]
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"the logger {logger!r} needs the package {package}",
                fix=f"{install}, or choose others with loggers=[...]",
            )
    for logger in config.logger_options:
        if logger not in config.loggers:
            raise InputError(
                "config key 'logger_options': not one of the run's loggers",
                got=logger,
                expected=", ".join(config.loggers) or "none",
            )
    check_optimizer(config.optimizer, join_processes().device)
    return checkpoint


def hold_run(folder: Path) -> None:
    """Keep other processes from training in a run's folder, until `release_run` or the end of this process.

    The system drops the lock however the process ends. File systems without locks are not guarded.

    Raises:
        InputError: If another process trains there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = (os.getpid(), folder.resolve())
    if fcntl is None or key in _held:
        return
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        raise InputError(
            "another process is training in the run's folder",
            got=f"{folder}, {owner or 'just started'}",
            fix="wait for it, or choose another output=",
        ) from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return
    os.truncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _held[key] = descriptor


def release_run(folder: Path) -> None:
    """Let others train in a run's folder. The file stays: one that is deleted could be held by two."""
    descriptor = _held.pop((os.getpid(), folder.resolve()), None)
    if descriptor is not None:
        os.truncate(descriptor, 0)
        os.close(descriptor)
