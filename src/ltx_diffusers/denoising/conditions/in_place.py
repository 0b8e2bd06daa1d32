"""Latents in place of a part of the video's own: a first frame, a clip at the start, a picture on the canvas."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import InputError
from ...functional.latents import pack_latents
from ...geometry import VideoSize
from ..state import TokenState
from .base import conditions, strength_of_tokens


@conditions.register("in-place")
@dataclass(frozen=True)
class InPlaceCondition:
    """Clean latents in place of the noise of a box of tokens.

    With strength s the tokens start as lerp(noise, latents, s), at noise level 1 - s (official pipeline,
    `prepare_conditioning`; in the paper's image-to-video training s is close to 1).

    Attributes:
        latents: Normalised latents (B, C, f, h, w), or (1, C, f, h, w) for every video.
        strength: s in [0, 1]: one for all videos, one each (B,), or one for each latent (B or 1, f, h, w).
            A 0 leaves the token as the conditions before have left it, which is how training mixes
            text-to-video and image-to-video in one batch.
        start: Latent frame, row and column at which the box begins.
    """

    latents: Tensor
    strength: float | Tensor = 1.0
    start: tuple[int, int, int] = (0, 0, 0)

    def apply_to(self, state: TokenState) -> TokenState:
        """The state with these tokens given.

        Raises:
            InputError: If the latents don't fit the state, or a strength is outside [0, 1].
        """
        where = self._tokens(state)
        batch = state.tokens.shape[0]
        given = pack_latents(self.latents).to(state.clean).expand(batch, -1, -1)
        strength = strength_of_tokens(self.strength, self.latents, batch).to(state.strength.device)
        # Where nothing is given the clean latents stay: in training they are what the model learns.
        is_given = strength > 0
        given = torch.where(is_given[..., None], given, state.clean[:, where])
        strength = torch.where(is_given, strength, state.strength[:, where])
        return replace(
            state,
            strength=state.strength.index_copy(1, where, strength),
            clean=state.clean.index_copy(1, where, given),
        )

    def _tokens(self, state: TokenState) -> Tensor:
        """Indices (f*h*w,) of the box's tokens."""
        batch, _, channels = state.tokens.shape
        box = VideoSize(*self.latents.shape[2:]) if self.latents.ndim == 5 else None
        fits = box is not None and all(
            begin >= 0 and side > 0 and begin + side <= whole
            for begin, side, whole in zip(self.start, box, state.size, strict=True)
        )
        if not fits or self.latents.shape[1] != channels or self.latents.shape[0] not in (1, batch):
            raise InputError(
                "the condition's latents don't fit the video",
                got=f"{tuple(self.latents.shape)} at latent frame, row, column {tuple(self.start)}",
                expected=f"(1 or {batch}, {channels}, f, h, w) inside {tuple(state.size)}",
            )
        grid = torch.arange(state.num_target, device=state.tokens.device).view(*state.size)
        frames, rows, columns = (
            slice(begin, begin + side) for begin, side in zip(self.start, box, strict=True)
        )
        return grid[frames, rows, columns].flatten()
