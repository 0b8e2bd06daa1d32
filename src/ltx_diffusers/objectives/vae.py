"""Objectives of the video VAE: pixel losses and the KL term with one log-variance shared by all channels."""

from __future__ import annotations

from typing import Literal

import torch

from ..errors import InputError
from . import objectives
from .vae_objective import PosteriorPass, VAEObjective, VAEPass

__all__ = ["KL", "L1", "L2", "VAEPass", "emphasize_foreground"]


def _per_sample(error: torch.Tensor, emphasis: torch.Tensor | None) -> torch.Tensor:
    return (error if emphasis is None else error * emphasis).flatten(1).mean(1)


@objectives.register("l1")
class L1(VAEObjective):
    """Absolute pixel error; the mean over channels, frames, rows and columns, weighted by the emphasis."""

    is_reconstruction = True

    def on_reconstruction(self, record: VAEPass) -> torch.Tensor:
        """Loss of each sample, (B,)."""
        return _per_sample((record.reconstruction - record.video).abs(), record.emphasis)


@objectives.register("l2")
class L2(VAEObjective):
    """Squared pixel error; the mean over channels, frames, rows and columns, weighted by the emphasis."""

    is_reconstruction = True

    def on_reconstruction(self, record: VAEPass) -> torch.Tensor:
        """Loss of each sample, (B,)."""
        return _per_sample((record.reconstruction - record.video).square(), record.emphasis)


@objectives.register("kl")
class KL(VAEObjective):
    """KL divergence of the posterior from N(0, 1); by default the mean over channels and latent positions.

    With one log-variance for all channels (paper, section 2.1) the optimizer can't save KL by giving up single
    channels; the formula is the ordinary one on the repeated log-variance. The ordinary posterior, with a
    log-variance per channel, is a setting of the model: `shared_log_variance: false`.

    Args:
        reduction: "mean"; "sum" over channels and positions, as most published weights mean it beside losses that
            are sums over pixels; or "pixels", that sum divided by the number of values of the clip, which means the
            same beside losses that are means over pixels.

    Raises:
        InputError: If the reduction is none of these.
    """

    def __init__(self, reduction: Literal["mean", "sum", "pixels"] = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "pixels"):
            raise InputError(
                "unknown reduction of the KL term", got=repr(reduction), expected="mean, sum or pixels"
            )
        self.reduction = reduction

    def on_posterior(self, posterior: PosteriorPass) -> torch.Tensor:
        """Loss of each sample, (B,)."""
        divergence = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1 - posterior.logvar)
        if self.reduction == "mean":
            return divergence.flatten(1).mean(1)
        total = divergence.flatten(1).sum(1)
        return total / posterior.video[0].numel() if self.reduction == "pixels" else total


def emphasize_foreground(video: torch.Tensor, weight: float) -> torch.Tensor | None:
    """Pixel weights that grow with a pixel's distance from the clip's median colour.

    On clips with small objects before a plain ground, unweighted losses are content with the ground. A weight of 0
    gives None (equal weights).

    Args:
        video: (B, 3, F, H, W) in [-1, 1].
        weight: How much more the farthest pixels count than the ground.

    Returns:
        (B, 1, F, H, W) with mean 1 per sample, or None.
    """
    if weight == 0:
        return None
    median = video.flatten(2).median(dim=2).values[:, :, None, None, None]
    distance = (video - median).abs().amax(dim=1, keepdim=True).clamp(max=1)
    emphasis = 1 + weight * distance
    return emphasis / emphasis.mean(dim=(1, 2, 3, 4), keepdim=True)
