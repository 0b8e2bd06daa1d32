"""A condition: the end of the video is given."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ltx_diffusers.denoising.conditions import conditions
from ltx_diffusers.denoising.state import TokenState
from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.latents import pack_latents


@conditions.register("example-last-frame")
@dataclass(frozen=True)
class LastFrameCondition:
    """Clean latents in place of the last latent frame's noise.

    Attributes:
        latents: Normalised latents (B, C, 1, H, W), or (1, C, 1, H, W) for every video.
        strength: How strongly they are given, in [0, 1].
    """

    latents: torch.Tensor
    strength: float = 1.0

    def apply_to(self, state: TokenState) -> TokenState:
        """The state with the last latent frame given.

        Raises:
            InputError: If the latents don't fit the state.
        """
        given = pack_latents(self.latents).to(state.clean)
        per_frame = state.size.height * state.size.width
        if given.shape[1:] != (per_frame, state.clean.shape[2]) or given.shape[0] not in (
            1,
            len(state.clean),
        ):
            raise InputError("the last frame's latents don't fit the video", got=tuple(self.latents.shape))
        place = slice(state.num_target - per_frame, state.num_target)
        clean, strength = state.clean.clone(), state.strength.clone()
        clean[:, place] = given
        strength[:, place] = self.strength
        return replace(state, clean=clean, strength=strength)
