"""Counting and measuring the memory of training steps; used by `vae_memory.py` and `lora_memory.py`."""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import weakref
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 2**30


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all storages that operations return, as long as they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peaks: dict[str, int] = {}
        self.phase = "setup"
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._watch(leaf.untyped_storage())
        return result

    def start(self, phase: str) -> None:
        """Begin a phase of the step, which gets a peak of its own."""
        self.phase = phase
        self.peaks[phase] = self.now

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self.now)
            weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def numbers(size: str) -> tuple[int, int, int]:
    """Width, height and frames of "WIDTHxHEIGHTxFRAMES"."""
    width, height, frames = map(int, size.split("x"))
    return width, height, frames


def resident() -> int:
    """Bytes of this process's resident set (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def forget_peak() -> None:
    """Let `peak_resident` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> int:
    """Most bytes of this process's resident set since `forget_peak` (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measured_alone(script: str, *words: str) -> int:
    """The number that a script prints last, run by itself where memory can be measured.

    That is with one thread, and with every larger tensor in pages of its own, which go back when it dies.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, script, *words]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def gib(found: dict[str, Any]) -> dict[str, Any]:
    """Bytes, in dictionaries, as GiB with two decimals."""
    return {
        name: gib(value) if isinstance(value, dict) else round(value / GIB, 2)
        for name, value in found.items()
    }


def describe_run(*packages: str) -> dict[str, Any]:
    """When, by what command and with what a report was made."""
    return {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores (only for the check)",
        "versions": {name: metadata.version(name) for name in packages},
    }


def write_report(report: dict[str, Any], path: Path | None) -> None:
    """Write a report as JSON, whole or not at all; None writes nothing."""
    if path is not None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(report, indent=2) + "\n")
        partial.replace(path)
