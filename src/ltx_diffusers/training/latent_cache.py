"""Latents of training clips, encoded once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file

from ..data.clips import ClipReader
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from .vae import to_model_range

_BATCH = 8

View = Callable[[int, np.ndarray], np.ndarray]
"""What is encoded of a clip, by its number and frames (F, H, W, 3). Its repr says all about it."""


@torch.no_grad()
def cached_posteriors(
    vae: AutoencoderKLLTX, clips: ClipReader, count: int, folder: Path, view: View | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior means and standard deviations of the first `count` clips, normalised by the VAE's statistics.

    They are encoded the first time and then read from `folder`, under a name made of the clips' settings and the
    encoder's weights: another VAE or another set never reads stale latents.

    Args:
        vae: Encodes them.
        clips: The set.
        count: How many.
        folder: Where they are kept.
        view: What is encoded of each clip; the clip itself if None.

    Returns:
        means: (N, C, F', H', W') float32.
        deviations: (N, C or 1, F', H', W') float32.
    """
    path = folder / f"latents-{_fingerprint(vae, clips, count, view)}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        means, deviations = [], []
        batches = track(
            range(0, count, _BATCH), "encoding clips", console=Console(stderr=True), update_period=1.0
        )
        for start in batches:
            numbers = range(start, min(start + _BATCH, count))
            frames = [(number, clips[number].frames) for number in numbers]
            frames = np.stack([clip if view is None else view(number, clip) for number, clip in frames])
            mean, deviation = _encode(vae, frames)
            means.append(mean)
            deviations.append(deviation)
        partial = path.with_suffix(".partial")
        save_file({"mean": torch.cat(means), "deviation": torch.cat(deviations)}, partial)
        partial.replace(path)
    stored = load_file(path)
    return _normalized(vae, stored["mean"], stored["deviation"])


@torch.no_grad()
def encode_posterior(vae: AutoencoderKLLTX, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior means and standard deviations of clips, normalised by the VAE's statistics, on the CPU.

    Args:
        vae: Encodes them, in bfloat16.
        frames: (B, F, H, W, 3) in [0, 1].

    Returns:
        means: (B, C, F', H', W') float32.
        deviations: (B, C or 1, F', H', W') float32.
    """
    return _normalized(vae, *_encode(vae, frames))


def _encode(vae: AutoencoderKLLTX, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    video = to_model_range(frames).to(vae.device)
    with torch.autocast(vae.device.type, torch.bfloat16):
        posterior = vae.encode(video).latent_dist
    channels = 1 if vae.config.get("shared_log_variance", True) else None  # one for all channels
    return posterior.mean.float().cpu(), posterior.std[:, :channels].float().cpu()


def _normalized(
    vae: AutoencoderKLLTX, mean: torch.Tensor, deviation: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    center, scale = (
        value.float().cpu()[None, :, None, None, None] for value in (vae.latents_mean, vae.latents_std)
    )
    return (mean - center) / scale, deviation / scale


def _fingerprint(vae: AutoencoderKLLTX, clips: ClipReader, count: int, view: View | None) -> str:
    what = [repr(clips), count] + ([] if view is None else [repr(view)])
    digest = hashlib.sha256(json.dumps(what).encode())
    for name, weight in sorted(vae.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
