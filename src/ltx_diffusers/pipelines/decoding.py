"""From latents to the videos that a caller asked for."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..functional.latent_statistics import tone_map
from ..functional.latents import denormalize_latents
from .frames import to_bytes


def decode_latents(
    vae: Any,
    latents: Tensor,
    *,
    timestep: list[float],
    noise_scale: list[float],
    generator: torch.Generator | list[torch.Generator] | None = None,
    tone_map_compression: float = 0.0,
) -> Tensor:
    """Decode normalised latents.

    A decoder with timestep conditioning takes out the last of the noise (paper, "denoising decoder"): noise is
    mixed into the *normalised* latents, (1 - scale) z + scale e, as in the official pipeline. Diffusers' LTX
    pipelines mix it in after de-normalising, where it lacks the channels' scale.

    Args:
        vae: Ours or Diffusers'.
        latents: (B, C, F, H, W) float32, normalised.
        timestep: Noise level that the decoder is told, one for each video; unused without conditioning.
        noise_scale: Share of noise, one for each video; unused without conditioning.
        generator: Source of the noise, one, or one for each video.
        tone_map_compression: See `functional.latent_statistics.tone_map`; it comes after the noise.

    Returns:
        Videos (B, 3, frames, height, width), about [-1, 1], in the VAE's dtype.
    """
    latents, temb = _for_the_decoder(vae, latents, timestep, noise_scale, generator, tone_map_compression)
    return vae.decode(latents, temb, return_dict=False, **_seeded(vae, generator))[0]


def stream_latents(
    vae: Any,
    latents: Tensor,
    *,
    timestep: list[float],
    noise_scale: list[float],
    generator: torch.Generator | list[torch.Generator] | None = None,
    tone_map_compression: float = 0.0,
) -> Iterator[np.ndarray]:
    """Decode normalised latents while the frames are taken, where the VAE can; else at once.

    Args:
        vae: As `decode_latents`, like all others. Noise is mixed in before this returns.
        latents: (B, C, F, H, W) float32, normalised.
        timestep: Noise level that the decoder is told, one for each video.
        noise_scale: Share of noise, one for each video.
        generator: Source of the noise.
        tone_map_compression: See `functional.latent_statistics.tone_map`.

    Returns:
        An iterator of uint8 arrays (B, frames, height, width, 3), of any number of frames.
    """
    latents, temb = _for_the_decoder(vae, latents, timestep, noise_scale, generator, tone_map_compression)
    if hasattr(vae, "decode_stream") and vae.decodes_in_pieces(latents):
        pieces: Iterable[Tensor] = vae.decode_stream(latents, temb, generator)
    else:
        pieces = vae.decode(latents, temb, return_dict=False, **_seeded(vae, generator))
    return (to_bytes(piece) for piece in pieces)


def _for_the_decoder(
    vae: Any,
    latents: Tensor,
    timestep: list[float],
    noise_scale: list[float],
    generator: torch.Generator | list[torch.Generator] | None,
    tone_map_compression: float,
) -> tuple[Tensor, Tensor | None]:
    """Latents and noise levels as the VAE's `decode` takes them."""
    temb = None
    if vae.config.timestep_conditioning:
        temb = torch.tensor(timestep, device=latents.device, dtype=vae.dtype)
        if any(noise_scale):
            scale = torch.tensor(noise_scale, device=latents.device).view(-1, 1, 1, 1, 1)
            noise = randn_tensor(latents.shape, generator, latents.device, latents.dtype)
            latents = (1 - scale) * latents + scale * noise
    latents = tone_map(latents, tone_map_compression)
    latents = denormalize_latents(latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    return latents.to(vae.dtype), temb


def _seeded(vae: Any, generator: torch.Generator | list[torch.Generator] | None) -> dict[str, Any]:
    # Some decoders inject noise (0.9.1); Diffusers' class can't be seeded there.
    return {"generator": generator} if "generator" in inspect.signature(vae.decode).parameters else {}
