"""The first frame of the video is given: image-to-video."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import InputError
from ...functional.latents import pack_latents
from ..state import TokenState
from .base import conditions


@conditions.register("first-frame")
@dataclass(frozen=True)
class FirstFrameCondition:
    """Clean latents in place of the first latent frame's noise.

    With strength s the tokens start as lerp(noise, latents, s), at noise level 1 - s (official pipeline,
    `prepare_conditioning`; in the paper's image-to-video training s is close to 1).

    Attributes:
        latents: Normalised latents of the first frame (B, C, 1, H, W), or (1, C, 1, H, W) for every video.
        strength: s in [0, 1], one for all videos or one each (B,). A 0 leaves that video free, which is how
            training mixes text-to-video and image-to-video in one batch.
    """

    latents: Tensor
    strength: float | Tensor = 1.0

    def apply_to(self, state: TokenState) -> TokenState:
        """The state with the first latent frame given.

        Raises:
            InputError: If the latents don't fit the state, or a strength is outside [0, 1].
        """
        batch, _, channels = state.tokens.shape
        expected = (batch, channels, 1, state.size.height, state.size.width)
        if self.latents.shape[1:] != expected[1:] or self.latents.shape[0] not in (1, batch):
            raise InputError(
                "the first frame's latents don't fit the video",
                got=tuple(self.latents.shape),
                expected=expected,
            )
        given = pack_latents(self.latents).to(state.clean).expand(batch, -1, -1)
        strength = self._strengths(state).expand(batch, given.shape[1])
        count = given.shape[1]
        # A video with strength 0 keeps its clean latents: in training they are what it learns.
        given = torch.where(strength[..., None] > 0, given, state.clean[:, :count])
        return replace(
            state,
            strength=torch.cat([strength, state.strength[:, count:]], dim=1),
            clean=torch.cat([given, state.clean[:, count:]], dim=1),
        )

    def _strengths(self, state: TokenState) -> Tensor:
        strength = torch.as_tensor(self.strength, dtype=torch.float32, device=state.strength.device)
        batch = state.strength.shape[0]
        if strength.ndim > 1 or (strength.ndim == 1 and strength.shape[0] != batch):
            raise InputError(
                "the strength must be one number or one per video",
                got=f"shape {tuple(strength.shape)}",
                expected=f"({batch},)",
            )
        if not bool(((strength >= 0) & (strength <= 1)).all()):
            raise InputError("the strength must be in [0, 1]", got=strength.tolist())
        return strength.reshape(-1, 1)
