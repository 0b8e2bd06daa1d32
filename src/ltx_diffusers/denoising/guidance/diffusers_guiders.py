"""Diffusers' guiders (`diffusers.guiders`) as guidance: CFG-Zero*, APG, TCFG, MaG, skip-layer, perturbed attention, ...

A guider names the predictions that it wants at a step and combines them; those are our passes. Guiders that skip
layers do it with hooks on the whole model, one run for each prediction. Where they mean what one of our
perturbations does, they get that instead: one run for all, in which only the rows that need it are perturbed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from diffusers.guiders import (
    AutoGuidance,
    FrequencyDecoupledGuidance,
    LTX2Guidance,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
)
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.hooks import LayerSkipConfig
from diffusers.utils.torch_utils import is_compiled_module
from torch import Tensor
from torch.nn import functional

from ...errors import InputError
from ...functional.latents import pack_latents, unpack_latents
from ...geometry import VideoSize
from ...models.transformers.perturbation import Perturbation
from .base import ConstantGuidance, Guidance, Pass
from .by_level import GuidanceByLevel

TIMESTEP_SCALE = 1000.0
BLOCKS = ("auto", "transformer_blocks")
"""How layer-skip settings name the transformer's blocks."""

SKIPPING = (
    (SkipLayerGuidance, "skip_layer_config", "pred_cond_skip"),
    (PerturbedAttentionGuidance, "skip_layer_config", "pred_cond_skip"),
    (AutoGuidance, "auto_guidance_config", "pred_uncond"),
)
"""Guiders that skip layers: class, where its settings are, and the prediction that they act on."""

REFUSED = (
    (
        SmoothedEnergyGuidance,
        "it would do nothing (it never counts its passes, so that its hooks aren't set), and blurs all tokens as "
        "one square picture",
        "use PerturbedAttentionGuidance, or SpatioTemporalGuidance of ltx_diffusers.denoising.guidance",
    ),
    (
        LTX2Guidance,
        "it combines LTX-2's predictions of clean latents",
        "use SpatioTemporalGuidance of ltx_diffusers.denoising.guidance: scale, stg_scale and stg_blocks mean the same",
    ),
)
"""Guiders that can't be right here: class, why, and what to do."""


def as_guidance(guidance: Any, perturbs: bool = True) -> Guidance | GuidanceByLevel:
    """A guidance from what a caller gives: one of ours, a guider of Diffusers', or a list of them by noise level.

    Args:
        guidance: It is left as it is.
        perturbs: Whether the transformer can perturb single rows, as ours can.

    Raises:
        InputError: If it is nothing of the kind, or a guider that can't be right here.
    """
    if isinstance(guidance, BaseGuidance):
        return DiffusersGuidance(guidance, perturbs)
    if isinstance(guidance, GuidanceByLevel):
        return replace(guidance, guidances=[as_guidance(entry, perturbs) for entry in guidance.guidances])
    missing = [part for part in ("at", "all_passes", "for_run") if not hasattr(guidance, part)]
    if isinstance(guidance, type) or missing:
        raise InputError(
            "guidance must be an object that guides",
            got=f"the class {guidance.__name__}" if isinstance(guidance, type) else repr(guidance),
            expected="one of ltx_diffusers.denoising.guidance or diffusers.guiders",
        )
    return guidance


class DiffusersGuidance:
    """A guider of Diffusers as a guidance.

    Pipelines wrap guiders by themselves: `pipe(..., guidance=AdaptiveProjectedGuidance(...))`. Each run works on a
    copy of the guider, so that nothing (momentum, the current step) goes from one call to the next. Its `start`,
    `stop` and other windows count the steps of the run. Statistics are taken per video over all tokens. Frequencies
    are those of its latent frames; tokens beside the video then keep the prompt's own prediction.

    Args:
        guider: Any guider of `diffusers.guiders` or derived from its base; it is left as it is.
        perturbs: Whether layers are skipped by our transformer itself, where it can, for the rows that need it.
            False: always by Diffusers' hooks, which also work on its own transformer.

    Raises:
        InputError: If the guider can't be right here: see `REFUSED`; dropout between 0 and 1, which isn't seeded;
            or statistics over the whole batch.
    """

    def __init__(self, guider: BaseGuidance, perturbs: bool = True) -> None:
        for kind, why, fix in REFUSED:
            if isinstance(guider, kind):
                raise InputError(f"{kind.__name__} can't guide this model: {why}", fix=fix)
        _check_settings(guider)
        self._guider = guider
        self._perturbs = perturbs
        self._all = frozenset(_Step(_own_copy(guider), perturbs).passes)

    def at(self, sigma: float) -> Guidance:
        """Not before `for_run`: a guider counts steps.

        Raises:
            InputError: Always.
        """
        raise InputError("a guider counts the steps of a run", fix="call for_run(levels) first")

    def all_passes(self) -> frozenset[Pass]:
        """The passes that it may need, whatever its windows."""
        return self._all

    def for_run(self, levels: Sequence[float], size: VideoSize | None = None) -> GuiderRun:
        """A copy of the guider, bound to the steps of a run.

        Args:
            levels: Noise level of each step, falling.
            size: Latent frames, rows and columns of the video; only frequencies need it.

        Raises:
            InputError: If the video is too small for the guider's frequencies, or its size isn't given.
        """
        if isinstance(self._guider, FrequencyDecoupledGuidance):
            _check_frequencies(self._guider.levels, size)
        return GuiderRun(self, _own_copy(self._guider), self._perturbs, levels, size)


