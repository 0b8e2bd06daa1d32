"""An autoencoder that loses nothing, so that what a measure must say is known."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn


class Lossless(nn.Module):
    """Each 4x4 patch of pixels becomes a latent of 48 channels, and a patch again; every frame by itself.

    Args:
        repeat_error: Added to what is decoded, the same in every frame.
        flicker: Added to every second frame.
        posterior_variance: None gives latents without a posterior.
    """

    patch = 4

    def __init__(
        self, repeat_error: float = 0.0, flicker: float = 0.0, posterior_variance: float | None = 0.5
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 1)  # its weight says where and in which type the model is
        self.config = {"spatial_compression_ratio": 4, "temporal_compression_ratio": 1}
        self.repeat_error, self.flicker, self.variance = repeat_error, flicker, posterior_variance
        self.decoded = 0

    def encode(self, video: torch.Tensor) -> SimpleNamespace:
        frames = F.pixel_unshuffle(video.transpose(1, 2), self.patch)
        latents = frames.transpose(1, 2)
        if self.variance is None:
            return SimpleNamespace(latent=latents)
        variance = torch.full_like(latents, self.variance)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents, var=variance))

    def decode(self, latents: torch.Tensor) -> SimpleNamespace:
        self.decoded += 1
        video = F.pixel_shuffle(latents.transpose(1, 2), self.patch).transpose(1, 2) + self.repeat_error
        video[:, :, 1::2] += self.flicker
        return (video,)


class Halved(Lossless):
    """Gives back half of the frames."""

    def decode(self, latents: torch.Tensor) -> SimpleNamespace:
        return (super().decode(latents)[0][:, :, ::2],)
