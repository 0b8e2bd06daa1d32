"""A part of a video is kept and the rest made anew: inpainting, outpainting, retaking a span of time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError
from ...geometry import CompressionRatios
from ..state import TokenState
from .base import conditions
from .in_place import InPlaceCondition


@conditions.register("region")
@dataclass(frozen=True)
class RegionCondition:
    """Latents of a whole video, given where a mask of pixels keeps them.

    A token is given if every pixel that it stands for is kept. So what is made anew is never smaller than the
    masked region, and its border lies on the latents' grid.

    Attributes:
        latents: Normalised latents of the video (B, C, F, H, W), or (1, C, F, H, W) for every video.
        strength: s in [0, 1] of the kept tokens, one for all videos or one each (B,).
        keep: Mask of pixels (B or 1, frames, height, width), True where the video stays; None: everywhere.
    """

    latents: Tensor
    strength: float | Tensor = 1.0
    keep: Tensor | None = None

    def apply_to(self, state: TokenState) -> TokenState:
        """The state with the kept tokens given.

        Raises:
            InputError: If the latents or the mask don't fit the state, or a strength is outside [0, 1].
        """
        if self.keep is None:
            return InPlaceCondition(self.latents, self.strength).apply_to(state)
        kept = kept_latents(self.keep, state.placement.ratios).to(self.latents.device, torch.float32)
        if tuple(kept.shape[1:]) != tuple(self.latents.shape[2:]):
            raise InputError(
                "the mask doesn't fit the video",
                got=f"a mask of {tuple(self.keep.shape)} for latents {tuple(self.latents.shape)}",
                expected="one value for each pixel: (B or 1, frames, height, width)",
            )
        strength = torch.as_tensor(self.strength, dtype=torch.float32, device=kept.device)
        return InPlaceCondition(self.latents, kept * strength.reshape(-1, 1, 1, 1)).apply_to(state)


def kept_latents(keep: Tensor, ratios: CompressionRatios) -> Tensor:
    """Which latents stand for kept pixels only.

    Args:
        keep: Boolean (B, frames, height, width), frames 8k + 1.
        ratios: Frames, rows and columns of pixels for one latent; the first latent stands for one frame.

    Returns:
        Boolean (B, F, H, W).

    Raises:
        InputError: If the mask has no such size.
    """
    if (
        keep.ndim != 4
        or (keep.shape[1] - 1) % ratios.time
        or keep.shape[2] % ratios.height
        or keep.shape[3] % ratios.width
    ):
        raise InputError(
            "a mask has one value for each pixel",
            got=tuple(keep.shape),
            expected=f"(B, {ratios.time}k + 1, multiple of {ratios.height}, multiple of {ratios.width})",
        )
    # The first latent stands for one frame: repeated, it fills a box like the others.
    whole = torch.cat([keep[:, :1].repeat_interleave(ratios.time - 1, dim=1), keep], dim=1).bool()
    boxes = (
        whole.unflatten(3, (-1, ratios.width))
        .unflatten(2, (-1, ratios.height))
        .unflatten(1, (-1, ratios.time))
    )
    return boxes.all(dim=6).all(dim=4).all(dim=2)
