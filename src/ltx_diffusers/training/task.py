"""What a training run is about, in the form that the loop asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from .config import OptimizerConfig


@dataclass(frozen=True)
class Adversary:
    """What is trained against a task's module, by its own optimizer, after each of that module's steps.

    Attributes:
        module: Called with the inputs and a generator it returns named losses, each (B,); "loss" is minimised.
        optimizer: Its optimizer and schedule.
        first_step: The step that its training begins with.
        inputs: Gives its inputs after a pass of the task's module at a step; they need no gradient.
    """

    module: torch.nn.Module
    optimizer: OptimizerConfig
    first_step: int
    inputs: Callable[[int], dict[str, Any]]


class Task(Protocol):
    """What a training run is about.

    The loop divides a step's batch among processes, and among the passes of a process if it accumulates gradients:
    a rank here is one such share, and their number the world size.

    Optional attributes: `adversary`, an `Adversary` or None; `bin_names`, for each kind of bin ("timestep") the
    names of its bins; `work(step)`, the `Work` of a step (training/throughput.py); `validation_figures`, the names of
    the figures that `validate` gives.

    Attributes:
        module: What is trained; the task reaches it by this name only. Called with a batch and a generator it returns
            named losses, each (B,); the one called "loss" is minimised, the others are logged. One called "bin/KIND"
            holds the number of each sample's bin: the loss is logged for each bin.
        total_steps: Optimizer steps of the whole run.
    """

    module: torch.nn.Module
    total_steps: int

    def batch(self, step: int, rank: int, world_size: int) -> Any:
        """A rank's share of the data of a step."""

    def describe_sample(self, step: int, rank: int, world_size: int, index: int) -> str:
        """Words that identify one sample of a batch, for error messages."""

    def validate(self, folder: Path) -> dict[str, float]:
        """Measure the current weights, write pictures into a folder, return figures."""

    def finish(self) -> None:
        """Whatever has to be measured on the final weights before the export."""

    def export(self, folder: Path) -> None:
        """Write the finished model into an empty folder."""
