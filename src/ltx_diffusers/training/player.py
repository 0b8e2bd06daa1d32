"""A module with its optimizers: a training run has one such player, an adversarial one has two."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from accelerate import Accelerator

from ..errors import TrainingError
from .config import OptimizerConfig
from .optimizer import build_optimizers, check_optimizer, learning_rate_share, set_learning_rate
from .sharding import cut_at_blocks, is_sharded


class Player:
    """What is trained by one set of optimizers, prepared for the processes of a run.

    Args:
        module: What is trained; called through `module` of the player.
        config: Optimizer and schedule.
        accelerator: Prepares both and takes part in the steps.
        last_step: Steps of the whole run.
        first_step: From which step on it is trained; its schedule counts from there.

    Raises:
        InputError: If the optimizer lacks its package, or can't work on this device.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        config: OptimizerConfig,
        accelerator: Accelerator,
        last_step: int,
        first_step: int = 0,
    ) -> None:
        check_optimizer(config, accelerator.device)
        self.config = config
        self.accelerator = accelerator
        self.first_step, self.last_step = first_step, last_step
        if is_sharded(accelerator):
            cut_at_blocks(accelerator, module)
        else:
            module.to(accelerator.device)
        optimizers = build_optimizers(module, config)
        self.peak_rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in optimizers]
        self.module, *self.optimizers = accelerator.prepare(module, *optimizers)
        trained = {
            name: p for name, p in module.named_parameters() if p.requires_grad
        }  # now: sharding changes them
        self.names, self.parameters = list(trained), list(trained.values())

    def update(self, losses: Iterator[torch.Tensor], step: int, passes: int = 1) -> dict[str, float]:
        """Take a step of the run along the gradient of the mean of losses.

        Args:
            losses: Computed one by one, each followed by its backward pass.
            step: Of the run.
            passes: How many losses there are.

        Returns:
            The gradient's norm, and the learning rate's share of its peak.

        Raises:
            TrainingError: If the gradient isn't finite; the weights are left as they are (by DeepSpeed they aren't).
        """
        share = learning_rate_share(step - self.first_step, self.last_step - self.first_step, self.config)
        for optimizer, peak in zip(self.optimizers, self.peak_rates, strict=True):
            set_learning_rate(optimizer, peak * share)
        # The accelerator's own count may come from a checkpoint with another number of passes.
        self.accelerator.step, self.accelerator.gradient_accumulation_steps = 0, passes
        for _ in range(passes):
            with self.accelerator.accumulate(self.module):
                self.accelerator.backward(next(losses))
        norm = self._clip()
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient is not finite at step {step}, though the loss is",
                fix="lower the learning rate and resume from the last checkpoint",
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return {"gradient_norm": norm, "learning_rate_share": share}

    def _clip(self) -> float:
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.gradient_clip or math.inf)
        if hasattr(norm, "full_tensor"):  # of a sharded model
            norm = norm.full_tensor()
        return float(norm)
