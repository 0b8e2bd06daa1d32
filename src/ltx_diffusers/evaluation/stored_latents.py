"""Precomputed latents decoded again beside what they were made from: what training will see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.pictures import contact_sheet
from .latent_report import as_frames, mean_psnr
from .reconstruction import decode_by_default

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
    from ..training.latent_store import LatentStore

_LONGEST_TITLE = 160


def check_latents(
    store: LatentStore,
    vae: AutoencoderKLLTX,
    count: int,
    original: Callable[[dict[str, Any]], np.ndarray],
) -> tuple[Image, list[float]]:
    """Decode some samples and draw them under their originals, each followed by its references and conditions.

    Args:
        store: The latents.
        vae: Theirs.
        count: Samples, spread evenly over the set.
        original: Frames, uint8 (F, H, W, 3), of a sample by its record.

    Returns:
        A contact sheet, and the PSNR of each sample in dB.

    Raises:
        InputError: If the latents are of another VAE, or can't be read.
        MediaError: If an original can't be read any more.
    """
    store.check_vae(vae)
    rows: list[np.ndarray] = []
    titles: list[str] = []
    figures: list[float] = []
    for number in np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).round().astype(int)):
        sample, frames = store[int(number)], original(store.record(int(number)))
        decoded = _decoded(vae, sample.mean)
        figures.append(mean_psnr(frames, decoded))
        rows += [frames, decoded]
        what = f"{sample.name}, {sample.frame_rate:g} fps | {sample.caption}"
        titles += [what[:_LONGEST_TITLE], f"decoded, {figures[-1]:.1f} dB"]
        for place, latents in enumerate(sample.references):
            rows.append(_decoded(vae, latents))
            titles.append(f"reference {place + 1}, decoded")
        for given in sample.conditions or ():
            rows.append(_decoded(vae, given.mean))
            titles.append(f"given from frame {given.frame} on, decoded")
        if sample.mask is not None:
            rows.append(_mask_shown(sample.mask, decoded))
            titles.append("decoded where nothing is made anew")
    return contact_sheet(rows, titles), figures


def _decoded(vae: AutoencoderKLLTX, latents: torch.Tensor) -> np.ndarray:
    """Normalised latents (C, F', H', W') as frames, uint8 (F, H, W, 3); the decoder's noise is seeded."""
    video = decode_by_default(vae, latents[None].to(vae.device), torch.Generator().manual_seed(0))
    return (as_frames(video) * 255).round().astype(np.uint8)


def _mask_shown(mask: torch.Tensor, frames: np.ndarray) -> np.ndarray:
    """Frames with gray where the mask (F', H', W') says that they are made anew."""
    count, height, width = frames.shape[:3]
    ratio = (count - 1) // max(1, mask.shape[0] - 1) or 1
    pixels = mask[(torch.arange(count) + ratio - 1) // ratio]  # the first latent stands for one frame
    for axis, side in ((1, height), (2, width)):
        pixels = pixels.repeat_interleave(side // pixels.shape[axis], dim=axis)
    return np.where(pixels[..., None].numpy() > 0, np.uint8(128), frames)
