"""Time and memory that a piece of work takes on a device."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from pathlib import Path
from types import TracebackType

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class Usage:
    """Context that measures the seconds and the peak memory of what runs inside.

    Args:
        device: Where the work runs; a GPU is waited for.

    Attributes:
        seconds: Wall time.
        peak_bytes: Most memory in use meanwhile: of the GPU's allocator, or resident of the whole process on Linux;
            None where the system can't say. Take off what `memory_in_use` said before the first piece of work.

    Example:
        >>> with Usage(torch.device("cpu")) as usage:
        ...     torch.randn(1000, 1000)
        >>> usage.seconds, usage.peak_bytes
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self.peak_bytes: int | None = None
        self._has_peak = False
        self._started = 0.0

    def __enter__(self) -> Usage:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._has_peak = True
        else:
            self._has_peak = self.device.type == "cpu" and _reset_peak()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds = time.perf_counter() - self._started
        if self._has_peak and self.device.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device)
        elif self._has_peak:
            self.peak_bytes = _status_bytes("VmHWM")


def memory_in_use(device: torch.device) -> int | None:
    """Bytes in use now, as `Usage.peak_bytes` counts them; memory that was freed is given back to the system before.

    None where the system can't say.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    return _status_bytes("VmRSS")


def _reset_peak() -> bool:
    """Begin the process' peak of resident memory anew; whether the system can do that."""
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _status_bytes(name: str) -> int | None:
    try:
        lines = (line.split() for line in _STATUS.read_text().splitlines())
    except OSError:
        return None
    return next((int(words[1]) * 1024 for words in lines if words and words[0] == f"{name}:"), None)
