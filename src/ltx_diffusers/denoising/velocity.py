"""The transformer with its texts and guidance, as one function of state and timesteps."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from torch import Tensor

from ..models.transformers.perturbation import Perturbation
from ..models.transformers.step_cache import StepCache, weights_state
from ..models.transformers.transformer_ltx import LTXTransformer3DModel
from .forecast import Forecast, Forecasting
from .guidance import Guidance, Pass
from .guidance.base import LayerHooks
from .pass_sharing import all_agree, everyones_predictions, own_passes
from .passes import fit_in_one_batch, rows_in_common, runs_of, without_padding
from .state import TokenState, token_levels

_KEEP_CONTEXTS_APART = (FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig)


@dataclass(frozen=True)
class TextFeatures:
    """Text of one pass for a batch of videos.

    Attributes:
        embeds: (B, T, D) features of the text encoder.
        mask: (B, T), true or 1 at tokens of text; None if all are.
    """

    embeds: Tensor
    mask: Tensor | None


@dataclass
class GuidedVelocity:
    """Runs the model once per step, on all passes of the guidance as one batch, and combines them.

    Where the transformer was told to share out the passes over processes (`enable_parallelism(cfg_degree=2)`), this
    process runs its own ones.

    Passes with perturbed attention stand last in the batch, so that only their rows are perturbed; where passes
    are perturbed in different ways, each further way is a run of its own, and so is each pass with hooks on layers.
    What is the same at every step is kept from the first one on (`StepCache`), so an object serves one loop.

    Attributes:
        transformer: Ours, or Diffusers' `LTXVideoTransformer3DModel` for guidance that perturbs nothing.
        texts: Text of each pass, by the names in `Pass.text`.
        guidance: Of the current step; may be replaced between steps.
        attention_kwargs: Passed on to the transformer ({"scale": ...} weighs LoRA layers).
        in_one_batch: Whether passes run as one batch; False: in turn, which takes less memory. None: as one batch if
            it fits in the memory that is free at the first step.
        forecasting: When steps are foretold from earlier ones; None: never.
    """

    transformer: torch.nn.Module
    texts: dict[str, TextFeatures]
    guidance: Guidance
    attention_kwargs: dict[str, Any] | None = field(default=None)
    in_one_batch: bool | None = field(default=None)
    forecasting: Forecasting | None = field(default=None)
    _cached_passes: list[Pass] | None = field(default=None, init=False, repr=False)
    _step_cache: StepCache = field(default_factory=StepCache, init=False, repr=False)
    _forecast: Forecast | None = field(default=None, init=False, repr=False)
    _model_state: Hashable = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.forecasting is not None:
            self._forecast = Forecast(self.forecasting)
            self._model_state = weights_state([self.transformer])

    def __call__(self, state: TokenState, timestep: Tensor) -> Tensor:
        """Guided velocity of every token.

        Args:
            state: The tokens and where they stand.
            timestep: (B,) or, one for each token, (B, L); in [0, 1000].

        Returns:
            (B, L, C) float32.
        """
        return self._guided(state, timestep, None)

    def at_level(self, state: TokenState, sigma: float, scale: float, conditioned: bool = True) -> Tensor:
        """Guided velocity of every token, each at its own level; foretold if it may be.

        Tokens that are given alike are at the same level, so that one timestep serves a whole run of them.

        Args:
            state: The tokens and where they stand.
            sigma: Noise level of the video.
            scale: Timestep at noise level 1.
            conditioned: Whether any token is given.

        Returns:
            (B, L, C) float32.
        """

        def compute() -> Tensor:
            return self._at_level(state, sigma, scale, conditioned)

        if self._forecast is None:
            return compute()
        return self._forecast.velocity(state, sigma, compute, self.guidance)

    def _at_level(self, state: TokenState, sigma: float, scale: float, conditioned: bool) -> Tensor:
        if not conditioned:
            timestep = state.strength.new_full((state.tokens.shape[0],), sigma * scale)
            return self._guided(state, timestep, None)
        timestep = token_levels(state, sigma) * scale
        runs = None
        if self._ours:
            runs = self._step_cache.get("runs", (state.strength,), lambda: runs_of(state.strength))
        if runs is None:
            return self._guided(state, timestep, None)
        return self._guided(state, timestep.index_select(1, runs.first), runs.lengths)

    def forget(self, changed: bool = True) -> None:
        """Forget what was kept from earlier steps: for after code that may have changed weights, adapters or texts.

        Args:
            changed: Whether it did change something. If not known to, velocities are still foretold from earlier ones
                unless parameters or adapters are seen to have changed.
        """
        self._step_cache.forget()
        if self._forecast is None:
            return
        before, self._model_state = self._model_state, weights_state([self.transformer])
        if changed or self._model_state != before:
            self._forecast.forget()

    @property
    def forecast(self) -> Forecast | None:
        """What foretells steps, if anything does."""
        return self._forecast

    @property
    def _ours(self) -> bool:
        """Whether the model is ours and runs as it is written, not compiled as a whole."""
        return (
            isinstance(self.transformer, LTXTransformer3DModel)
            and self.transformer._compiled_call_impl is None
        )

    def _guided(self, state: TokenState, timestep: Tensor, runs: tuple[int, ...] | None) -> Tensor:
        passes = self.guidance.passes
        group = getattr(self.transformer, "cfg_group", None)
        own = passes if group is None else own_passes(passes, group)
        predictions: dict[Pass, Tensor] = {}
        for together in self._batches(own, state):
            predicted = self._predict(together, state, timestep, runs).float().chunk(len(together))
            predictions |= dict(zip(together, predicted, strict=True))
        if group is not None:
            return self.guidance.combine(everyones_predictions(predictions, passes, state.tokens, group))
        return self.guidance.combine([predictions[run] for run in passes])

    def _batches(self, passes: Sequence[Pass], state: TokenState) -> list[list[Pass]]:
        """The passes of each run of the model."""
        batches = _runs(passes)
        if self.in_one_batch is None:
            rows = max(map(len, batches), default=0) * state.tokens.shape[0]
            fits = not self._ours or fit_in_one_batch(self.transformer, rows, state.tokens)
            # Processes that share tokens wait for each other in each run of the model.
            groups = getattr(self.transformer, "parallel_groups", [])
            self.in_one_batch = all_agree(fits, state.tokens.device, groups)
        return batches if self.in_one_batch else [[run] for batch in batches for run in batch]

    def _predict(
        self, passes: list[Pass], state: TokenState, timestep: Tensor, runs: tuple[int, ...] | None
    ) -> Tensor:
        """Velocities (passes * B, L, C) of one run of the model."""
        count = len(passes)
        perturbation = passes[-1].perturbation
        options: dict[str, Any] = {}
        if perturbation is not None:
            perturbed_passes = sum(run.perturbation is not None for run in passes)
            options["perturbation"] = perturbation
            options["perturbed_rows"] = perturbed_passes * state.tokens.shape[0]
        text = self._text(passes)
        tokens, coords = state.tokens, state.coords
        if self._ours:
            # One row of tokens for all passes: the model repeats them where the texts come in.
            options["step_cache"] = self._step_cache
            options["timestep_runs"] = runs
            coords = self._step_cache.get("coords", (coords,), lambda: rows_in_common(state.coords))
        else:
            tokens, timestep, coords = (torch.cat([x] * count) for x in (tokens, timestep, coords))
        hooks = passes[-1].hooks
        with self._cache(passes), nullcontext() if hooks is None else hooks.applied(self.transformer):
            return self.transformer(
                hidden_states=tokens.to(text.embeds.dtype),
                encoder_hidden_states=text.embeds,
                timestep=timestep,
                encoder_attention_mask=text.mask,
                num_frames=state.size.frames,
                height=state.size.height,
                width=state.size.width,
                video_coords=coords,
                attention_kwargs=self.attention_kwargs,
                return_dict=False,
                **options,
            )[0]

    def _text(self, passes: list[Pass]) -> TextFeatures:
        """Texts of some passes, one after the other; the same object at each step."""
        texts = [self.texts[run.text] for run in passes]
        sources = tuple(tensor for text in texts for tensor in (text.embeds, text.mask))

        def make() -> TextFeatures:
            embeds = torch.cat(sources[::2])
            read = [
                text.embeds.new_ones(text.embeds.shape[:2]) if text.mask is None else text.mask
                for text in texts
            ]
            mask = torch.cat(read)
            if not self._ours:
                return TextFeatures(embeds, mask)
            return TextFeatures(*without_padding(embeds, mask))

        return self._step_cache.get("texts", sources, make)

    def _cache(self, passes: list[Pass]) -> AbstractContextManager:
        """The context that Diffusers' step caches want for one run of the model.

        They give back what an earlier run computed, whatever its rows stood for. Those that keep apart what belongs to
        different contexts get one for each run of a step; others start anew with each run of other passes. With a
        guidance of other passes all do.
        """
        if not hasattr(self.transformer, "cache_context"):
            return nullcontext()
        name, known_for = "cond_uncond", list(passes)
        if isinstance(getattr(self.transformer, "_cache_config", None), _KEEP_CONTEXTS_APART):
            known_for = list(self.guidance.passes)
            name = f"{name} {known_for.index(passes[0])}"
        if known_for != self._cached_passes:
            self.transformer._reset_stateful_cache()
            self._cached_passes = known_for
        return self.transformer.cache_context(name)


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
