"""Videos through a VAE and back, decoded as the pipelines decode: what the VAE costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..functional.latents import normalize_latents
from ..pipelines.decoding import decode_latents
from ..pipelines.request import FALLBACK_DECODE_NOISE, FALLBACK_DECODE_TIMESTEP

if TYPE_CHECKING:
    from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX


@torch.no_grad()
def reconstruct(
    vae: AutoencoderKLLTX,
    video: torch.Tensor,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> torch.Tensor:
    """Encode a video to the mode of its latents and decode them as a pipeline does by default.

    A timestep-conditioned decoder is told its config's `default_decode_timestep`, and gets latents with its
    `default_decode_noise_scale` of noise mixed in; where the config has none, those of the released models.

    Args:
        vae: `AutoencoderKLLTX` or Diffusers' `AutoencoderKLLTXVideo`.
        video: (B, 3, F, H, W) in [-1, 1]; brought to the VAE's device and type.
        generator: Source of the decoding noise, one, or one for each video.

    Returns:
        float32 (B, 3, F, H, W) in [-1, 1].
    """
    latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
    latents = normalize_latents(latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    return decode_by_default(vae, latents, generator)


@torch.no_grad()
def decode_by_default(
    vae: AutoencoderKLLTX,
    latents: torch.Tensor,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> torch.Tensor:
    """Decode normalised latents (B, C, F, H, W) with the VAE's own settings, as `reconstruct` does.

    Returns:
        float32 (B, 3, F, H, W) in [-1, 1].
    """
    settings = {
        "timestep": _stated(vae, "default_decode_timestep", FALLBACK_DECODE_TIMESTEP),
        "noise_scale": _stated(vae, "default_decode_noise_scale", FALLBACK_DECODE_NOISE),
    }
    settings = {name: [value] * len(latents) for name, value in settings.items()}
    return decode_latents(vae, latents, generator=generator, **settings).float().clamp(-1, 1)


def _stated(vae: AutoencoderKLLTX, name: str, fallback: float) -> float:
    value = vae.config.get(name)
    return fallback if value is None else value
