"""What training gives the model besides the prompt: the conditions of inference, drawn at random.

Conditions in place of the video's own tokens are drawn for each sample. A clip with tokens of its own makes the
sequence longer, so it is drawn for a whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..denoising.conditions import ClipCondition, InPlaceCondition, KeyframeCondition, ReferenceCondition
from ..denoising.conditions.base import Condition
from ..denoising.state import TokenState
from ..functional.draws import Draws
from ..geometry import LTX_RATIOS, CompressionRatios, VideoSize, check_video_size, latent_size
from .config import StrictModel

_BOX_SEED = 7


class ClipShare(StrictModel):
    """A piece of the clip that is encoded by itself and given with tokens of its own.

    Attributes:
        frame: Frame at which it begins: a multiple of 8 for more than one frame. Negative numbers count from the end:
            -1 is the last frame of any clip, -9 with 9 frames its end.
        frames: Its length, 8k + 1; 1 for a keyframe.
        share: Share of the steps. Of clips that it doesn't fit into, such as pictures, nothing is given then.
    """

    frame: int
    frames: int = Field(default=1, gt=0)
    share: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _check_frame(self) -> ClipShare:
        if self.frame == 0:
            raise ValueError("a clip from frame 0 on is an opening: use conditions.opening or first_frame")
        check_video_size(self.frames, LTX_RATIOS.height, LTX_RATIOS.width)
        return self

    def begin(self, num_frames: int, ratio: int = LTX_RATIOS.time) -> int | None:
        """Its first frame in a clip of this many; None if it doesn't fit into that, or not at a whole latent."""
        begin = self.frame if self.frame > 0 else num_frames + self.frame
        inside = begin > 0 and begin + self.frames <= num_frames
        return begin if inside and (self.frames == 1 or begin % ratio == 0) else None


class ConditionShares(StrictModel):
    """How often what is given. What no share covers is text-to-video.

    What a sample has of its own (a list's column `conditions`) stands in place of all that would be drawn for it.

    Attributes:
        first_frame: Share of the samples whose first frame is given (image-to-video).
        opening: Share of the samples given up to a random latent frame, but the last (extension).
        region: Share of the samples given outside a random box of latents (inpainting, retakes). The box is gray in
            the video that is encoded, or the latents around it would know what it held.
        clips: Given beside those, a whole step at a time.
        references: Share of the steps in which samples are given the references that they have.
        own: Share of the steps in which samples are given the conditions that they have of their own.
        reference_scale: How many times fewer pixels a side references get than their clips, where the run itself
            encodes them; precomputed latents have theirs.
        noise: What is given has a noise level of its own, drawn from [0, this] for each sample (paper, section 2.3).
    """

    first_frame: float = Field(default=0.25, ge=0, le=1)
    opening: float = Field(default=0.0, ge=0, le=1)
    region: float = Field(default=0.0, ge=0, le=1)
    clips: tuple[ClipShare, ...] = ()
    references: float = Field(default=1.0, ge=0, le=1)
    own: float = Field(default=1.0, ge=0, le=1)
    reference_scale: int = Field(default=1, gt=0)
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

    def condition(self, strength: Tensor) -> Condition:
        """What inference makes of it, with a strength for each video (B,)."""
        kind = KeyframeCondition if self.latents.shape[2] == 1 and self.frame > 0 else ClipCondition
        return kind(latents=self.latents, strength=strength, frame=self.frame)


@dataclass(frozen=True)
class GivenRegion:
    """What each video shows outside a box of latents.

    Attributes:
        latents: Normalised latents (B, C, F, H, W) of the videos with a gray box.
        keep: 1 outside the box, 0 inside, (B, F, H, W).
    """

    latents: Tensor
    keep: Tensor


@dataclass(frozen=True)
class GivenReference:
    """What each video is made from: in-context references.

    Attributes:
        latents: Normalised latents (B, C, f, h, w).
        scale: Pixels of the video for one of the reference, in height and width.
    """

    latents: Tensor
    scale: int = 1


