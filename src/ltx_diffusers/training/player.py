"""A module with its optimizers: a training run has one such player, an adversarial one has two."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator

from ..errors import TrainingError
from .config import OptimizerConfig
from .optimizer import build_optimizers, learning_rate_share


class Player:
    """What is trained by one set of optimizers, prepared for the processes of a run.

    Args:
        module: What is trained; called through `module` of the player.
        config: Optimizer and schedule.
        accelerator: Prepares both and takes part in the steps.
        last_step: Steps of the whole run.
        first_step: From which step on it is trained; its schedule counts from there.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        config: OptimizerConfig,
        accelerator: Accelerator,
        last_step: int,
        first_step: int = 0,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.first_step, self.last_step = first_step, last_step
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.names, self.parameters = list(trained), list(trained.values())
        module.to(accelerator.device)
        optimizers = build_optimizers(module, config)
        self.module = accelerator.prepare(module)
        self.optimizers = [accelerator.prepare(optimizer) for optimizer in optimizers]
        self.peak_rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]

    def update(self, loss: torch.Tensor, step: int) -> dict[str, float]:
        """Take a step of the run along a loss's gradient.

        Returns:
            The gradient's norm, and the learning rate's share of its peak.

        Raises:
            TrainingError: If the gradient isn't finite; the weights are left as they are.
        """
        self.accelerator.backward(loss)
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, self.config.gradient_clip or math.inf))
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient is not finite at step {step}, though the loss is",
                fix="lower the learning rate and resume from the last checkpoint",
            )
        share = learning_rate_share(step - self.first_step, self.last_step - self.first_step, self.config)
        for optimizer, peak in zip(self.optimizers, self.peak_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad()
        return {"gradient_norm": norm, "learning_rate_share": share}
