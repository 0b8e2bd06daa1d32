"""A picture or the start of a clip inside the video: tokens of its own, at the time where it belongs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...geometry import VideoSize
from ..state import TokenState
from .base import append_tokens, check_latents, conditions


@conditions.register("keyframe")
@dataclass(frozen=True)
class KeyframeCondition:
    """Extra tokens whose coordinates say where in the video they belong.

    A picture in the middle can't replace a latent frame, which stands for eight frames; so it stands beside the
    video's own tokens, at the time of its frame, and is dropped before decoding (official pipeline,
    `prepare_conditioning`).

    Attributes:
        latents: Normalised latents (B, C, f, h, w), or (1, C, f, h, w) for every video.
        frame: Frame of the video at which they begin.
        strength: s in [0, 1], one for all videos or one each (B,).
    """

    latents: Tensor
    strength: float | Tensor = 1.0
    frame: int = 0

    def apply_to(self, state: TokenState) -> TokenState:
        """The state with these tokens behind its own.

        Raises:
            InputError: If the latents don't fit the state or a strength is outside [0, 1].
        """
        check_latents(self.latents, state)
        coords = state.placement.coordinates(
            VideoSize(*self.latents.shape[2:]),
            batch_size=state.tokens.shape[0],
            first_frame=self.frame,
            device=state.tokens.device,
        )
        return append_tokens(state, self.latents, self.strength, coords)
