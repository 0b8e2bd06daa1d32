"""What a latent space looks like: all its measures on a set of clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..functional.local_correlation import local_correlation, standardize_channels, window_correlation
from .channels import (
    channel_statistics,
    effective_rank,
    explained_variance,
    used_channels,
)
from .metrics import psnr
from .plain import rounded
from .spectra import (
    LOW_FREQUENCY,
    energy_spectrum,
    low_frequency_share,
    low_frequency_share_of_noise,
    zigzag,
)
from .vae_adapter import VideoAutoencoder, first_latent_is_one_frame

NOISE_LEVELS = (0.0, 0.1, 0.2, 0.4)
"""Deviations of the noise that the decoder's sensitivity is measured with, as shares of each channel's."""
_WINDOW = 2
_SEED_OF_NOISE = 1


def measure_latent_space(
    autoencoder: VideoAutoencoder,
    clips: Sequence[np.ndarray],
    *,
    noise_levels: Sequence[float] = NOISE_LEVELS,
    seed: int = 0,
    on_clip: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Encode clips and measure their latents, and what noise in them does to the decoded videos.

    Args:
        autoencoder: The model.
        clips: float32 (F, H, W, 3) in [0, 1] each, all of one size.
        noise_levels: For `noise_sensitivity`; none switches it off.
        seed: Of all noise.
        on_clip: Called when a clip is encoded, and again when it was decoded at all levels.

    Returns:
        Plain values, see `measure_latents` and `noise_sensitivity`, under the keys "model", "latents" and "noise".

    Raises:
        InputError: If there are no clips, they differ in size, or the model can't take them.
    """
    size = common_size(clips)
    encoded = autoencoder.check_round_trip(*size)
    facts = autoencoder.describe(encoded, size)
    latents, variances = [], []
    for clip in clips:
        encoded = autoencoder.encode(as_model_input(clip))
        latents.append(encoded.mean[0].cpu())
        if encoded.variance is not None:
            variances.append(encoded.variance[0].double().mean((1, 2, 3)).cpu())
        if on_clip is not None:
            on_clip()
    stacked = torch.stack(latents)
    variance = torch.stack(variances).mean(0) if variances else None
    report = {
        "model": facts,
        "latents": measure_latents(
            stacked, variance, first_is_one_frame=first_latent_is_one_frame(size[0], stacked.shape[2])
        ),
    }
    if noise_levels:
        report["noise"] = noise_sensitivity(autoencoder, clips, stacked, noise_levels, seed, on_clip)
    return rounded(report)


def measure_latents(
    latents: Tensor, posterior_variance: Tensor | None = None, *, first_is_one_frame: bool = True
) -> dict[str, Any]:
    """All measures of latents that need no model.

    Args:
        latents: (N, C, F, H, W).
        posterior_variance: Mean variance of the posteriors by channel, (C,).
        first_is_one_frame: Whether the first latent frame stands for one video frame, as in causal autoencoders. The
            spectrum is then that of the others, and local correlation looks at the first by itself.

    Returns:
        Plain values:

        - `latent_pixels`: how many vectors all this was measured on; with few, ranks come out too low;
        - `mean`, `std`, `correlation`: of the channels;
        - `explained_variance`, `effective_rank`: of the covariance of the channels; `normalized`: the same for
        channels of deviation 1, as a transformer sees them; `first_component`: share of the first one;
        - `used_channels`: how many carry something;
        - `spectrum`: energy along the zigzag index, the share of low frequencies, and what noise would have;
        - `local_correlation`: of neighbouring latents across channels (SSVAE), None where there are no neighbours.

    Raises:
        InputError: If there is nothing to measure: one latent pixel, or no variance.
    """
    statistics = channel_statistics(latents)
    moving = latents[:, :, 1:] if first_is_one_frame and latents.shape[2] > 1 else latents
    energy = energy_spectrum(moving)
    curve = zigzag(energy)
    used = used_channels(statistics.std**2, posterior_variance)
    report = {
        "clips": len(latents),
        "latent_pixels": latents[:, 0].numel(),
        "mean": statistics.mean.tolist(),
        "std": statistics.std.tolist(),
        "correlation": rounded(statistics.correlation.tolist(), 3),
        "mean_absolute_correlation": _off_diagonal(statistics.correlation.abs()),
        **_components(statistics.eigenvalues()),
        "normalized": _components(statistics.eigenvalues(normalized=True)),
        "used_channels": int(used.sum()),
        "spectrum": {
            "size": list(energy.shape),
            "index": curve.index,
            "amplitude": curve.amplitude,
            "low_frequency_radius": LOW_FREQUENCY,
            "low_frequency_share": low_frequency_share(energy),
            "low_frequency_share_of_noise": low_frequency_share_of_noise(tuple(energy.shape)),
        },
        "local_correlation": _local_correlation(latents, first_is_one_frame),
    }
    if posterior_variance is not None:
        report["posterior_std"] = posterior_variance.sqrt().tolist()
    return report


