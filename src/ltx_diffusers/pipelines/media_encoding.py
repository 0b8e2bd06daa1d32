"""Pictures and clips that a caller gives, encoded into conditions of the denoising core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..denoising.conditions import (
    ClipCondition,
    Condition,
    InPlaceCondition,
    KeyframeCondition,
    ReferenceCondition,
    RegionCondition,
)
from ..functional.generators import Generators
from ..geometry import CompressionRatios, VideoSize
from .images import encode_frames
from .media import (
    Given,
    ReferenceVideo,
    RegionOfVideo,
    free_of_borders,
    prepared_pixels,
    video_pixels,
)


def build_conditions(
    vae: Any,
    per_prompt: Sequence[Sequence[Given]],
    size: VideoSize,
    ratios: CompressionRatios,
    videos_per_prompt: int,
    generator: Generators,
    device: torch.device,
    hide_regions: bool = False,
) -> list[Condition]:
    """Encode the conditions of a batch.

    Args:
        vae: Ours or Diffusers'.
        per_prompt: Checked conditions of each prompt, all of one structure; or of one prompt, for all videos.
        size: Frames, height and width of the videos, in pixels.
        ratios: Compression of the VAE.
        videos_per_prompt: Each prompt makes so many videos in a row.
        generator: One, or one for each video.
        device: Where the VAE runs.
        hide_regions: Whether the regions that are made anew are gray in what the VAE sees, unless they say so
            themselves.
    """
    built = []
    for entries in zip(*per_prompt, strict=True):
        pixels = torch.stack([_pixels(entry, size, hide_regions) for entry in entries]).to(device)
        latents = encode_frames(vae, pixels, videos_per_prompt, generator)
        strength = torch.tensor([entry.strength for entry in entries]).repeat_interleave(videos_per_prompt)
        built.append(_condition(entries, latents, strength, ratios, videos_per_prompt, size))
    return built


def _pixels(entry: Given, size: VideoSize, hide_regions: bool) -> Tensor:
    """(3, F, H, W) in [-1, 1]."""
    if not isinstance(entry, RegionOfVideo):
        return prepared_pixels(entry, size)
    pixels = video_pixels(entry.video)
    hide = hide_regions if entry.hide is None else entry.hide
    return pixels * entry.keep.to(pixels) if hide else pixels  # 0 is gray


def _condition(
    entries: Sequence[Given],
    latents: Tensor,
    strength: Tensor,
    ratios: CompressionRatios,
    videos_per_prompt: int,
    size: VideoSize,
) -> Condition:
    first = entries[0]
    if isinstance(first, ReferenceVideo):
        return ReferenceCondition(latents, strength, first.scale)
    if isinstance(first, RegionOfVideo):
        keep = torch.stack([entry.keep for entry in entries]).repeat_interleave(videos_per_prompt, dim=0)
        return RegionCondition(latents, strength, keep)
    if first.place is not None:
        height, width = latents.shape[3] * ratios.height, latents.shape[4] * ratios.width
        (row, column), (rows, columns), (skip_rows, skip_columns) = free_of_borders(
            (height, width), first.place, size, ratios
        )
        inner = latents[:, :, :, skip_rows : skip_rows + rows, skip_columns : skip_columns + columns]
        return InPlaceCondition(inner, strength, (0, row, column))
    if first.video is not None and latents.shape[2] > 1:
        return ClipCondition(latents, strength, first.frame_index, first.prefix)
    if first.frame_index == 0:
        return InPlaceCondition(latents, strength)
    return KeyframeCondition(latents, strength, first.frame_index)
