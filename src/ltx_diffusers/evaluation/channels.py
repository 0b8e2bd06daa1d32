"""What the channels of a latent space share: their covariance, its eigenvalues, and how many of them count.

These are the measures of the paper's Figure 3 (arXiv 2501.00103: PCA over the latent pixels of 128 videos) and of
SSVAE's channel eigenspectrum (arXiv 2512.05394). All are in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

USED_SHARE = 0.01
"""A channel counts as used if its means' variance is at least this share of means' and posteriors' together."""


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and covariance of the channels over all latent pixels.

    Attributes:
        mean: (C,).
        covariance: (C, C), of the population.
    """

    mean: Tensor
    covariance: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of each channel, (C,)."""
        return self.covariance.diagonal().clamp_min(0).sqrt()

    @property
    def correlation(self) -> Tensor:
        """Pearson correlation of each pair of channels, (C, C) in [-1, 1]; 0 where a channel is constant."""
        std = self.std
        scale = torch.where(std > 0, 1 / std.clamp_min(torch.finfo(std.dtype).tiny), 0)
        return (self.covariance * scale[:, None] * scale).clamp(-1, 1)

    def eigenvalues(self, normalized: bool = False) -> Tensor:
        """Variances along the principal components, (C,), largest first.

        Args:
            normalized: Of channels that are brought to deviation 1 before, as the transformer sees them.
        """
        matrix = self.correlation if normalized else self.covariance
        return torch.linalg.eigvalsh(matrix).flip(0).clamp_min(0)


def channel_statistics(latents: Tensor) -> ChannelStatistics:
    """Statistics of latents (N, C, F, H, W) over all but the channels.

    Raises:
        InputError: If there are fewer than two latent pixels, or values that aren't finite.
    """
    channels = latents.shape[1]
    count = latents.numel() // channels
    if count < 2:
        raise InputError("channel statistics need two latent pixels or more", got=tuple(latents.shape))
    if not latents.isfinite().all():
        raise InputError("the latents hold values that aren't finite", got=tuple(latents.shape))
    mean = latents.mean((0, 2, 3, 4), dtype=torch.float64)
    covariance = torch.zeros(channels, channels, dtype=torch.float64)
    for sample in latents:  # one at a time, as float64 takes twice the memory
        centred = sample.flatten(1).double() - mean[:, None]
        covariance += centred @ centred.T
    return ChannelStatistics(mean, covariance / count)


def explained_variance(eigenvalues: Tensor) -> Tensor:
    """Share of the variance in the first 1, 2, ... C principal components, (C,), rising to 1.

    Raises:
        InputError: If there is no variance at all.
    """
    total = eigenvalues.sum()
    if total <= 0:
        raise InputError("latents without variance have no principal components", got=float(total))
    return (eigenvalues / total).cumsum(0)


def effective_rank(eigenvalues: Tensor) -> float:
    """How many equally strong components would be as spread out: the exponential of the entropy of the shares.

    Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality". C for uncorrelated channels of
    one variance, 1 if one component holds everything.

    Raises:
        InputError: If there is no variance at all.
    """
    total = eigenvalues.sum()
    if total <= 0:
        raise InputError("latents without variance have no rank", got=float(total))
    shares = eigenvalues / total
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))


def used_channels(variance_of_means: Tensor, posterior_variance: Tensor | None) -> Tensor:
    """Which channels carry something, (C,) of booleans.

    The KL term can switch channels off: their means stop to vary, and their posteriors take all the variance
    (the active units of Burda et al. 2015, arXiv 1509.00519, here relative to the whole variance of the channel).

    Args:
        variance_of_means: Over all latent pixels, (C,).
        posterior_variance: Mean variance of the posteriors, (C,); None for an autoencoder without.
    """
    if posterior_variance is None:
        return variance_of_means > 0
    return variance_of_means > USED_SHARE * (variance_of_means + posterior_variance)
