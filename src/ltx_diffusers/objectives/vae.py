"""Objectives of the video VAE: pixel losses and the KL term with one log-variance shared by all channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import objectives


@dataclass(frozen=True)
class VAEPass:
    """One training pass through a VAE.

    Attributes:
        video: Original, (B, 3, F, H, W) in [-1, 1].
        reconstruction: What the decoder made of it, same shape.
        mean: Mean of the posterior, (B, C, F', H', W').
        logvar: Its log-variance, same shape (shared by all channels in LTX-Video's VAE).
        emphasis: Weight of each pixel, (B, 1, F, H, W) with mean 1 per sample, or None for equal weights.
    """

    video: torch.Tensor
    reconstruction: torch.Tensor
    mean: torch.Tensor
    logvar: torch.Tensor
    emphasis: torch.Tensor | None = None


def _per_sample(error: torch.Tensor, emphasis: torch.Tensor | None) -> torch.Tensor:
    return (error if emphasis is None else error * emphasis).flatten(1).mean(1)


@objectives.register("l1")
class L1:
    """Absolute pixel error; the mean over channels, frames, rows and columns, weighted by the emphasis."""

    inputs = VAEPass

    def __call__(self, record: VAEPass) -> torch.Tensor:
        """Loss of each sample, (B,)."""
        return _per_sample((record.reconstruction - record.video).abs(), record.emphasis)


@objectives.register("l2")
class L2:
    """Squared pixel error; the mean over channels, frames, rows and columns, weighted by the emphasis."""

    inputs = VAEPass

    def __call__(self, record: VAEPass) -> torch.Tensor:
        """Loss of each sample, (B,)."""
        return _per_sample((record.reconstruction - record.video).square(), record.emphasis)


@objectives.register("kl")
class KL:
    """KL divergence of the posterior from N(0, 1); the mean over channels and latent positions.

    With one log-variance for all channels (paper, section 2.1) the optimizer can't save KL by giving up single
    channels; the formula is the ordinary one on the repeated log-variance.
    """

    inputs = VAEPass

    def __call__(self, record: VAEPass) -> torch.Tensor:
        """Loss of each sample, (B,)."""
        divergence = 0.5 * (record.mean.square() + record.logvar.exp() - 1 - record.logvar)
        return divergence.flatten(1).mean(1)


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
