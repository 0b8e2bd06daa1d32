"""What is measured of each trained VAE, on clips that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltx_diffusers import AutoencoderKLLTX
from ltx_diffusers.evaluation.latent_report import as_frames, as_model_input, mean_psnr, measure_latent_space
from ltx_diffusers.evaluation.metrics import flicker, ssim
from ltx_diffusers.evaluation.vae_adapter import VideoAutoencoder
from ltx_diffusers.functional.latents import denormalize_latents, normalize_latents
from ltx_diffusers.objectives import objectives
from ltx_diffusers.objectives.vae import VAEPass

NUM_CLIPS = 48
LEVELS = (0.0, 0.05, 0.1, 0.2)
"""Shares of noise in the latents; the denoising decoder is trained up to 0.2."""


@torch.no_grad()
def measure_vae(folder: Path, clips: Sequence[np.ndarray]) -> dict[str, Any]:
    """Reconstruction, decoding from noisy latents, and the latent space.

    Args:
        folder: Of the VAE.
        clips: float32 (F, H, W, 3) in [0, 1] each.
    """
    vae = AutoencoderKLLTX.from_pretrained(folder).eval()
    features = objectives.get("random-features")()
    rows = []
    for number, clip in enumerate(clips):
        video = as_model_input(clip)
        latents = vae.encode(video).latent_dist.mode()
        told = _decode_noisy(vae, latents, number, told=True)
        untold = _decode_noisy(vae, latents, number, told=False)
        frames = as_frames(told[0])
        rows.append(
            {
                "psnr": mean_psnr(clip, frames),
                "ssim": float(np.mean(ssim(clip, frames))),
                "flicker": flicker(clip, frames),
                "detail": _detail(frames) / _detail(clip),
                "features": float(features(VAEPass(video, told[0].clamp(-1, 1), latents, latents))),
                "psnr_told": [mean_psnr(clip, as_frames(result)) for result in told],
                "psnr_untold": [mean_psnr(clip, as_frames(result)) for result in untold],
            }
        )
    means = {name: np.mean([row[name] for row in rows], axis=0).tolist() for name in rows[0]}
    report = measure_latent_space(VideoAutoencoder(vae), clips)
    return {"reconstruction": means, "latents": report["latents"], "noise": report["noise"]}


def _decode_noisy(
    vae: AutoencoderKLLTX, latents: torch.Tensor, number: int, *, told: bool
) -> list[torch.Tensor]:
    """Decode (1 - t) * latents + t * noise, in normalised space, at each level t.

    A decoder that is conditioned on the level is told it, or else that there is no noise; the other takes no level.
    """
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(number))
    clean = normalize_latents(latents, vae.latents_mean, vae.latents_std)
    results = []
    for level in LEVELS:
        mixed = denormalize_latents((1 - level) * clean + level * noise, vae.latents_mean, vae.latents_std)
        stated = torch.tensor([level if told else 0.0]) if vae.config.timestep_conditioning else None
        results.append(vae.decode(mixed, stated).sample)
    return results


def _detail(frames: np.ndarray) -> float:
    """Energy of the finest detail: of the three sub-bands of a spatial Haar step that hold differences."""
    a, b, c, d = (frames[:, row::2, column::2] for row in (0, 1) for column in (0, 1))
    return float(sum((band**2).mean() for band in ((a - b + c - d), (a + b - c - d), (a - b - c + d))))
