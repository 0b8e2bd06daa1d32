"""Changes to the statistics of normalised latents: tone mapping, and matching to other latents."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError


def tone_map(latents: Tensor, compression: float) -> Tensor:
    """Press large values down, smoothly; applied to the final normalised latents, right before decoding.

    With a = 0.75 compression: z (1 - 0.8 a sigmoid(4 a (|z| - 1))) (official pipeline, `tone_map_latents`).

    Args:
        latents: Normalised latents of any shape.
        compression: 0 (as they are) to 1.

    Raises:
        InputError: If the compression is outside [0, 1].
    """
    if not 0 <= compression <= 1:
        raise InputError("the compression of a tone map must be in [0, 1]", got=compression)
    if compression == 0:
        return latents
    amount = 0.75 * compression
    return latents * (1 - 0.8 * amount * torch.sigmoid(4 * amount * (latents.abs() - 1)))


def match_statistics(latents: Tensor, reference: Tensor, factor: float = 1.0) -> Tensor:
    """Give each channel of each video the mean and deviation that it has in the reference (AdaIN).

    The official two-stage pipeline does it to upsampled latents, with the first pass as reference
    (`adain_filter_latent`); there and in Diffusers a constant channel gives NaN, here the reference's mean.

    Args:
        latents: (B, C, F, H, W).
        reference: (B, C, F', H', W').
        factor: Share of the change: 0 none, 1 all.
    """
    axes = (2, 3, 4)
    deviation, mean = torch.std_mean(latents, dim=axes, keepdim=True)
    target_deviation, target_mean = torch.std_mean(reference, dim=axes, keepdim=True)
    matched = (latents - mean) / deviation.clamp_min(1e-12) * target_deviation + target_mean
    return torch.lerp(latents, matched, factor)
