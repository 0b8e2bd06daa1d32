"""The training loop, on accelerate: one for every kind of model.

A `Task` says what is trained on what; the loop does the steps, the moving average, checkpoints, logs, validation
and the export. Every random draw of step n comes from (seed, share of the batch, n) alone and a clip from its number,
so that a resumed run takes the steps that an unbroken one would have taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, send_to_device, set_seed
from accelerate.utils.memory import clear_device_cache
from safetensors import SafetensorError

from ..errors import InputError, TrainingError, TrainingStopped
from .average import WeightAverage
from .checkpoints import (
    best_checkpoint,
    forget_origins,
    load_checkpoint,
    mark_best,
    publish_folder,
    read_record,
    save_checkpoint,
    step_of,
)
from .config import RunConfig, changed_settings, read_values, save_config
from .deepspeed import check_same_processes, is_deepspeed, take_over_deepspeed
from .interruption import StopRequests
from .logs import build_trackers, log_pictures
from .loss_bins import BIN_PREFIX, LossBins
from .memory import apply_switches
from .player import Player
from .progress import TrainingProgress
from .run_folder import MODEL_FOLDER, check_run, hold_run, release_run
from .sharding import ShardedAverage, WholeCopy, check_sharding, is_sharded
from .task import Adversary, Task
from .throughput import Throughput, measure_peak

__all__ = ["MODEL_FOLDER", "Adversary", "Task", "Trainer", "check_run"]


class Trainer:
    """Trains a task.

    Args:
        task: What to train.
        config: Settings of the run.
        resume: Go on from the last checkpoint in the run's folder.

    Raises:
        InputError: As in `check_run`, if another process trains in the run's folder, or a model or optimizer can't do
            what the config asks.
        TrainingError: If the checkpoint can't be read.
    """

    def __init__(self, task: Task, config: RunConfig, *, resume: bool = False) -> None:
        self.task = task
        self.config = config
        self.folder = Path(config.output)
        checkpoint = check_run(config, resume=resume)
        if (figures := getattr(task, "validation_figures", None)) is not None:
            self._check_best(figures)
        self.accelerator = Accelerator(
            mixed_precision="bf16" if config.precision == "bf16" else "no",
            gradient_accumulation_steps=config.accumulate,
            log_with=build_trackers(config) or None,
            project_dir=str(self.folder),
        )
        if is_deepspeed(self.accelerator):
            take_over_deepspeed(self.accelerator, config)
        if self.accelerator.is_main_process:
            hold_run(self.folder)
        self.accelerator.wait_for_everyone()
        self.step = 0
        self.notes: list[str] = []
        try:
            self._prepare(checkpoint)
        except BaseException:
            release_run(self.folder)
            raise

    def _prepare(self, checkpoint: Path | None) -> None:
        """Models, optimizers and the average, ready for the processes of the run, as the checkpoint has them."""
        task, config = self.task, self.config
        apply_switches(
            task.module, gradient_checkpointing=config.gradient_checkpointing, backend=config.compile
        )
        self.adversary: Adversary | None = getattr(task, "adversary", None)
        check_sharding(self.accelerator, config.optimizer, opposed=self.adversary is not None)
        sharded = is_sharded(self.accelerator)
        self.whole = WholeCopy(task, self.accelerator) if sharded else None
        self.player = Player(task.module, config.optimizer, self.accelerator, task.total_steps)
        self.parameters = self.player.parameters
        if self.adversary is not None:
            self.opponent = Player(
                self.adversary.module,
                self.adversary.optimizer,
                self.accelerator,
                task.total_steps,
                self.adversary.first_step,
            )
        self.ema = (ShardedAverage if sharded else WeightAverage)(self.parameters, config.ema_decay)
        self.accelerator.register_for_checkpointing(self.ema)
        self.bins = LossBins(getattr(task, "bin_names", None))
        if checkpoint is not None:
            self._load(checkpoint)
            self.step = step_of(checkpoint)
            self.notes = self._differences(checkpoint)
        if self.accelerator.is_main_process:
            save_config(config, self.folder / "config.yaml")

    def train(self) -> Path:
        """Run the remaining steps, export the model, and return its folder.

        Raises:
            InputError: If another process trains in the run's folder, or the validation doesn't give `best.figure`.
            TrainingError: If a loss or the gradient isn't finite (for a loss the message names the samples), or a file
                can't be read or written. The last checkpoint stays.
            TrainingStopped: If SIGTERM or SIGINT came; a checkpoint of the last step taken is written before.
        """
        if self.accelerator.is_main_process:
            hold_run(self.folder)  # again, after a run that stopped
        try:
            self.accelerator.init_trackers(self.config.project)
            with (
                StopRequests() as stop,
                TrainingProgress(
                    self.task.total_steps, self.step, self.accelerator.is_main_process
                ) as progress,
            ):
                for note in self.notes:
                    progress.note(note)
                self._take_steps(stop, progress)
            model = self.export()
        except (OSError, SafetensorError) as error:
            # Of the data, the validation's pictures or the finished model.
            raise TrainingError(
                f"a file could not be read or written after step {self.step}",
                got=str(error).partition("\n")[0][:200],
                fix=f"look at it and at the disk of {self.folder}; --resume goes on from the last checkpoint",
            ) from error
        finally:
            self.accelerator.end_training()
            release_run(self.folder)
        return model

    def _take_steps(self, stop: StopRequests, progress: TrainingProgress) -> None:
        throughput = self._throughput()
        work = getattr(self.task, "work", None)
        while self.step < self.task.total_steps:
            started = time.perf_counter()
            figures = self.train_step()
            throughput.add(time.perf_counter() - started, None if work is None else work(self.step))
            self.step += 1
            progress.advance(figures)
            last = self.step == self.task.total_steps
            if self.step % self.config.log_every == 0 or last:
                speed = throughput.figures()
                self._log("train", figures | speed | _peak_memory(self.accelerator.device))
                self._log("train", self.bins.figures())
                progress.log(self.step, _main_figures(figures) | speed)
            request = stop.agreed(self.accelerator)
            if request is not None:
                self.save()
                raise TrainingStopped(
                    f"stopped by {request.name} at step {self.step} of {self.task.total_steps}, with a checkpoint",
                    exit_code=128 + request,
                    fix="--resume goes on",
                )
            saved = False
            if self.config.validate_every and self.step % self.config.validate_every == 0:
                figures = self.validate()
                progress.log(self.step, figures)
                saved = self._keep_best(figures)
            if (self.step % self.config.checkpoint_every == 0 or last) and not saved:
                self.save()

    def train_step(self) -> dict[str, float]:
        """One optimizer step.

        Returns:
            The batch's mean losses, the gradient's norm and the learning rate's share; the adversary's under
            "adversary/".

        Raises:
            TrainingError: If a loss or the gradient isn't finite.
        """
        opposed = self.adversary is not None and self.step >= self.adversary.first_step
        found: list[dict[str, torch.Tensor]] = []
        contests: list[tuple[dict[str, Any], torch.Generator]] = []
        losses = self._passes(found, contests if opposed else None)
        figures = self.player.update(losses, self.step, self.config.accumulate)
        self.ema.step()
        figures = self._means(found) | figures
        if opposed:
            figures |= {f"adversary/{name}": value for name, value in self._adversary_step(contests).items()}
        return figures

    def _passes(
        self,
        found: list[dict[str, torch.Tensor]],
        contests: list[tuple[dict[str, Any], torch.Generator]] | None,
    ) -> Iterator[torch.Tensor]:
        """The mean loss of each of a step's passes, which keeps what it found, and what the adversary needs of it."""
        accelerator = self.accelerator
        shares = accelerator.num_processes * self.config.accumulate
        for index in range(self.config.accumulate):
            share = accelerator.process_index * self.config.accumulate + index
            batch = send_to_device(self.task.batch(self.step, share, shares), accelerator.device)
            generator = self._generator(share)
            self.player.module.train()
            with accelerator.autocast():
                losses = self.player.module(batch, generator)
            self._stop_unless_finite(losses["loss"], index)
            found.append({name: loss.detach() for name, loss in losses.items()})
            if contests is not None:
                contests.append((self.adversary.inputs(self.step), generator))
            yield losses["loss"].mean()

    def _adversary_step(self, contests: list[tuple[dict[str, Any], torch.Generator]]) -> dict[str, float]:
        found: list[dict[str, torch.Tensor]] = []

        def passes() -> Iterator[torch.Tensor]:
            for index, (inputs, generator) in enumerate(contests):
                self.opponent.module.train()
                with self.accelerator.autocast():
                    losses = self.opponent.module(**inputs, generator=generator)
                self._stop_unless_finite(losses["loss"], index)
                found.append({name: loss.detach() for name, loss in losses.items()})
                yield losses["loss"].mean()

        figures = self.opponent.update(passes(), self.step, self.config.accumulate)
        return self._means(found) | figures

    def _means(self, found: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        """Means over the samples of all passes and processes. Losses of samples in bins are counted there."""
        names = list(found[0])
        stacked = torch.stack([torch.cat([losses[name].float() for losses in found]) for name in names])
        gathered = self.accelerator.gather(stacked).reshape(
            -1, *stacked.shape
        )  # one transfer for all of them
        values = dict(zip(names, gathered.transpose(0, 1).flatten(1).cpu(), strict=True))
        for name in [name for name in names if name.startswith(BIN_PREFIX)]:
            self.bins.add(name.removeprefix(BIN_PREFIX), values.pop(name), values["loss"])
        return {name: float(value.mean()) for name, value in values.items()}

    def validate(self) -> dict[str, float]:
        """Let the task measure the averaged weights; pictures go into the run's `validation/step-N`.

        Returns:
            The figures; none but in the main process.
        """
        figures: dict[str, float] = {}
        with self._finished_weights() as usable:
            if usable:
                target = self.folder / "validation" / f"step-{self.step:06d}"
                with publish_folder(target, replace=True) as folder:
                    figures = self.task.validate(folder)
                log_pictures(self.accelerator.trackers, target, self.step)
        if self.accelerator.device.type != "cpu":
            clear_device_cache(garbage_collection=True)  # the peak of pipelines is higher than that of steps
        self._log("validation", figures)
        return figures

    def save(self) -> Path:
        """Write a checkpoint: weights, optimizers, average, random state and step."""
        return save_checkpoint(
            self.accelerator,
            self.folder,
            self.step,
            keep=self.config.keep_checkpoints,
            record=self._record(),
            extra=self.ema.save_parts if isinstance(self.ema, ShardedAverage) else None,
        )

    def export(self) -> Path:
        """Write the finished model, with averaged weights, into the run's `model` folder."""
        target = self.folder / MODEL_FOLDER
        best = best_checkpoint(self.folder)
        if self.config.best is not None and self.config.best.export and best is not None:
            self._load(best.folder)
        with self._finished_weights() as usable:
            if usable:
                self.task.finish()
                with publish_folder(target, replace=True) as folder:
                    self.task.export(folder)
                    forget_origins(folder)
                with publish_folder(self.folder / "validation" / "final", replace=True) as folder:
                    figures = self.task.validate(folder)
                log_pictures(self.accelerator.trackers, self.folder / "validation" / "final", self.step)
                self._log("final", figures)
        self.accelerator.wait_for_everyone()
        return target

    def _check_best(self, figures: Collection[str]) -> None:
        """Refuse a best checkpoint by a figure that the validation doesn't give."""
        if self.config.best is not None and self.config.best.figure not in figures:
            raise InputError(
                "config key 'best.figure': the validation gives no such figure",
                got=self.config.best.figure,
                expected=", ".join(figures) or "none: the run has no held-out data",
            )

    def _keep_best(self, figures: dict[str, float]) -> bool:
        """Write a checkpoint if a validation's figures are the best so far; whether that was so."""
        wanted = self.config.best
        if wanted is None:
            return False
        verdict: list[Any] = [None]
        if self.accelerator.is_main_process:
            self._check_best(figures)
            best, value = best_checkpoint(self.folder), figures[wanted.figure]
            sign = 1 if wanted.goal == "highest" else -1
            comparable = best is not None and best.figure == wanted.figure
            # No figure is better than one that isn't a number.
            beaten = comparable and (sign * value > sign * best.value or math.isnan(best.value))
            verdict = [not comparable or beaten]
        broadcast_object_list(verdict)
        if not verdict[0]:
            return False
        checkpoint = self.save()
        if self.accelerator.is_main_process:
            mark_best(checkpoint, wanted.figure, figures[wanted.figure])
        return True

    def _load(self, checkpoint: Path) -> None:
        if is_deepspeed(self.accelerator):
            check_same_processes(self.accelerator, read_record(checkpoint))
        load_checkpoint(self.accelerator, checkpoint)
        if isinstance(self.ema, ShardedAverage):
            self.ema.load_parts(checkpoint)
        self.ema.to(self.accelerator.device)  # Accelerate reads such objects to the CPU

    def _record(self) -> dict[str, Any]:
        """How the processes divide the work, which a resumed run may do otherwise."""
        return {"processes": self.accelerator.num_processes, "accumulate": self.config.accumulate}

    def _differences(self, checkpoint: Path) -> list[str]:
        """What a resumed run does otherwise than before, in words."""
        notes = [f"resumed from {checkpoint}"]
        config = self.folder / "config.yaml"
        before = read_values(config) if config.is_file() else {}
        now = self.config.model_dump(mode="json")
        known = {
            key: value for key, value in now.items() if key in before
        }  # others came with a later version
        notes += [f"changed setting: {line}" for line in changed_settings(before, known)]
        processes = read_record(checkpoint).get("processes", self.accelerator.num_processes)
        if processes != self.accelerator.num_processes:
            notes.append(f"changed number of processes: {processes} -> {self.accelerator.num_processes}")
        return notes

    def _throughput(self) -> Throughput:
        peak = None
        if hasattr(self.task, "work"):
            peak = (self.config.peak_tflops or 0.0) * 1e12
            if not peak:
                dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float32
                peak = measure_peak(self.accelerator.device, dtype)
            peak *= self.accelerator.num_processes
        return Throughput(peak)

    def _log(self, section: str, figures: dict[str, float]) -> None:
        if figures:
            self.accelerator.log({f"{section}/{name}": value for name, value in figures.items()}, self.step)

    def _generator(self, share: int) -> torch.Generator:
        """The source of a share's draws at this step."""
        words = [self.config.seed, share, self.step]
        seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
        # Layers that draw by themselves (dropout) follow the global generator.
        set_seed(seed % 2**32)
        return torch.Generator(self.accelerator.device).manual_seed(seed)

    def _stop_unless_finite(self, loss: torch.Tensor, index: int) -> None:
        finite = self.accelerator.gather(torch.isfinite(loss))
        if bool(finite.all()):
            return
        per_share = loss.shape[0]
        shares = self.accelerator.num_processes * self.config.accumulate
        names = []
        for position in (~finite).nonzero().flatten().tolist()[:4]:
            rank, sample = divmod(position, per_share)
            share = rank * self.config.accumulate + index
            names.append(self.task.describe_sample(self.step, share, shares, sample))
        raise TrainingError(
            f"the loss of {int((~finite).sum())} of {finite.numel()} samples is not finite at step {self.step}",
            got=", ".join(names),
            fix="look at these samples, or lower the learning rate and resume from the last checkpoint",
        )

    @contextmanager
    def _finished_weights(self) -> Iterator[bool]:
        """The task's module has averaged weights; gives whether this process can use it, as only the main one can.

        All processes have to enter.
        """
        main = self.accelerator.is_main_process
        if self.whole is None and not main:
            yield False
            return
        with self.ema.applied():
            self.task.module.eval()
            if self.whole is None:
                yield True
            else:
                with self.whole.in_place():
                    yield main


def _main_figures(figures: dict[str, float]) -> dict[str, float]:
    """Figures for a line: without the diagnostics of single terms, which are in the logs."""
    return {name: value for name, value in figures.items() if "/" not in name.removeprefix("adversary/")}


def _peak_memory(device: torch.device) -> dict[str, float]:
    """Most memory of a GPU that the process took so far, in GiB."""
    if device.type != "cuda":
        return {}
    return {"peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