def random_box(number: int, size: VideoSize) -> np.ndarray:
    """Latents (F, H, W) outside a random box of a clip: always the same for the same number. False in the box."""
    rng = np.random.default_rng([_BOX_SEED, number])
    box = np.ones(size, bool)
    for axis, length in enumerate(size):
        span = rng.integers(1, length + 1)
        begin = rng.integers(length - span + 1)
        place = np.arange(length)
        inside = (place >= begin) & (place < begin + span)
        box &= np.expand_dims(inside, [other for other in range(3) if other != axis])
    return ~box


@dataclass(frozen=True)
class Piece:
    """A view of a clip: some of its frames.

    Attributes:
        frame: The first of them.
        frames: How many.
    """

    frame: int
    frames: int

    def __call__(self, number: int, frames: np.ndarray) -> np.ndarray:
        """The piece (f, H, W, 3) of a clip's frames (F, H, W, 3)."""
        return frames[self.frame : self.frame + self.frames]


@dataclass(frozen=True)
class GrayBox:
    """A view of a clip: gray in its `random_box`.

    Attributes:
        ratios: Frames, rows and columns of pixels that one latent stands for.
    """

    ratios: CompressionRatios

    def __call__(self, number: int, frames: np.ndarray) -> np.ndarray:
        """The frames (F, H, W, 3) in [0, 1] of clip `number` with its box."""
        keep = random_box(number, latent_size(VideoSize(*frames.shape[:3]), self.ratios))
        # The first latent stands for one frame.
        keep = np.concatenate([keep[:1], keep[1:].repeat(self.ratios.time, axis=0)])
        keep = keep.repeat(self.ratios.height, axis=1).repeat(self.ratios.width, axis=2)
        return np.where(keep[..., None], frames, np.float32(0.5))


def with_drawn_conditions(
    state: TokenState,
    latents: Tensor,
    shares: ConditionShares,
    draws: Draws,
    clip: GivenClip | None = None,
    region: GivenRegion | None = None,
    *,
    own: Sequence[GivenClip] | None = None,
    made_anew: Tensor | None = None,
    references: Sequence[GivenReference] = (),
) -> TokenState:
    """A training state with conditions of random kinds.

    Args:
        state: From `denoising.state.from_noise`.
        latents: The videos' normalised latents (B, C, F, H, W).
        shares: How often what is given.
        draws: Source of randomness.
        clip: Given to every sample of this step.
        region: What the samples are given that the share `region` falls on.
        own: Given to every sample, in place of all that would be drawn: what they have of their own; None to draw.
        made_anew: Which part of the videos isn't given (B, F, H, W), by their own masks; 1 = made anew. Replaces what
            would be drawn in place of the videos' tokens.
        references: Given to every sample of this step, without noise.
    """
    strength = (1 - shares.noise * draws.uniform()).clamp(0, 1)
    column = strength.view(-1, 1, 1, 1)
    kind = draws.uniform()
    upto = _latent_frames_given(kind, shares, latents.shape[2], draws)
    in_front = torch.arange(latents.shape[2], device=latents.device) < upto[:, None]
    given = in_front[:, :, None, None].expand(-1, -1, *latents.shape[3:])
    if made_anew is not None:
        given, region = 1 - made_anew, None
    elif own is not None:
        given, region = torch.zeros_like(given), None
    state = InPlaceCondition(latents, given * column).apply_to(state)
    if region is not None:
        others = shares.first_frame + shares.opening
        chosen = (kind >= others) & (kind < others + shares.region)
        given = region.keep * chosen.view(-1, 1, 1, 1)
        state = InPlaceCondition(region.latents, given * column).apply_to(state)
    drawn = () if clip is None else (clip,)
    for each in drawn if own is None else own:
        state = each.condition(strength).apply_to(state)
    for reference in references:
        state = ReferenceCondition(reference.latents, scale=reference.scale).apply_to(state)
    return state


def _latent_frames_given(kind: Tensor, shares: ConditionShares, frames: int, draws: Draws) -> Tensor:
    """How many latent frames each sample is given from its start on (B,): by its kind, none to all but one."""
    draw = draws.uniform()
    if frames == 1:  # of a picture nothing would be left to learn
        return torch.zeros_like(kind, dtype=torch.long)
    opening = (kind >= shares.first_frame) & (kind < shares.first_frame + shares.opening)
    upto = (1 + (draw * (frames - 1)).long()).clamp(max=frames - 1)
    return torch.where(opening, upto, (kind < shares.first_frame).long())
