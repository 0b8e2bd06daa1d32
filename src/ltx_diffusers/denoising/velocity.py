"""The transformer with its texts and guidance, as one function of state and timesteps."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .guidance import Guidance
from .state import TokenState


@dataclass(frozen=True)
class TextFeatures:
    """Text of one pass for a batch of videos.

    Attributes:
        embeds: (B, T, D) features of the text encoder.
        mask: (B, T), true or 1 at tokens of text.
    """

    embeds: Tensor
    mask: Tensor


@dataclass
class GuidedVelocity:
    """Runs the model once per step, on all passes of the guidance as one batch, and combines them.

    Attributes:
        transformer: Ours or Diffusers' `LTXVideoTransformer3DModel`.
        texts: Text of each pass, by the names in `guidance.passes`.
        guidance: May be replaced between steps.
        attention_kwargs: Passed on to the transformer ({"scale": ...} weighs LoRA layers).
    """

    transformer: torch.nn.Module
    texts: dict[str, TextFeatures]
    guidance: Guidance
    attention_kwargs: dict[str, Any] | None = field(default=None)

    def __call__(self, state: TokenState, timestep: Tensor) -> Tensor:
        """Guided velocity of every token.

        Args:
            state: The tokens and where they stand.
            timestep: (B,) or, one for each token, (B, L); in [0, 1000].

        Returns:
            (B, L, C) float32.
        """
        texts = [self.texts[name] for name in self.guidance.passes]
        count = len(texts)
        embeds = torch.cat([text.embeds for text in texts])
        with self._cache():
            prediction = self.transformer(
                hidden_states=torch.cat([state.tokens] * count).to(embeds.dtype),
                encoder_hidden_states=embeds,
                timestep=torch.cat([timestep] * count),
                encoder_attention_mask=torch.cat([text.mask for text in texts]),
                num_frames=state.size.frames,
                height=state.size.height,
                width=state.size.width,
                video_coords=torch.cat([state.coords] * count),
                attention_kwargs=self.attention_kwargs,
                return_dict=False,
            )[0]
        return self.guidance.combine(prediction.float().chunk(count))

    def _cache(self) -> AbstractContextManager:
        """Diffusers' step caches keep their state by this name."""
        context = getattr(self.transformer, "cache_context", None)
        return nullcontext() if context is None else context("cond_uncond")
