"""The progress bar and log lines of a training run."""

from __future__ import annotations

import sys
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class TrainingProgress:
    """A bar on a terminal and a line per logged step everywhere; silent on all ranks but the first.

    Args:
        total: Steps of the whole run.
        completed: Steps already taken.
        visible: Whether this process shows anything.
    """

    def __init__(self, total: int, completed: int, visible: bool) -> None:
        self._total = total
        self._console = Console(file=sys.stderr, quiet=not visible, soft_wrap=True)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            console=self._console,
            disable=not visible or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("steps", total=total, completed=completed, loss=float("nan"))

    def __enter__(self) -> TrainingProgress:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def note(self, text: str) -> None:
        """Write a line."""
        self._console.print(text, markup=False, highlight=False)

    def advance(self, figures: dict[str, float]) -> None:
        """Count one step."""
        self._bar.update(self._task, advance=1, loss=figures["loss"])

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Write a line of figures, and how long the rest takes if they have `seconds_per_step`."""
        words = [f"{name} {value:.4g}" for name, value in figures.items()]
        if "seconds_per_step" in figures and step < self._total:
            seconds = round(figures["seconds_per_step"] * (self._total - step))
            words.append(f"left {timedelta(seconds=seconds)}")
        self._console.print(f"step {step}: " + "  ".join(words))