class GuiderRun:
    """A guider in one run. Made by `DiffusersGuidance.for_run`.

    Args:
        origin: What made it.
        guider: Its own copy of the guider.
        perturbs: See `DiffusersGuidance`.
        levels: Noise level of each step, falling.
        size: Latent frames, rows and columns of the video.
    """

    def __init__(
        self,
        origin: DiffusersGuidance,
        guider: BaseGuidance,
        perturbs: bool,
        levels: Sequence[float],
        size: VideoSize | None = None,
    ) -> None:
        self._origin = origin
        self._size = size
        self._guider = guider
        self._perturbs = perturbs
        self._levels = list(levels)
        self._index: int | None = None
        self.at(levels[0])  # there a guider begins its momentum, also if it only serves later

    def at(self, sigma: float) -> Guidance:
        """The guider at the step whose noise level is nearest; good until another step is asked for."""
        index = min(range(len(self._levels)), key=lambda step: abs(self._levels[step] - sigma))
        if index != self._index:
            timestep = torch.tensor(self._levels[index] * TIMESTEP_SCALE)
            self._guider.set_state(index, len(self._levels), timestep)
            self._index, self._step = index, _Step(self._guider, self._perturbs, self._size)
        return self._step

    def all_passes(self) -> frozenset[Pass]:
        """The passes that it may need, whatever its windows."""
        return self._origin.all_passes()

    def for_run(self, levels: Sequence[float], size: VideoSize | None = None) -> GuiderRun:
        """Another run of the same guider, from its beginning."""
        return self._origin.for_run(levels, size)


class GuiderHooks:
    """The hooks that a guider sets on the model's layers for one of its predictions.

    Args:
        guider: In the state of its step.
        prediction: Name of the prediction.
    """

    def __init__(self, guider: BaseGuidance, prediction: str) -> None:
        self._guider = guider
        # Guiders tell their passes apart by counting them, as if none of them were ever left out.
        self._before = type(guider)._input_predictions.index(prediction)

    @contextmanager
    def applied(self, transformer: torch.nn.Module) -> Iterator[None]:
        """A context in which the hooks are set."""
        self._guider._count_prepared = self._before
        try:
            self._guider.prepare_models(transformer)
            yield
        finally:
            self._guider.cleanup_models(transformer)

    def check(self, transformer: torch.nn.Module) -> None:
        """Set the hooks once and take them off.

        Raises:
            InputError: If the model is compiled, or has no such layers.
        """
        name = type(self._guider).__name__
        if is_compiled_module(transformer):
            raise InputError(
                f"{name} sets hooks on layers, which a compiled transformer doesn't see",
                fix="pass the transformer uncompiled, or use SpatioTemporalGuidance",
            )
        try:
            with self.applied(transformer):
                pass
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{name} can't set its hooks on {type(transformer).__name__}", got=error
            ) from error


class _Step(ConstantGuidance):
    """A guider in the state of one step: its passes, and how it combines them."""

    def __init__(self, guider: BaseGuidance, perturbs: bool, size: VideoSize | None = None) -> None:
        self._guider = guider
        self._size = size
        self._predictions = _wanted(guider)
        named = [_pass(guider, prediction, perturbs) for prediction in self._predictions]
        # The usual order, negative first, which callbacks rely on.
        self._order = sorted(range(len(named)), key=lambda index: named[index].text != "negative")
        self.passes = tuple(named[index] for index in self._order)

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """The guided velocity (B, L, C)."""
        if not isinstance(self._guider, FrequencyDecoupledGuidance):
            return self._combined(predictions)
        positive = next(
            one for run, one in zip(self.passes, predictions, strict=True) if run.text == "positive"
        )
        pictures = [_as_pictures(one, self._size, self._guider.levels) for one in predictions]
        guided = _as_tokens(self._combined(pictures), self._size)
        return torch.cat([guided, positive[:, guided.shape[1] :]], dim=1)

    def _combined(self, predictions: Sequence[Tensor]) -> Tensor:
        for index, prediction in zip(self._order, predictions, strict=True):
            self._predictions[index].noise_pred = prediction
        return self._guider(self._predictions)[0]


def _own_copy(guider: BaseGuidance) -> BaseGuidance:
    """A guider for one run, at no step yet. Layers that it names by numbers become lists, which hooks insist on."""
    own = copy.deepcopy(guider)
    own.set_state(None, None, None)
    for kind, configs, _ in SKIPPING:
        if isinstance(own, kind):
            for config in getattr(own, configs):
                config.indices = [config.indices] if isinstance(config.indices, int) else list(config.indices)
    return own