def noise_sensitivity(
    autoencoder: VideoAutoencoder,
    clips: Sequence[np.ndarray],
    latents: Tensor,
    levels: Sequence[float] = NOISE_LEVELS,
    seed: int = 0,
    on_clip: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """What Gaussian noise in the latents costs: the errors of a generator, in small.

    The noise of a clip is the same at every level, only larger; the decoder isn't told of it.

    Args:
        autoencoder: The model.
        clips: float32 (F, H, W, 3) in [0, 1] each.
        latents: Theirs, (N, C, F', H', W').
        levels: Deviations of the noise as shares of each channel's deviation.
        seed: Of the noise.
        on_clip: Called when a clip is done.

    Returns:
        `levels`, the mean `psnr` in dB at each, and the `drop` against the first of them.
    """
    std = channel_statistics(latents).std.float().view(-1, 1, 1, 1)
    figures = []
    for number, (clip, sample) in enumerate(zip(clips, latents, strict=True)):
        generator = torch.Generator().manual_seed(_seed(seed, number, _SEED_OF_NOISE))
        noise = torch.randn(sample.shape, generator=generator)
        row = []
        for level in levels:
            decoding = torch.Generator().manual_seed(_seed(seed, number))
            video = autoencoder.decode((sample + level * std * noise)[None], decoding)
            row.append(mean_psnr(clip, as_frames(video)))
        figures.append(row)
        if on_clip is not None:
            on_clip()
    means = np.mean(figures, axis=0)
    return {"levels": list(levels), "psnr": means.tolist(), "drop": (means[0] - means).tolist()}


def common_size(clips: Sequence[np.ndarray]) -> tuple[int, int, int]:
    """Frames, height and width of clips (F, H, W, 3).

    Raises:
        InputError: If there are none, or they differ.
    """
    sizes = {clip.shape[:3] for clip in clips}
    if len(sizes) != 1:
        raise InputError("the clips must have one size", got=sorted(sizes) or "no clips")
    return sizes.pop()


def as_model_input(clip: np.ndarray) -> Tensor:
    """A clip, float32 (F, H, W, 3) in [0, 1], as (1, 3, F, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(clip)).permute(3, 0, 1, 2)[None].float() * 2 - 1


def as_frames(video: Tensor) -> np.ndarray:
    """A video (1, 3, F, H, W) in [-1, 1] as float32 (F, H, W, 3) in [0, 1], in the 256 steps that files have."""
    frames = (video[0].permute(1, 2, 3, 0).float() + 1) * 127.5
    return frames.round().clamp(0, 255).cpu().numpy() / 255


MOST_DB = 100.0
"""What a frame counts that came back without any error, whose PSNR is infinite."""


def mean_psnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean PSNR of the frames in dB, each at most `MOST_DB`."""
    return float(np.minimum(psnr(reference, other), MOST_DB).mean())


def _components(eigenvalues: Tensor) -> dict[str, Any]:
    shares = explained_variance(eigenvalues)
    return {
        "explained_variance": shares.tolist(),
        "effective_rank": effective_rank(eigenvalues),
        "first_component": float(shares[0]),
    }


def _off_diagonal(matrix: Tensor) -> float:
    """Mean of a matrix without its diagonal; 0 for one channel."""
    count = len(matrix)
    return float((matrix.sum() - matrix.trace()) / max(1, count * (count - 1)))


def _local_correlation(latents: Tensor, first_is_one_frame: bool) -> float | None:
    """SSVAE's measure on what whole windows cover; None where even a window of one frame doesn't fit."""
    _, channels, frames, height, width = latents.shape
    if channels < 2 or height < _WINDOW or width < _WINDOW:
        return None
    latents = latents[..., : height // _WINDOW * _WINDOW, : width // _WINDOW * _WINDOW].double()
    if not first_is_one_frame:
        depth = min(_WINDOW, frames)
        latents = standardize_channels(latents)[:, :, : frames // depth * depth]
        return float(window_correlation(latents, (depth, _WINDOW, _WINDOW)).mean())
    depth = min(_WINDOW, max(1, frames - 1))
    latents = latents[:, :, : (frames - 1) // depth * depth + 1]
    return float(local_correlation(latents, (depth, _WINDOW, _WINDOW)).mean())


def _seed(*parts: int) -> int:
    """A seed of its own for each clip and purpose."""
    return int(np.random.default_rng(parts).integers(2**62))
