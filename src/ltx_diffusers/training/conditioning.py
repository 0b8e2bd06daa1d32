"""What training gives the model besides the prompt: the conditions of inference, drawn at random.

Conditions in place of the video's own tokens are drawn for each sample. A clip with tokens of its own makes the
sequence longer, so it is drawn for a whole step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..denoising.conditions import ClipCondition, InPlaceCondition, KeyframeCondition
from ..denoising.state import TokenState
from .config import StrictModel

Draw = Callable[..., Tensor]
"""Uniform numbers in [0, 1) of a shape."""


class ClipShare(StrictModel):
    """A piece of the clip that is encoded by itself and given with tokens of its own.

    Attributes:
        frame: Frame at which it begins: a multiple of 8 for more than one frame.
        frames: Its length, 8k + 1; 1 for a keyframe.
        share: Share of the steps.
    """

    frame: int = Field(gt=0)
    frames: int = Field(default=1, gt=0)
    share: float = Field(gt=0, le=1)


class ConditionShares(StrictModel):
    """How often what is given. What no share covers is text-to-video.

    Attributes:
        first_frame: Share of the samples whose first frame is given (image-to-video).
        opening: Share of the samples given up to a random latent frame, but the last (extension).
        region: Share of the samples given outside a random box of latents (inpainting, retakes).
        clips: Given beside those, a whole step at a time.
        noise: What is given has a noise level of its own, drawn from [0, this] for each sample (paper, section 2.3).
    """

    first_frame: float = Field(default=0.25, ge=0, le=1)
    opening: float = Field(default=0.0, ge=0, le=1)
    region: float = Field(default=0.0, ge=0, le=1)
    clips: tuple[ClipShare, ...] = ()
    noise: float = Field(default=0.05, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_sums(self) -> ConditionShares:
        if self.first_frame + self.opening + self.region > 1:
            raise ValueError("the shares of first_frame, opening and region sum to more than 1")
        if sum(clip.share for clip in self.clips) > 1:
            raise ValueError("the shares of the clips sum to more than 1")
        return self

    def clip_of_step(self, number: float) -> int | None:
        """Which of the clips a step is given, by a number drawn from [0, 1); None for none."""
        for index, clip in enumerate(self.clips):
            number -= clip.share
            if number < 0:
                return index
        return None


@dataclass(frozen=True)
class GivenClip:
    """A piece of each video, encoded by itself.

    Attributes:
        latents: Normalised latents (B, C, f, H, W).
        frame: Frame at which it begins.
    """

    latents: Tensor
    frame: int


def with_drawn_conditions(
    state: TokenState, latents: Tensor, shares: ConditionShares, draw: Draw, clip: GivenClip | None = None
) -> TokenState:
    """A training state with conditions of random kinds.

    Args:
        state: From `denoising.state.from_noise`.
        latents: The videos' normalised latents (B, C, F, H, W).
        shares: How often what is given.
        draw: Source of randomness.
        clip: Given to every sample of this step.
    """
    strength = (1 - shares.noise * draw(latents.shape[0])).clamp(0, 1)
    given = _given_in_place(latents, shares, draw)
    state = InPlaceCondition(latents, given * strength.view(-1, 1, 1, 1)).apply_to(state)
    if clip is None:
        return state
    condition = KeyframeCondition if clip.latents.shape[2] == 1 else ClipCondition
    return condition(latents=clip.latents, strength=strength, frame=clip.frame).apply_to(state)


def _given_in_place(latents: Tensor, shares: ConditionShares, draw: Draw) -> Tensor:
    """1 for each latent that is given, 0 elsewhere: (B, F, H, W)."""
    batch, _, *size = latents.shape
    kind = draw(batch)
    first_frame = kind < shares.first_frame
    kind = kind - shares.first_frame
    opening = (kind >= 0) & (kind < shares.opening)
    kind = kind - shares.opening
    region = (kind >= 0) & (kind < shares.region)

    frame = torch.arange(size[0], device=latents.device)
    upto = 1 + (draw(batch) * max(1, size[0] - 1)).long()  # latent frames given: 1 to F - 1
    upto = torch.where(opening, upto, first_frame.long())
    in_front = (frame < upto[:, None])[:, :, None, None]

    box = torch.ones(batch, *size, dtype=torch.bool, device=latents.device)
    for axis, length in enumerate(size):
        shape = [batch, 1, 1, 1]
        shape[1 + axis] = length
        box = box & _span(draw(batch), draw(batch), length).view(shape)
    return (in_front | (region[:, None, None, None] & ~box)).float()


def _span(first: Tensor, second: Tensor, length: int) -> Tensor:
    """A random span of a side, of every length equally often: (B, length) booleans."""
    size = 1 + (first * length).long()
    begin = (second * (length - size + 1)).long()
    place = torch.arange(length, device=first.device)
    return (place >= begin[:, None]) & (place < (begin + size)[:, None])
