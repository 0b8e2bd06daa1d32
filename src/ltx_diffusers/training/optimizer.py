"""Optimizers of the trainers: AdamW, and Muon for everything that is a matrix.

Muon (K. Jordan et al., 2024) replaces the update of a weight matrix by the nearest orthogonal matrix. The first 150
steps of configs/embedded/vae.yaml (alone in the run, 16 single frames each) end at a squared error of 0.04 with it and
of 0.29 with `optimizer.name=adamw optimizer.learning_rate=0.0025`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch

from ..errors import InputError
from .config import OptimizerConfig

_FEW_BITS = {
    "adamw-8bit": ("torchao", "AdamW8bit", False),
    "adamw-4bit": ("torchao", "AdamW4bit", False),
    "adamw-fp8": ("torchao", "AdamWFp8", False),
    "adamw-8bit-bnb": ("bitsandbytes", "AdamW8bit", False),
    "adamw-8bit-paged-bnb": ("bitsandbytes", "PagedAdamW8bit", True),
}
"""Optimizers that keep their state in few bits: package, class in its `optim`, whether it needs a GPU."""


class MatrixMuon(torch.optim.Optimizer):
    """`torch.optim.Muon` for weights of any number of dimensions, convolutions too.

    PyTorch's Muon takes matrices only. A weight (out, in, ...) is handed to it as a view (out, in * ...) of the
    same storage, and its gradient likewise, so that nothing is copied.

    Args:
        parameters: Weights of two or more dimensions, already on their device.
        lr: Learning rate; an update's RMS is matched to AdamW's.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self._weights = parameters
        self._matrices = [
            torch.nn.Parameter(weight.detach().view(weight.shape[0], -1)) for weight in parameters
        ]
        self._muon = torch.optim.Muon(
            self._matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Take one step along the weights' gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.reshape(matrix.shape)
        self._muon.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self._muon.step()
        for matrix in self._matrices:
            matrix.grad = None  # else it would hold the memory of the gradient through the next pass
        return loss

    def state_dict(self) -> dict:
        """Learning rate and momentum buffers."""
        return {"groups": super().state_dict(), "muon": self._muon.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict` returned."""
        super().load_state_dict(state_dict["groups"])
        self._muon.load_state_dict(state_dict["muon"])


class OffloadedAdamW(torch.optim.Optimizer):
    """AdamW whose averages and steps are in the main memory, whatever device the weights are on.

    It costs the way of the gradients there and of the weights back in each step. torchao's `CPUOffloadOptimizer`
    fetches a gradient as soon as it is there, and so before it is clipped; here a step takes the clipped ones.

    Args:
        parameters: Weights, already on their device.
        settings: Those of `torch.optim.AdamW`.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], **settings: Any) -> None:
        super().__init__(parameters, {"lr": settings["lr"]})
        self._weights = parameters
        self._copies = [
            torch.nn.Parameter(torch.empty_like(weight, device="cpu", pin_memory=weight.is_cuda))
            for weight in parameters
        ]
        self._fetch_weights()
        self._adamw = torch.optim.AdamW(self._copies, fused=True, **settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """Take one step along the weights' gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for weight, copy in zip(self._weights, self._copies, strict=True):
            if weight.grad is None:
                copy.grad = None
            else:
                if copy.grad is None:
                    copy.grad = torch.empty_like(copy, pin_memory=weight.is_cuda)
                copy.grad.copy_(weight.grad, non_blocking=True)
        if any(weight.is_cuda for weight in self._weights):
            torch.cuda.synchronize()
        self._adamw.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self._adamw.step()
        for weight, copy in zip(self._weights, self._copies, strict=True):
            if weight.grad is not None:
                weight.copy_(copy, non_blocking=True)
        return loss

    def state_dict(self) -> dict:
        """Learning rate and averages."""
        return {"groups": super().state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over what `state_dict` returned, and the weights as they are now."""
        super().load_state_dict(state_dict["groups"])
        self._adamw.load_state_dict(state_dict["adamw"])
        self._fetch_weights()

    @torch.no_grad()
    def _fetch_weights(self) -> None:
        for weight, copy in zip(self._weights, self._copies, strict=True):
            copy.copy_(weight)


def build_optimizers(module: torch.nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Optimizers for the trainable parameters of a module: one for AdamW, two for Muon.

    Muon trains the weights of linear layers and convolutions; AdamW trains embeddings, tables, norms and biases,
    for which an orthogonal update has no meaning.
    """
    matrices, others = [], []
    layers = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    seen: set[torch.nn.Parameter] = set()  # T5's embedding belongs to two modules and would be stepped twice
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                is_matrix = config.name == "muon" and isinstance(owner, layers) and name == "weight"
                (matrices if is_matrix else others).append(parameter)
    beside_muon = config.adamw_learning_rate if config.name == "muon" else None
    rate = config.learning_rate if beside_muon is None else beside_muon
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        optimizers.append(_adamw(others, rate, config))
    if matrices:
        optimizers.append(MatrixMuon(matrices, config.learning_rate, config.weight_decay))
    return optimizers


def check_optimizer(config: OptimizerConfig, device: torch.device) -> None:
    """Check before any work that an optimizer's package is there, and that it works on a device.

    Raises:
        InputError: If not.
    """
    if config.name in _FEW_BITS:
        package, _, needs_gpu = _FEW_BITS[config.name]
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"optimizer.name={config.name!r} needs {package}", fix=f"pip install --no-deps {package}"
            )
        if needs_gpu and device.type == "cpu":
            raise InputError(
                f"optimizer.name={config.name!r} works on a GPU only",
                got=device.type,
                fix="take adamw-8bit, which works everywhere",
            )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all of an optimizer's parameters."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # torchao's compiled steps read it from there
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _adamw(
    parameters: list[torch.nn.Parameter], rate: float, config: OptimizerConfig
) -> torch.optim.Optimizer:
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    if config.name in _FEW_BITS:
        package, name, _ = _FEW_BITS[config.name]
        kind = getattr(importlib.import_module(f"{package}.optim"), name)
    elif config.offload:
        kind = OffloadedAdamW
    return kind(parameters, lr=rate, betas=config.betas, weight_decay=config.weight_decay)


def learning_rate_share(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Share of the peak learning rate at a step (counted from 0)."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_share + (1 - config.final_share) * cosine
