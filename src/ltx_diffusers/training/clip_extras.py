"""What belongs to a clip besides its frames, made ready for training: references, masks, conditions (see `Clip`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ..data.clips import Clip, GivenFrames
from ..denoising.conditions.region import kept_latents
from ..errors import InputError
from ..geometry import CompressionRatios, VideoSize, check_video_size
from .samples import GivenLatents


@dataclass(frozen=True)
class Extras:
    """Latents that belong to a clip besides its own.

    Attributes:
        references: Posterior means (C, f, h, w), normalised by the VAE's statistics.
        mask: Which of the clip's latents are made anew (F', H', W'), 1 = made anew; None if it has no mask.
        conditions: What it is given of its own; None if it doesn't say.
    """

    references: tuple[torch.Tensor, ...] = ()
    mask: torch.Tensor | None = None
    conditions: tuple[GivenLatents, ...] | None = None


def check_reference_sizes(sizes: Iterable[VideoSize], scale: int, ratios: CompressionRatios) -> None:
    """Check that a VAE can encode references of clips of these sizes.

    Args:
        sizes: Frames, height and width of the clips in pixels.
        scale: How many times fewer pixels a side references have.
        ratios: Compression of the VAE.

    Raises:
        InputError: If it can't; the message names near sizes.
    """
    for size in sizes:
        sides = (size.height, size.width)
        if any(side % scale for side in sides):
            raise InputError(
                "the scale of references must divide every size",
                got=f"{scale} for {size.width}x{size.height}",
            )
        check_video_size(size.frames, *(side // scale for side in sides), ratios)


def references_of(clip: Clip, scale: int) -> list[np.ndarray]:
    """A clip's references in the size that they are encoded in, float32 (f, H / scale, W / scale, 3) each.

    Args:
        clip: The clip.
        scale: How many times fewer pixels a side they get: so many are averaged, across and down.

    Raises:
        InputError: If a reference has another size than its clip.
    """
    return [_shrunk(_checked(reference, clip), scale) for reference in clip.references]


def latent_mask(clip: Clip, ratios: CompressionRatios) -> torch.Tensor | None:
    """Which latents of a clip are made anew (F', H', W'), float32: those that stand for any pixel that is.

    Raises:
        InputError: If the mask has another size than its clip.
    """
    if clip.mask is None:
        return None
    if clip.mask.shape != clip.frames.shape[:3]:
        raise InputError(
            f"the mask of {clip.name or 'a clip'} has another size than the clip",
            got=clip.mask.shape,
            expected=f"{clip.frames.shape[:3]}: frames, height and width",
        )
    keep = torch.from_numpy(~clip.mask.astype(bool))
    return 1 - kept_latents(keep[None], ratios)[0].float()


def conditions_of(clip: Clip) -> tuple[GivenFrames, ...]:
    """What a clip is given of its own, if anything.

    Raises:
        InputError: If it has another size than the clip, or isn't inside it.
    """
    frames, *picture = clip.frames.shape
    for given in clip.conditions or ():
        inside = 0 <= given.frame <= frames - len(given.frames)
        if list(given.frames.shape[1:]) != picture or not inside:
            raise InputError(
                f"a condition of {clip.name or 'a clip'} doesn't fit the clip",
                got=f"{given.frames.shape} from frame {given.frame} on",
                expected=f"within {clip.frames.shape}",
            )
    return clip.conditions or ()


def _checked(reference: np.ndarray, clip: Clip) -> np.ndarray:
    frames, *picture = clip.frames.shape
    if list(reference.shape[1:]) != picture or reference.shape[0] not in (1, frames):
        raise InputError(
            f"a reference of {clip.name or 'a clip'} has another size than the clip",
            got=reference.shape,
            expected=f"{clip.frames.shape}, or one frame",
        )
    return reference


def _shrunk(frames: np.ndarray, scale: int) -> np.ndarray:
    if scale == 1:
        return frames
    count, height, width, channels = frames.shape
    blocks = frames.reshape(count, height // scale, scale, width // scale, scale, channels)
    return blocks.mean(axis=(2, 4), dtype=np.float32)
