"""Embedding of the decoder's noise level, for adaptive normalisation."""

from __future__ import annotations

import torch
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from torch import nn

SINUSOID_CHANNELS = 256


class TimeEmbedder(nn.Module):
    """Maps a scaled noise level to shift and scale vectors: sinusoids, then a two-layer MLP.

    Args:
        channels: Entries of each vector.
        num_vectors: How many vectors the caller needs.
    """

    def __init__(self, channels: int, num_vectors: int) -> None:
        super().__init__()
        self.num_vectors = num_vectors
        self.timestep_embedder = TimestepEmbedding(SINUSOID_CHANNELS, channels * num_vectors)

    def forward(self, timestep: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Embed `timestep` (B,), in [0, 1000], as (B, num_vectors, C, 1, 1, 1) of type `dtype`."""
        sinusoids = get_timestep_embedding(
            timestep, SINUSOID_CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        vectors = self.timestep_embedder(sinusoids.to(dtype))
        return vectors.unflatten(1, (self.num_vectors, -1))[..., None, None, None]


def modulate(hidden: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Adaptive normalisation: `hidden` (B, C, F, H, W) times 1 + scale plus shift, each (B, C, 1, 1, 1).

    The result has the type of `hidden`: in autocast, fp32 weights would else make all that follows fp32.
    """
    return hidden * (1 + scale).to(hidden.dtype) + shift.to(hidden.dtype)