def _wanted(guider: BaseGuidance) -> list[Any]:
    """What a guider wants predicted at its step: objects with the name of the text, and of the prediction."""
    try:
        return guider.prepare_inputs({"text": ("positive", "negative")})
    except (NotImplementedError, AttributeError, IndexError, TypeError) as error:
        raise InputError(
            f"{type(guider).__name__} doesn't say which predictions it needs",
            got=repr(error),
            expected="a guider that wants predictions with the prompt and the negative prompt",
        ) from error


def _pass(guider: BaseGuidance, wanted: Any, perturbs: bool) -> Pass:
    """The pass for one prediction."""
    prediction = getattr(wanted, BaseGuidance._identifier_key)
    # Without a prediction from the negative text, guiders hand that text to the one with skipped layers.
    text = "positive" if prediction.startswith("pred_cond") else wanted.text
    if type(guider).prepare_models is BaseGuidance.prepare_models:
        return Pass(text)
    for kind, configs, skipped in SKIPPING:
        if perturbs and type(guider).prepare_models is kind.prepare_models:
            perturbation = _as_perturbation(getattr(guider, configs))
            if perturbation is not None:
                return Pass(text, perturbation if prediction == skipped else None)
    return Pass(text, hooks=GuiderHooks(guider, prediction))


def _as_perturbation(configs: Sequence[LayerSkipConfig]) -> Perturbation | None:
    """What skipping these layers is among our perturbations, if it is one of them."""
    modes = {_mode(config) for config in configs}
    if len(modes) > 1 or None in modes:
        return None
    blocks = {index for config in configs for index in config.indices}
    return Perturbation(tuple(sorted(blocks)), *modes)


def _mode(config: LayerSkipConfig) -> str | None:
    """The mode of `Perturbation` that does the same. Diffusers' attention skip leaves out the output projection."""
    if config.fqn not in BLOCKS or not math.isclose(config.dropout, 1.0):
        return None
    skipped = (config.skip_attention, config.skip_attention_scores, config.skip_ff)
    return {(True, False, True): "transformer-block", (False, True, False): "attention-values"}.get(skipped)


def _as_pictures(tokens: Tensor, size: VideoSize, levels: int) -> Tensor:
    """The video's tokens as pictures (B, C * F, H, W), all frames of a video in one, so that statistics are its own.

    Their sides are filled up to what halves evenly from level to level.
    """
    frames, rows, columns = size
    pictures = unpack_latents(tokens[:, : frames * rows * columns], *size).flatten(1, 2)
    unit = 2 ** (levels - 1)
    return functional.pad(pictures, (0, -columns % unit, 0, -rows % unit), mode="replicate")


def _as_tokens(pictures: Tensor, size: VideoSize) -> Tensor:
    """Tokens (B, F * H * W, C) of such pictures, without what was filled up."""
    return pack_latents(pictures[:, :, : size.height, : size.width].unflatten(1, (-1, size.frames)))


def _check_frequencies(levels: int, size: VideoSize | None) -> None:
    """Whether the video's frames can be halved so often: the blur reaches over two latents."""
    smallest = 2 ** (levels - 2) * 2 + 1 if levels > 1 else 1
    if size is None or min(size.height, size.width) < smallest:
        raise InputError(
            f"{levels} levels of frequencies need a video of a certain size",
            got="none" if size is None else f"{size.width}x{size.height} latents",
            expected=f"at least {smallest} latents a side",
            fix="make a larger video, or give fewer guidance_scales",
        )


def _check_settings(guider: BaseGuidance) -> None:
    """Refuse what draws without a seed, mixes the videos of a batch, or fails in Diffusers."""
    for kind, configs, _ in SKIPPING:
        if isinstance(guider, kind):
            for config in getattr(guider, configs):
                if 1e-9 < config.dropout < 1 - 1e-9:
                    raise InputError(
                        f"{kind.__name__} would drop layers by chance without a seed, and batches would differ from "
                        "single calls",
                        got=f"dropout={config.dropout}",
                        expected="1.0",
                    )
    norm_dim = getattr(guider, "adaptive_projected_guidance_norm_dim", None)
    axes = (norm_dim,) if isinstance(norm_dim, int) else tuple(norm_dim or ())
    if any(axis not in (1, 2, -1, -2) for axis in axes):
        raise InputError(
            "a norm over the batch would mix its videos; predictions are (batch, tokens, channels)",
            got=f"adaptive_projected_guidance_norm_dim={norm_dim}",
            expected="1, 2 or both; None for both",
        )
    if isinstance(guider, FrequencyDecoupledGuidance):
        neutral = 0.0 if guider.use_original_formulation else 1.0
        off = [math.isclose(scale, neutral) for scale in guider.guidance_scales]
        windows = set(zip(guider.guidance_start, guider.guidance_stop, strict=True))
        if len(windows) > 1 or (any(off) and not all(off)):
            raise InputError(
                "FrequencyDecoupledGuidance fails where it is off for some of its levels only",
                got=f"scales {guider.guidance_scales}, start {guider.guidance_start}, stop {guider.guidance_stop}",
                fix=f"give one start and stop, and a scale near {neutral} in place of it",
            )
