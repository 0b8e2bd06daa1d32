"""The training loop, on accelerate: one for every kind of model.

A `Task` says what is trained on what; the loop does the steps, the moving average, checkpoints, logs, validation
and the export. Every random draw of step n comes from (seed, rank, n) alone and a clip from its number, so that a
resumed run takes the steps that an unbroken one would have taken.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from diffusers.training_utils import EMAModel

from ..errors import InputError, TrainingError
from .checkpoints import forget_origins, latest_checkpoint, publish_folder, save_checkpoint
from .config import OptimizerConfig, RunConfig, save_config
from .player import Player
from .progress import TrainingProgress

logger = logging.getLogger(__name__)

MODEL_FOLDER = "model"
"""Where in a run's folder the finished model is written."""


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
    """What a training run is about. It may also have an attribute `adversary`, an `Adversary` or None.

    Attributes:
        module: What is trained. Called with a batch and a generator it returns named losses, each (B,); the one
            called "loss" is minimised, the others are logged.
        total_steps: Optimizer steps of the whole run.
    """

    module: torch.nn.Module
    total_steps: int

    def batch(self, step: int, rank: int, world_size: int) -> Any:
        """This rank's share of the data of a step."""

    def describe_sample(self, step: int, rank: int, world_size: int, index: int) -> str:
        """Words that identify one sample of a batch, for error messages."""

    def validate(self, folder: Path) -> dict[str, float]:
        """Measure the current weights, write pictures into a folder, return figures."""

    def finish(self) -> None:
        """Whatever has to be measured on the final weights before the export."""

    def export(self, folder: Path) -> None:
        """Write the finished model into an empty folder."""


