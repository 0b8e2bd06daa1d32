"""Where the time goes: stages of a command with a progress bar each, and the memory that they needed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Stages:
    """Times the stages of a command, one after the other, and shows them on a terminal's stderr while they run.

    Args:
        synchronize: Called where a stage ends, to wait for work that a GPU still has to do.

    Attributes:
        seconds: Wall time of each finished stage by name.

    Example:
        >>> with Stages() as stages:
        ...     stages.begin("load")
        ...     stages.begin("denoise", total=20)
        ...     stages.advance()
    """

    def __init__(self, synchronize: Callable[[], Any] | None = None) -> None:
        self.synchronize = synchronize
        self.seconds: dict[str, float] = {}
        self._current: str | None = None
        self._started = 0.0
        self._bar = self._task = None
        self._done, self._total = 0, None

    def __enter__(self) -> Stages:
        if sys.stderr.isatty():
            self._bar = _progress_bar()
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._end()
        finally:
            if self._bar is not None:
                self._bar.stop()

    def wait_for(self, device: torch.device) -> None:
        """Let each stage end only when a device has done its work, if it is an NVIDIA GPU."""
        if device.type == "cuda":
            import torch

            self.synchronize = lambda: torch.cuda.synchronize(device)

    def begin(self, name: str, total: int | None = None) -> None:
        """End the current stage and begin another; a stage begun again goes on counting.

        Args:
            name: Of the stage, as it is shown.
            total: How many times `advance` will be called, if known.
        """
        self._end()
        self._current, self._started = name, time.perf_counter()
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=total, count=_count(0, total))
            self._done, self._total = 0, total

    def advance(self) -> None:
        """One part of the current stage is done."""
        if self._bar is not None:
            self._done += 1
            self._bar.update(self._task, advance=1, count=_count(self._done, self._total))

    def summary(self) -> str:
        """The stages and their times in one line, such as "load 3.1 s, denoise 4.0 s"."""
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())

    def _end(self) -> None:
        if self._current is None:
            return
        if self.synchronize is not None:
            self.synchronize()
        elapsed = time.perf_counter() - self._started
        self.seconds[self._current] = self.seconds.get(self._current, 0.0) + elapsed
        if self._bar is not None:
            self._bar.remove_task(self._task)
        self._current = None


def peak_memory() -> int | None:
    """The most main memory that this process has held so far, in bytes; None where the system can't say."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux' getrusage also counts what the parent held before it started us; this doesn't.
        lines = (line.split() for line in status.read_text().splitlines())
        return next((int(words[1]) * 1024 for words in lines if words and words[0] == "VmHWM:"), None)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _count(done: int, total: int | None) -> str:
    """What stands behind a bar: nothing where it isn't known how long it is."""
    return "" if total is None else f"{done}/{total}"


def _progress_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)
