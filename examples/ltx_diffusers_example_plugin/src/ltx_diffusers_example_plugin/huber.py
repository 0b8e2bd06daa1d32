"""An objective: flow matching that outliers pull at less."""

from __future__ import annotations

import torch

from ltx_diffusers.objectives import objectives
from ltx_diffusers.objectives.flow_matching import FlowPass


@objectives.register("example-huber")
class HuberFlowMatching:
    """Huber loss of the velocity; the mean over channels and over the tokens that count.

    Args:
        delta: Error up to which the loss is quadratic.
    """

    inputs = FlowPass

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = delta

    def __call__(self, record: FlowPass) -> torch.Tensor:
        """Loss of each sample (B,)."""
        loss = torch.nn.functional.huber_loss(
            record.prediction, record.target, reduction="none", delta=self.delta
        )
        mask = record.mask.to(loss.dtype)
        return (loss.mean(dim=2) * mask).sum(1) / mask.sum(1).clamp(min=1)
