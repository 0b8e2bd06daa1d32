"""Outputs of small models on seeded inputs, to compare two checkpoints by what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .model_classes import build_empty

SMALL = 50_000_000
"""The most parameters of a model that is run for a comparison: seconds on one core."""

_SEED = 0
_TOKENS = 6
_LATENT = (2, 2, 3)


@torch.no_grad()
def outputs(kind: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What a model computes in float32 on inputs that depend on its config only.

    Args:
        kind: Of the part: "transformer", "vae", "spatial_upsampler" or "temporal_upsampler".
        config: Arguments of our class.
        weights: Its state dict.

    Returns:
        Of a transformer the velocity (1, L, C); of a VAE the latents' mean and log-variance (1, C, F', H', W') and a
        decoded video (1, 3, F, H, W); of an upsampler the latents.
    """
    model = build_empty(kind, config)
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    model.eval()
    generator = torch.Generator().manual_seed(_SEED)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if kind == "transformer":
        frames, height, width = _LATENT
        return model(
            noise(1, frames * height * width, model.config.in_channels),
            noise(1, _TOKENS, model.config.caption_channels),
            timestep=torch.tensor([700.0]),
            encoder_attention_mask=torch.ones(1, _TOKENS),
            num_frames=frames,
            height=height,
            width=width,
            frame_rate=24.0,
            return_dict=False,
        )
    if kind == "vae":
        ratios = model.compression_ratios
        video = noise(1, model.config.in_channels, 1 + ratios.time, ratios.height, 2 * ratios.width)
        distribution = model.encode(video).latent_dist
        level = torch.tensor([0.05]) if model.config.timestep_conditioning else None
        decoded = model.decode(distribution.mean, level, generator=generator, return_dict=False)
        return distribution.mean, distribution.logvar, *decoded
    return (model(noise(1, model.config.in_channels, *_LATENT)),)
