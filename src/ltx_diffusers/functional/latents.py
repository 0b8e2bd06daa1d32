"""Latents as tokens and back, and their normalisation per channel.

Latent tensors are (B, C, F, H, W); token tensors are (B, L, C') with L = F/p_t * H/p * W/p tokens in
(F, H, W) order and C' = C * p_t * p * p, channel slowest. Every released model has patch sizes 1, so C' = C
(paper section 2.1: patches are made at the input of the VAE, not of the transformer).
"""

from __future__ import annotations

import torch

from ..errors import InputError


def pack_latents(latents: torch.Tensor, patch_size: int = 1, patch_size_t: int = 1) -> torch.Tensor:
    """Turn latents into tokens.

    Args:
        latents: (B, C, F, H, W).
        patch_size: Latent rows and columns that one token covers.
        patch_size_t: Latent frames that one token covers.

    Returns:
        Tokens (B, L, C * patch_size_t * patch_size**2), first frame first, row by row.

    Raises:
        InputError: If the tensor isn't 5-D or a side isn't a multiple of its patch size.
    """
    if latents.ndim != 5:
        raise InputError("latents must have 5 dimensions (B, C, F, H, W)", got=tuple(latents.shape))
    batch, channels, frames, height, width = latents.shape
    _check_patches(frames, height, width, patch_size, patch_size_t)
    patches = latents.reshape(
        batch,
        channels,
        frames // patch_size_t,
        patch_size_t,
        height // patch_size,
        patch_size,
        width // patch_size,
        patch_size,
    )
    return patches.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4, 7).flatten(1, 3)


def unpack_latents(
    tokens: torch.Tensor,
    num_frames: int,
    height: int,
    width: int,
    patch_size: int = 1,
    patch_size_t: int = 1,
) -> torch.Tensor:
    """Turn tokens back into latents; the inverse of `pack_latents`.

    Args:
        tokens: (B, L, C').
        num_frames: Latent frames F.
        height: Latent rows H.
        width: Latent columns W.
        patch_size: Latent rows and columns that one token covers.
        patch_size_t: Latent frames that one token covers.

    Returns:
        Latents (B, C, F, H, W).

    Raises:
        InputError: If the tokens don't fill that size exactly, or a side isn't a multiple of its patch size.
    """
    _check_patches(num_frames, height, width, patch_size, patch_size_t)
    grid = (num_frames // patch_size_t, height // patch_size, width // patch_size)
    patch = (patch_size_t, patch_size, patch_size)
    if tokens.ndim != 3 or tokens.shape[1] != grid[0] * grid[1] * grid[2]:
        raise InputError(
            f"the tokens don't fill {num_frames} x {height} x {width} latents",
            got=tuple(tokens.shape),
            expected=f"(B, {grid[0] * grid[1] * grid[2]}, C)",
        )
    patches = tokens.unflatten(1, grid).unflatten(4, (-1, *patch))
    return patches.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def normalize_latents(
    latents: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, scaling_factor: float = 1.0
) -> torch.Tensor:
    """Bring latents of the VAE to the transformer's scale: (latents - mean) * scaling_factor / std.

    Args:
        latents: (B, C, ...).
        mean: Mean of each channel (C,).
        std: Standard deviation of each channel (C,).
        scaling_factor: The VAE's `scaling_factor`.

    Raises:
        InputError: If there isn't one value per channel.
    """
    mean, std = (_per_channel(statistic, latents) for statistic in (mean, std))
    return (latents - mean) * scaling_factor / std


def denormalize_latents(
    latents: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, scaling_factor: float = 1.0
) -> torch.Tensor:
    """Bring latents of the transformer back to the VAE's scale; the inverse of `normalize_latents`.

    Raises:
        InputError: If there isn't one value per channel.
    """
    mean, std = (_per_channel(statistic, latents) for statistic in (mean, std))
    return latents * std / scaling_factor + mean


def _per_channel(statistic: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Shape (C,) as (1, C, 1, ...), on the device and in the type of `latents`."""
    if statistic.ndim != 1 or latents.ndim < 2 or statistic.shape[0] != latents.shape[1]:
        raise InputError(
            "the latent statistics must have one value per channel",
            got=tuple(statistic.shape),
            expected=f"({latents.shape[1] if latents.ndim > 1 else '?'},)",
        )
    return statistic.to(latents.device, latents.dtype).view(1, -1, *(1,) * (latents.ndim - 2))


def _check_patches(frames: int, height: int, width: int, patch_size: int, patch_size_t: int) -> None:
    if frames % patch_size_t or height % patch_size or width % patch_size:
        raise InputError(
            "latents can't be cut into whole patches",
            got=f"{frames} x {height} x {width} latents",
            expected=f"multiples of {patch_size_t} x {patch_size} x {patch_size}",
        )
