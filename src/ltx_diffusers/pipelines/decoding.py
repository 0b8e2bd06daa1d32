"""From latents to the videos that a caller asked for."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from ..functional.latent_statistics import tone_map
from ..functional.latents import denormalize_latents
from .request import STREAM


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
    return (_pixels(_frames(piece)) for piece in pieces)


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


def to_output(
    video: Tensor, output_type: str
) -> Tensor | np.ndarray | list[list[Image.Image]] | Iterator[np.ndarray]:
    """Videos in the form asked for.

    Args:
        video: (B, 3, F, H, W), about [-1, 1].
        output_type: "pt": tensor (B, F, 3, H, W) in [0, 1]; "np": float32 array (B, F, H, W, 3) in [0, 1];
            "pil": a list of PIL images for each video. Images are quantised on the device, so that only
            uint8 is copied from it.
    """
    frames = _frames(video)
    if output_type == "pt":
        return frames
    if output_type == "np":
        return frames.permute(0, 1, 3, 4, 2).float().cpu().numpy()
    pixels = _pixels(frames)
    if output_type == STREAM:
        return iter([pixels])
    return [[Image.fromarray(frame) for frame in clip] for clip in pixels]


def _frames(video: Tensor) -> Tensor:
    """(B, 3, F, H, W) in [-1, 1] as (B, F, 3, H, W) in [0, 1]."""
    return (video.permute(0, 2, 1, 3, 4) / 2 + 0.5).clamp(0, 1)


def _pixels(frames: Tensor) -> np.ndarray:
    """(B, F, 3, H, W) in [0, 1] as uint8 (B, F, H, W, 3), converted where they are, so that only bytes are copied."""
    return (frames.permute(0, 1, 3, 4, 2).float() * 255).round().to(torch.uint8).cpu().numpy()