def check_run(config: RunConfig, *, resume: bool = False) -> Path | None:
    """Check before any work whether a run can begin, without writing anything.

    Returns:
        The checkpoint to go on from; None for a new run.

    Raises:
        InputError: If the run's folder holds checkpoints or a finished model and `resume` is False, or no checkpoint
            and `resume` is True, if the folder can't be written, or TensorBoard is missing.
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
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("training needs TensorBoard", fix='pip install "ltx-diffusers[train]"')
    return checkpoint


class Trainer:
    """Trains a task.

    Args:
        task: What to train.
        config: Settings of the run.
        resume: Go on from the last checkpoint in the run's folder.

    Raises:
        InputError: As in `check_run`.
    """

    def __init__(self, task: Task, config: RunConfig, *, resume: bool = False) -> None:
        self.task = task
        self.config = config
        self.folder = Path(config.output)
        checkpoint = check_run(config, resume=resume)
        self.folder.mkdir(parents=True, exist_ok=True)

        self.accelerator = Accelerator(
            mixed_precision="bf16" if config.precision == "bf16" else "no",
            log_with="tensorboard",
            project_dir=str(self.folder),
        )
        self.player = Player(task.module, config.optimizer, self.accelerator, task.total_steps)
        self.parameters = self.player.parameters
        self.adversary: Adversary | None = getattr(task, "adversary", None)
        if self.adversary is not None:
            self.opponent = Player(
                self.adversary.module,
                self.adversary.optimizer,
                self.accelerator,
                task.total_steps,
                self.adversary.first_step,
            )
        self.ema = EMAModel(self.parameters, decay=config.ema_decay, use_ema_warmup=True, power=3 / 4)
        self.accelerator.register_for_checkpointing(self.ema)
        self.step = 0
        if checkpoint is not None:
            self.accelerator.load_state(str(checkpoint))
            self.ema.to(self.accelerator.device)  # Accelerate reads such objects to the CPU
            self.step = int(checkpoint.name.removeprefix("step-"))
            logger.info("resumed from %s", checkpoint)
        if self.accelerator.is_main_process:
            save_config(config, self.folder / "config.yaml")

    def train(self) -> Path:
        """Run the remaining steps, export the model, and return its folder.

        Raises:
            TrainingError: If a loss or the gradient isn't finite; for a loss the message names the samples. The last
                checkpoint stays.
        """
        self.accelerator.init_trackers("logs")
        with TrainingProgress(self.task.total_steps, self.step, self.accelerator.is_main_process) as progress:
            while self.step < self.task.total_steps:
                started = time.perf_counter()
                figures = self.train_step()
                self.step += 1
                progress.advance(figures)
                if self.step % self.config.log_every == 0 or self.step == self.task.total_steps:
                    figures["seconds_per_step"] = time.perf_counter() - started
                    self.accelerator.log(
                        {f"train/{name}": value for name, value in figures.items()}, self.step
                    )
                    progress.log(self.step, _main_figures(figures))
                if self.config.validate_every and self.step % self.config.validate_every == 0:
                    progress.log(self.step, self.validate())
                if self.step % self.config.checkpoint_every == 0 or self.step == self.task.total_steps:
                    self.save()
        model = self.export()
        self.accelerator.end_training()
        return model

    def train_step(self) -> dict[str, float]:
        """One optimizer step.

        Returns:
            The batch's mean losses, the gradient's norm and the learning rate's share; the adversary's under
            "adversary/".

        Raises:
            TrainingError: If a loss or the gradient isn't finite.
        """
        accelerator = self.accelerator
        rank, world_size = accelerator.process_index, accelerator.num_processes
        batch = send_to_device(self.task.batch(self.step, rank, world_size), accelerator.device)
        generator = self._generator()
        self.player.module.train()
        with accelerator.autocast():
            losses = self.player.module(batch, generator)
        self._stop_unless_finite(losses["loss"])
        figures = self.player.update(losses["loss"].mean(), self.step)
        self.ema.step(self.parameters)
        figures = self._means(losses) | figures
        if self.adversary is not None and self.step >= self.adversary.first_step:
            figures |= {f"adversary/{name}": value for name, value in self._adversary_step(generator).items()}
        return figures

    def _adversary_step(self, generator: torch.Generator) -> dict[str, float]:
        self.opponent.module.train()
        with self.accelerator.autocast():
            losses = self.opponent.module(**self.adversary.inputs(self.step), generator=generator)
        self._stop_unless_finite(losses["loss"])
        return self._means(losses) | self.opponent.update(losses["loss"].mean(), self.step)

    def _means(self, losses: dict[str, torch.Tensor]) -> dict[str, float]:
        """Means over the samples of all processes."""
        stacked = torch.stack([loss.detach().float() for loss in losses.values()])
        gathered = self.accelerator.gather(stacked).reshape(
            -1, *stacked.shape
        )  # one transfer for all of them
        return dict(zip(losses, gathered.mean((0, 2)).tolist(), strict=True))

    def validate(self) -> dict[str, float]:
        """Let the task measure the averaged weights; pictures go into the run's `validation/step-N`."""
        if not self.accelerator.is_main_process:
            return {}
        self._use_averaged_weights()
        try:
            with publish_folder(self.folder / "validation" / f"step-{self.step:06d}", replace=True) as folder:
                figures = self.task.validate(folder)
        finally:
            self._use_trained_weights()
        self.accelerator.log({f"validation/{name}": value for name, value in figures.items()}, self.step)
        return figures

    def save(self) -> None:
        """Write a checkpoint: weights, optimizers, average, random state and step."""
        save_checkpoint(self.accelerator, self.folder, self.step, keep=self.config.keep_checkpoints)

    def export(self) -> Path:
        """Write the finished model, with averaged weights, into the run's `model` folder."""
        target = self.folder / MODEL_FOLDER
        if self.accelerator.is_main_process:
            self._use_averaged_weights()
            try:
                self.task.finish()
                with publish_folder(target, replace=True) as folder:
                    self.task.export(folder)
                    forget_origins(folder)
                with publish_folder(self.folder / "validation" / "final", replace=True) as folder:
                    figures = self.task.validate(folder)
                logger.info("final figures: %s", figures)
            finally:
                self._use_trained_weights()
        self.accelerator.wait_for_everyone()
        return target

    def _generator(self) -> torch.Generator:
        words = [self.config.seed, self.accelerator.process_index, self.step]
        seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
        # Layers that draw by themselves (dropout) follow the global generator.
        set_seed(seed % 2**32)
        return torch.Generator(self.accelerator.device).manual_seed(seed)

    def _stop_unless_finite(self, loss: torch.Tensor) -> None:
        finite = self.accelerator.gather(torch.isfinite(loss))
        if bool(finite.all()):
            return
        per_rank = loss.shape[0]
        world_size = self.accelerator.num_processes
        bad = [divmod(position, per_rank) for position in (~finite).nonzero().flatten().tolist()]
        names = [self.task.describe_sample(self.step, rank, world_size, index) for rank, index in bad[:4]]
        raise TrainingError(
            f"the loss of {len(bad)} of {finite.numel()} samples is not finite at step {self.step}",
            got=", ".join(names),
            fix="look at these samples, or lower the learning rate and resume from the last checkpoint",
        )

    def _use_averaged_weights(self) -> None:
        self.ema.store(self.parameters)
        if self.config.ema_decay > 0:
            self.ema.copy_to(self.parameters)
        self.task.module.eval()

    def _use_trained_weights(self) -> None:
        self.ema.restore(self.parameters)


def _main_figures(figures: dict[str, float]) -> dict[str, float]:
    """Figures for a line: without the diagnostics of single terms, which are in the logs."""
    return {name: value for name, value in figures.items() if "/" not in name.removeprefix("adversary/")}
