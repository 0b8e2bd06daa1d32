"""A reference video beside the target: in-context conditioning (IC-LoRA)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import InputError
from ...geometry import VideoSize
from ..state import TokenState
from .base import append_tokens, check_latents, conditions


@conditions.register("reference")
@dataclass(frozen=True)
class ReferenceCondition:
    """Extra tokens at the coordinates of the target itself, for models that were trained so.

    The official trainer's in-context LoRA puts the reference before the target, LTX-2 behind it; full attention
    doesn't tell these apart. A smaller reference is stretched over the target by `scale`.

    Attributes:
        latents: Normalised latents of the reference (B, C, f, h, w), or (1, C, f, h, w) for every video.
        strength: s in [0, 1], one for all videos or one each (B,); in the official recipe 1.
        scale: Pixels of the target for one of the reference, in height and width.
    """

    latents: Tensor
    strength: float | Tensor = 1.0
    scale: float = 1.0

    def apply_to(self, state: TokenState) -> TokenState:
        """The state with the reference behind its own tokens.

        Raises:
            InputError: If the latents don't fit the state, a strength is outside [0, 1], or the scale isn't positive.
        """
        check_latents(self.latents, state, whole_frames=False)
        if not self.scale > 0:
            raise InputError("the scale of a reference must be positive", got=self.scale)
        coords = state.placement.coordinates(
            VideoSize(*self.latents.shape[2:]), batch_size=state.tokens.shape[0], device=state.tokens.device
        )
        coords = coords * coords.new_tensor([1.0, self.scale, self.scale])[:, None]
        return append_tokens(state, self.latents, self.strength, coords)
