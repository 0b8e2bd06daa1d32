"""Times, peaks of memory and limits of a machine, for `benchmarks.run`.

On a CPU a time is the processor time (user and system) of this process and of those that it has waited for: with one
thread it doesn't count what others do on the machine. On a GPU it is wall time between two synchronisations.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], Any]


def seconds_of(work: Work, device: torch.device) -> float:
    """Time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    before = _processor_seconds()
    work()
    return _processor_seconds() - before


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def interleaved_seconds(works: dict[str, Work], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Times of `rounds` calls of each, in the order A B B A A B ...; call each once beforehand to warm it up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for index in range(rounds):
        names = list(works) if index % 2 == 0 else list(works)[::-1]
        for name in names:
            times[name].append(seconds_of(works[name], device))
    return times


def peak_bytes(work: Work, device: torch.device) -> int | None:
    """Most memory in use during a call, above what was in use before it. None where it can't be told."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """A number of bytes that Linux knows of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def summary(times: list[float]) -> dict[str, float]:
    """Median and spread, in seconds; the spread is half the distance of the quartiles over the median."""
    median = statistics.median(times)
    quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [median] * 3
    return {
        "median_seconds": round(median, 5),
        "fastest_seconds": round(min(times), 5),
        "spread": round((quartiles[2] - quartiles[0]) / 2 / median, 4) if median else 0.0,
    }


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """|got - expected| / |expected|."""
    got, expected = got.double().cpu(), expected.double().cpu()
    return float((got - expected).norm() / expected.norm())


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of the machine's best product of two matrices."""
    from ltx_diffusers.functional.cpu_linear import linear

    side = 8192 if device.type == "cuda" else 1024
    x, weight = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with torch.no_grad():
        times = interleaved_seconds({"product": lambda: linear(x, weight, None)}, 10, device)["product"]
    return 2 * side**3 / min(times)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes."""
    numbers = torch.empty((1 << 30) if device.type == "cuda" else (1 << 26), device=device)
    target = torch.empty_like(numbers)
    times = interleaved_seconds({"copy": lambda: target.copy_(numbers)}, 5, device)["copy"]
    return 2 * numbers.numel() * numbers.itemsize / min(times)


def hardware(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    known: dict[str, Any] = {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
    if device.type == "cuda":
        return known | {"name": torch.cuda.get_device_name(device)}
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return known | {
        "name": next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?"),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
