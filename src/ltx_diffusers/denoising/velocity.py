"""The transformer with its texts and guidance, as one function of state and timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..models.transformers.perturbation import Perturbation
from .guidance import Guidance, Pass
from .guidance.base import LayerHooks
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

    Passes with perturbed attention stand last in the batch, so that only their rows are perturbed; where passes
    are perturbed in different ways, each further way is a run of its own, and so is each pass with hooks on layers.

    Attributes:
        transformer: Ours, or Diffusers' `LTXVideoTransformer3DModel` for guidance that perturbs nothing.
        texts: Text of each pass, by the names in `Pass.text`.
        guidance: Of the current step; may be replaced between steps.
        attention_kwargs: Passed on to the transformer ({"scale": ...} weighs LoRA layers).
    """

    transformer: torch.nn.Module
    texts: dict[str, TextFeatures]
    guidance: Guidance
    attention_kwargs: dict[str, Any] | None = field(default=None)
    _cached_passes: list[Pass] | None = field(default=None, init=False, repr=False)

    def __call__(self, state: TokenState, timestep: Tensor) -> Tensor:
        """Guided velocity of every token.

        Args:
            state: The tokens and where they stand.
            timestep: (B,) or, one for each token, (B, L); in [0, 1000].

        Returns:
            (B, L, C) float32.
        """
        passes = self.guidance.passes
        predictions: dict[Pass, Tensor] = {}
        for together in _runs(passes):
            predicted = self._predict(together, state, timestep).float().chunk(len(together))
            predictions |= dict(zip(together, predicted, strict=True))
        return self.guidance.combine([predictions[run] for run in passes])

    def _predict(self, passes: list[Pass], state: TokenState, timestep: Tensor) -> Tensor:
        """Velocities (passes * B, L, C) of one run of the model."""
        texts = [self.texts[run.text] for run in passes]
        count = len(texts)
        embeds = torch.cat([text.embeds for text in texts])
        perturbation = passes[-1].perturbation
        perturbed = {}
        if perturbation is not None:
            perturbed_passes = sum(run.perturbation is not None for run in passes)
            perturbed = {
                "perturbation": perturbation,
                "perturbed_rows": perturbed_passes * state.tokens.shape[0],
            }
        hooks = passes[-1].hooks
        with self._cache(passes), nullcontext() if hooks is None else hooks.applied(self.transformer):
            return self.transformer(
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
                **perturbed,
            )[0]

    def _cache(self, passes: list[Pass]) -> AbstractContextManager:
        """The context that Diffusers' step caches want for one run of the model.

        They give back what an earlier run computed, whatever its rows stood for, so they start anew with other passes.
        """
        if not hasattr(self.transformer, "cache_context"):
            return nullcontext()
        if passes != self._cached_passes:
            self.transformer._reset_stateful_cache()
            self._cached_passes = passes
        return self.transformer.cache_context("cond_uncond")


def _runs(passes: Sequence[Pass]) -> list[list[Pass]]:
    """Passes that run as one batch: the plain ones with those of the first perturbation, then each other way."""
    by_change: dict[Perturbation | LayerHooks | None, list[Pass]] = {None: []}
    for run in passes:
        by_change.setdefault(run.hooks or run.perturbation, []).append(run)
    together = by_change.pop(None)
    first = next((change for change in by_change if isinstance(change, Perturbation)), None)
    if first is not None:
        together = together + by_change.pop(first)
    return [batch for batch in (together, *by_change.values()) if batch]
