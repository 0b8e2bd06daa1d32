"""The transformer's objective: flow matching on straight paths between latents and noise (paper, section 2.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import objectives


@dataclass(frozen=True)
class FlowPass:
    """One training pass through the transformer.

    Attributes:
        prediction: Predicted velocity, (B, L, C).
        target: True velocity, noise - latents, same shape.
        mask: 1 for each token that counts, 0 for conditions, (B, L).
    """

    prediction: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor


@objectives.register("flow-matching")
class FlowMatching:
    """Squared error of the velocity; the mean over channels and over the tokens that count."""

    inputs = FlowPass

    def __call__(self, record: FlowPass) -> torch.Tensor:
        """Loss of each sample, (B,)."""
        error = (record.prediction - record.target).square().mean(dim=2)
        mask = record.mask.to(error.dtype)
        return (error * mask).sum(1) / mask.sum(1).clamp(min=1)
