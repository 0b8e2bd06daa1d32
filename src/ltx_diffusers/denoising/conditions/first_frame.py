"""The first frame of the video is given: image-to-video."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError
from ..state import TokenState
from .base import conditions
from .in_place import InPlaceCondition


@conditions.register("first-frame")
@dataclass(frozen=True)
class FirstFrameCondition(InPlaceCondition):
    """Clean latents in place of the whole first latent frame's noise; see `InPlaceCondition`."""

    def apply_to(self, state: TokenState) -> TokenState:
        """The state with the first latent frame given.

        Raises:
            InputError: If the latents don't fit the state, or a strength is outside [0, 1].
        """
        expected = (1, state.size.height, state.size.width)
        if tuple(self.latents.shape[2:]) != expected:
            raise InputError(
                "the first frame's latents don't fit the video",
                got=tuple(self.latents.shape),
                expected=f"(B, C, {', '.join(map(str, expected))})",
            )
        return super().apply_to(state)
