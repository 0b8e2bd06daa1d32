"""A clip is given, at the start of the video or further on: extension, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import InputError, UnknownNameError
from ..state import TokenState
from .base import check_latents, conditions
from .in_place import InPlaceCondition
from .keyframe import KeyframeCondition

PREFIXES = ("extra", "soft", "drop")
PREFIX_FRAMES = 2


@conditions.register("clip")
@dataclass(frozen=True)
class ClipCondition:
    """Latents of a clip of 8k + 1 frames that begins at a frame of the video.

    At frame 0 they stand in place. Further on the clip's first latents don't fit in, because its very first one
    stands for a single frame: the first two are treated as `prefix` says, the others stand in place (official
    pipeline, `_handle_non_first_conditioning_sequence`, whose names are concat, soft and drop).

    Attributes:
        latents: Normalised latents (B, C, f, H, W), or (1, C, f, H, W) for every video.
        strength: s in [0, 1], one for all videos or one each (B,).
        frame: Frame at which the clip begins, a multiple of the VAE's frames per latent.
        prefix: "extra": the first two latents become extra tokens (`KeyframeCondition`). "soft": the second stands
            in place with at most `prefix_strength`. "drop": neither is given.
        prefix_strength: See `prefix`.

    Raises:
        UnknownNameError: If there is no such prefix.
    """

    latents: Tensor
    strength: float | Tensor = 1.0
    frame: int = 0
    prefix: str = "extra"
    prefix_strength: float = 0.15

    def __post_init__(self) -> None:
        if self.prefix not in PREFIXES:
            raise UnknownNameError("unknown prefix", got=repr(self.prefix), expected=f"one of {PREFIXES}")

    def apply_to(self, state: TokenState) -> TokenState:
        """The state with the clip given.

        Raises:
            InputError: If the clip doesn't fit the state, or a strength is outside [0, 1].
        """
        if self.frame == 0:
            return InPlaceCondition(self.latents, self.strength).apply_to(state)
        check_latents(self.latents, state)
        frames_per_latent = state.placement.ratios.time
        if self.frame % frames_per_latent or self.latents.shape[2] < PREFIX_FRAMES:
            raise InputError(
                "a clip inside the video begins at a whole latent and has at least two of them",
                got=f"{self.latents.shape[2]} latent frames at frame {self.frame}",
                expected=f"a multiple of {frames_per_latent}, and {frames_per_latent + 1} frames or more",
                fix="give a single picture as a keyframe",
            )
        first = self.frame // frames_per_latent
        prefix, rest = self.latents[:, :, :PREFIX_FRAMES], self.latents[:, :, PREFIX_FRAMES:]
        if rest.shape[2] > 0:
            state = InPlaceCondition(rest, self.strength, (first + PREFIX_FRAMES, 0, 0)).apply_to(state)
        if self.prefix == "extra":
            return KeyframeCondition(prefix, self.strength, self.frame).apply_to(state)
        if self.prefix == "soft":
            soft = torch.as_tensor(self.strength).clamp(max=self.prefix_strength)
            return InPlaceCondition(prefix[:, :, 1:], soft, (first + 1, 0, 0)).apply_to(state)
        return state
