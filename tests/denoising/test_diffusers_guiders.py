"""Diffusers' guiders as guidance: their own results, their steps, their skipped layers; and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import LayerSkipConfig, LTXVideoTransformer3DModel
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    AdaptiveProjectedMixGuidance,
    AutoGuidance,
    ClassifierFreeZeroStarGuidance,
    LTX2Guidance,
    MagnitudeAwareGuidance,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    TangentialClassifierFreeGuidance,
)
from diffusers.guiders import ClassifierFreeGuidance as TheirClassifierFree
from diffusers.guiders.guider_utils import BaseGuidance
from helpers.transformers import FRAME_RATE, GRID, TINY

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.denoising.guidance import (
    ClassifierFreeGuidance,
    DiffusersGuidance,
    GuidanceByLevel,
    Pass,
    SpatioTemporalGuidance,
)
from ltx_diffusers.denoising.guidance.base import NEGATIVE, POSITIVE
from ltx_diffusers.denoising.guidance.diffusers_guiders import as_guidance
from ltx_diffusers.denoising.state import at_noise_level, from_noise
from ltx_diffusers.denoising.velocity import GuidedVelocity, TextFeatures
from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.models.transformers.perturbation import Perturbation

LEVELS = [1.0, 0.9, 0.7, 0.4, 0.1]

FROM_TEXTS = {
    "cfg": lambda: TheirClassifierFree(4.0),
    "cfg rescaled": lambda: TheirClassifierFree(4.0, guidance_rescale=0.6),
    "cfg original": lambda: TheirClassifierFree(4.0, use_original_formulation=True),
    "cfg in the middle": lambda: TheirClassifierFree(4.0, start=0.2, stop=0.6),
    "cfg-zero*": lambda: ClassifierFreeZeroStarGuidance(4.0, zero_init_steps=2),
    "apg": lambda: AdaptiveProjectedGuidance(4.0, eta=0.3, adaptive_projected_guidance_rescale=2.0),
    "apg with momentum": lambda: AdaptiveProjectedGuidance(4.0, adaptive_projected_guidance_momentum=-0.5),
    "apg mix": lambda: AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=2),
    "tcfg": lambda: TangentialClassifierFreeGuidance(4.0),
    "mag": lambda: MagnitudeAwareGuidance(4.0, alpha=0.5),
    "disabled": lambda: TheirClassifierFree(4.0, enabled=False),
}


def by_their_protocol(guider: BaseGuidance, step: int, predict) -> torch.Tensor:
    """As a denoising block of Diffusers' modular pipelines drives a guider."""
    guider.set_state(step=step, num_inference_steps=len(LEVELS), timestep=torch.tensor(LEVELS[step] * 1000))
    batches = guider.prepare_inputs({"text": ("positive", "negative")})
    for batch in batches:
        batch.noise_pred = predict(batch.text, step)
    return guider(batches)[0]


@pytest.mark.parametrize("name", FROM_TEXTS)
def test_a_run_gives_what_their_own_loop_gives(name: str) -> None:
    drawn = {}

    def predict(text: str, step: int) -> torch.Tensor:
        return drawn.setdefault((text, step), torch.randn(2, 6, 4))

    guider, reference = FROM_TEXTS[name](), FROM_TEXTS[name]()
    guidance = DiffusersGuidance(guider)
    run = guidance.for_run(LEVELS)
    for step, level in enumerate(LEVELS):
        now = run.at(level)
        assert set(now.passes) <= guidance.all_passes() <= {NEGATIVE, POSITIVE}
        guided = now.combine([predict(one.text, step) for one in now.passes])
        assert torch.equal(guided, by_their_protocol(reference, step, predict))
    assert guider.get_state()["step"] is None  # the caller's object is left alone


@pytest.mark.parametrize("name", FROM_TEXTS)
def test_runs_know_nothing_of_each_other_and_rows_neither(name: str) -> None:
    guidance = DiffusersGuidance(FROM_TEXTS[name]())
    predictions = {text: torch.randn(len(LEVELS), 2, 6, 4) for text in ("positive", "negative")}

    def whole_run(rows: slice) -> torch.Tensor:
        run, results = guidance.for_run(LEVELS), []
        for step, level in enumerate(LEVELS):
            now = run.at(level)
            results.append(now.combine([predictions[one.text][step, rows] for one in now.passes]))
        return torch.stack(results)

    together = whole_run(slice(0, 2))
    assert torch.equal(whole_run(slice(0, 2)), together)
    for row in range(2):
        torch.testing.assert_close(whole_run(slice(row, row + 1)), together[:, row : row + 1])


def test_windows_count_the_steps_of_the_run() -> None:
    run = DiffusersGuidance(TheirClassifierFree(4.0, start=0.2, stop=0.6)).for_run(LEVELS)
    texts = [[one.text for one in run.at(level).passes] for level in LEVELS]
    assert texts == [
        ["positive"],
        ["negative", "positive"],
        ["negative", "positive"],
        ["positive"],
        ["positive"],
    ]


def test_a_guider_that_was_at_work_elsewhere_begins_anew() -> None:
    guider = TheirClassifierFree(4.0, start=0.2, stop=0.6)
    guider.set_state(step=9, num_inference_steps=10, timestep=torch.tensor(10.0))
    guidance = DiffusersGuidance(guider)
    assert guidance.all_passes() == {NEGATIVE, POSITIVE}
    assert guidance.for_run(LEVELS).at(0.9).passes == (NEGATIVE, POSITIVE)
    assert guider.get_state()["step"] == 9


def test_momentum_begins_even_where_a_guider_serves_later() -> None:
    guider = AdaptiveProjectedGuidance(4.0, adaptive_projected_guidance_momentum=-0.5)
    by_level = GuidanceByLevel([1.0, 0.7], [ClassifierFreeGuidance(1.0), guider])
    run = as_guidance(by_level).for_run(LEVELS)
    first, second = torch.randn(2, 2, 1, 6, 4)
    run.at(0.7).combine(list(first))
    with_momentum = run.at(0.4).combine(list(second))
    fresh = as_guidance(by_level).for_run(LEVELS).at(0.4).combine(list(second))
    assert not torch.allclose(with_momentum, fresh)


# Skipped layers

BLOCK_1 = Pass("positive", Perturbation((1,), "transformer-block"))
VALUES = Pass("positive", Perturbation((0, 1)))
MAPPED = {
    "slg": (lambda: SkipLayerGuidance(4.0, 2.0, 0.0, 1.0, [1]), (NEGATIVE, POSITIVE, BLOCK_1)),
    "slg alone": (lambda: SkipLayerGuidance(1.0, 2.0, 0.0, 1.0, 1), (POSITIVE, BLOCK_1)),
    "pag": (lambda: PerturbedAttentionGuidance(4.0, 2.0, 0.0, 1.0, [1, 0]), (NEGATIVE, POSITIVE, VALUES)),
    "pag of one": (
        lambda: PerturbedAttentionGuidance(1.0, 2.0, 0.0, 1.0, 1),
        (POSITIVE, Pass("positive", Perturbation((1,)))),
    ),
    "auto": (
        lambda: AutoGuidance(4.0, [1], dropout=1.0),
        (Pass("negative", Perturbation((1,), "transformer-block")), POSITIVE),
    ),
}
HOOKED = {
    "attention": {"skip_attention": True, "skip_ff": False},
    "feed-forward": {"skip_attention": False, "skip_ff": True},
    "values and feed-forward": {"skip_attention": False, "skip_attention_scores": True, "skip_ff": True},
}


@pytest.mark.parametrize("name", MAPPED)
def test_skipped_layers_are_our_perturbations(name: str) -> None:
    make, passes = MAPPED[name]
    guidance = DiffusersGuidance(make())
    assert guidance.for_run(LEVELS).at(0.9).passes == passes
    assert guidance.all_passes() == set(passes)


def inputs():
    state = at_noise_level(from_noise(torch.randn(2, 8, *GRID), Placement(FRAME_RATE, causal=True)), 1.0)
    texts = {text: TextFeatures(torch.randn(2, 6, 32), torch.ones(2, 6)) for text in ("positive", "negative")}
    return state, texts, torch.tensor([700.0, 300.0])


@pytest.mark.parametrize("name", [*MAPPED, *HOOKED])
@torch.no_grad()
def test_hooks_and_perturbations_agree_and_leave_nothing_behind(name: str) -> None:
    """Oracle: a model of which the layers are skipped for good, for that one prediction."""
    if name in MAPPED:
        guider = MAPPED[name][0]()
    else:
        config = LayerSkipConfig(indices=[1], fqn="transformer_blocks", **HOOKED[name])
        guider = SkipLayerGuidance(4.0, 2.0, 0.0, 1.0, skip_layer_config=config)
    transformer = LTXTransformer3DModel(**TINY, causal_temporal_positioning=True).eval()
    state, texts, timestep = inputs()
    results = {}
    for perturbs in (True, False):
        run = DiffusersGuidance(copy.deepcopy(guider), perturbs).for_run(LEVELS)
        results[perturbs] = GuidedVelocity(transformer, texts, run.at(0.9))(state, timestep)
    assert not any(hasattr(module, "_diffusers_hook") and module._diffusers_hook.hooks
                   for module in transformer.modules())  # fmt: skip
    torch.testing.assert_close(results[True], results[False], atol=1e-4, rtol=1e-4)
    unskipped = ClassifierFreeGuidance(guider.guidance_scale)
    plain = GuidedVelocity(transformer, texts, unskipped)(state, timestep)
    assert (results[True] - plain).abs().max() > 1e-3


@torch.no_grad()
def test_skip_layer_guidance_is_the_same_on_diffusers_transformer() -> None:
    theirs = LTXVideoTransformer3DModel(**TINY).eval()
    ours = LTXTransformer3DModel(**TINY, causal_temporal_positioning=True).eval()
    ours.load_state_dict(theirs.state_dict())
    state, texts, timestep = inputs()
    guider = SkipLayerGuidance(4.0, 2.0, 0.0, 1.0, [1])
    by_hooks = GuidedVelocity(
        theirs, texts, DiffusersGuidance(guider, perturbs=False).for_run(LEVELS).at(0.9)
    )
    by_rows = GuidedVelocity(ours, texts, DiffusersGuidance(guider).for_run(LEVELS).at(0.9))
    torch.testing.assert_close(by_hooks(state, timestep), by_rows(state, timestep), atol=1e-4, rtol=1e-4)


def test_perturbed_attention_needs_our_transformer() -> None:
    """Diffusers' attention for LTX doesn't say whether it is cross-attention, which its own hooks ask."""
    guidance = DiffusersGuidance(PerturbedAttentionGuidance(perturbed_guidance_layers=[1]), perturbs=False)
    (hooks,) = {one.hooks for one in guidance.all_passes() if one.hooks._before == 2}
    with pytest.raises(InputError, match="can't set its hooks on LTXVideoTransformer3DModel"):
        hooks.check(LTXVideoTransformer3DModel(**TINY))


@torch.no_grad()
def test_the_perturbed_rows_run_only_in_their_window() -> None:
    """SLG counts its own steps: after the first, before the fourth of five."""
    transformer = LTXTransformer3DModel(**TINY).eval()
    state, texts, timestep = inputs()
    rows = []
    transformer.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(
            (len(kwargs["encoder_hidden_states"]), kwargs.get("perturbed_rows", 0))
        ),
        with_kwargs=True,
    )
    run = DiffusersGuidance(SkipLayerGuidance(4.0, 2.0, 0.0, 0.6, [1], stop=0.8)).for_run(LEVELS)
    for level in LEVELS:
        GuidedVelocity(transformer, texts, run.at(level))(state, timestep)
    assert rows == [(4, 0), (6, 2), (6, 2), (4, 0), (2, 0)]


def test_perturbed_attention_is_spatio_temporal_guidance() -> None:
    predictions = list(torch.randn(3, 2, 6, 4))
    pag = DiffusersGuidance(PerturbedAttentionGuidance(4.0, 2.0, 0.0, 1.0, [1])).for_run(LEVELS).at(0.9)
    ours = SpatioTemporalGuidance(4.0, stg_scale=2.0, stg_blocks=(1,))
    assert pag.passes == ours.passes
    torch.testing.assert_close(pag.combine(predictions), ours.combine(predictions))


# Frequencies


def decoupled(scales: list[float], **settings) -> BaseGuidance:
    pytest.importorskip("kornia", reason="Diffusers' frequency-decoupled guidance needs kornia")
    from diffusers.guiders import FrequencyDecoupledGuidance

    return FrequencyDecoupledGuidance(scales, **settings)


@pytest.mark.parametrize("size", [VideoSize(3, 4, 8), VideoSize(2, 5, 6), VideoSize(1, 7, 3)])
def test_equal_scales_of_all_frequencies_are_classifier_free_guidance(size: VideoSize) -> None:
    run = DiffusersGuidance(decoupled([4.0, 4.0], guidance_rescale=0.0)).for_run(LEVELS, size)
    count = size.frames * size.height * size.width
    negative, positive = torch.randn(2, 2, count + 5, 4)
    expected = ClassifierFreeGuidance(4.0).combine([negative, positive])
    expected[:, count:] = positive[:, count:]
    torch.testing.assert_close(run.at(0.9).combine([negative, positive]), expected, atol=1e-4, rtol=1e-4)


def test_what_is_even_over_a_frame_gets_the_scale_of_the_lowest_frequency() -> None:
    size = VideoSize(2, 4, 4)
    run = DiffusersGuidance(decoupled([9.0, 2.0])).for_run(LEVELS, size)
    negative, positive = (torch.randn(2, 2, 1, 4).expand(-1, -1, 16, -1).flatten(1, 2) for _ in range(2))
    expected = ClassifierFreeGuidance(2.0).combine([negative, positive])
    torch.testing.assert_close(run.at(0.9).combine([negative, positive]), expected, atol=1e-4, rtol=1e-4)
    uneven = torch.randn(2, 32, 4)
    guided = run.at(0.9).combine([negative, uneven])
    assert not torch.allclose(guided, ClassifierFreeGuidance(2.0).combine([negative, uneven]), atol=0.1)
    alone = run.at(0.9).combine([negative[:1], uneven[:1]])
    torch.testing.assert_close(alone, guided[:1])


def test_frequencies_that_cannot_be() -> None:
    with pytest.raises(InputError, match="at least 3 latents"):
        DiffusersGuidance(decoupled([9.0, 2.0])).for_run(LEVELS, VideoSize(2, 2, 4))
    for guider in (decoupled([9.0, 1.0]), decoupled([9.0, 2.0], start=[0.0, 0.5])):
        with pytest.raises(InputError, match="some of its levels"):
            DiffusersGuidance(guider)


# Refused


class NoInputs(BaseGuidance):
    _input_predictions = ["pred_cond"]


REFUSED = {
    "smoothed energy": (lambda: SmoothedEnergyGuidance(seg_guidance_layers=[1]), "PerturbedAttention"),
    "ltx-2": (lambda: LTX2Guidance(4.0), "SpatioTemporalGuidance"),
    "unseeded dropout": (lambda: AutoGuidance(4.0, [1], dropout=0.3), "dropout=0.3"),
    "norm over the batch": (
        lambda: AdaptiveProjectedGuidance(adaptive_projected_guidance_norm_dim=(0, 1)),
        "norm_dim",
    ),
    "negative block": (lambda: SkipLayerGuidance(skip_layer_guidance_layers=[-1]), "indices of blocks"),
    "no block": (lambda: SkipLayerGuidance(skip_layer_guidance_layers=[]), "indices of blocks"),
    "no inputs": (NoInputs, "which predictions"),
    "a class": (lambda: TheirClassifierFree, "the class ClassifierFreeGuidance"),
    "a name": (lambda: "classifier-free", "diffusers.guiders"),
    "inside a list": (lambda: GuidanceByLevel([1.0], [LTX2Guidance(4.0)]), "LTX2Guidance"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        as_guidance(make())


def test_smoothed_energy_guidance_does_nothing_in_diffusers() -> None:
    """Why it is refused; if this fails, Diffusers counts its passes now."""
    transformer = LTXVideoTransformer3DModel(**TINY)
    guider = SmoothedEnergyGuidance(seg_guidance_layers=[1])
    guider.set_state(step=1, num_inference_steps=5, timestep=torch.tensor(900.0))
    for _ in guider.prepare_inputs({"text": ("positive", "negative")}):
        guider.prepare_models(transformer)
        assert not any(hasattr(module, "_diffusers_hook") for module in transformer.modules())
        guider.cleanup_models(transformer)


def test_skipping_without_a_negative_prompt_does_nothing_in_diffusers() -> None:
    """By their own protocol: no hook is set, and the text is the wrong one."""
    transformer = LTXVideoTransformer3DModel(**TINY)
    guider = SkipLayerGuidance(1.0, 2.0, 0.0, 1.0, [1])
    guider.set_state(step=1, num_inference_steps=5, timestep=torch.tensor(900.0))
    batches = guider.prepare_inputs({"text": ("positive", "negative")})
    assert [batch.text for batch in batches] == ["positive", "negative"]
    for _ in batches:
        guider.prepare_models(transformer)
        assert not any(hasattr(module, "_diffusers_hook") for module in transformer.modules())
        guider.cleanup_models(transformer)
    with pytest.raises(TypeError):  # a number of a layer isn't a list
        scaled = SkipLayerGuidance(4.0, 2.0, 0.0, 1.0, [1])
        scaled.set_state(step=1, num_inference_steps=5, timestep=torch.tensor(900.0))
        for _ in scaled.prepare_inputs({"text": ("positive", "negative")}):
            scaled.prepare_models(transformer)


def test_layers_that_the_model_lacks() -> None:
    config = LayerSkipConfig(indices=[9], fqn="transformer_blocks", skip_ff=False)
    guidance = DiffusersGuidance(SkipLayerGuidance(skip_layer_config=config))
    (hooks,) = {one.hooks for one in guidance.all_passes() if one.text == "negative"}
    hooks.check(LTXTransformer3DModel(**TINY))  # nothing is skipped in this one
    skipping = [one.hooks for one in guidance.all_passes() if one.text == "positive"]
    with pytest.raises(InputError, match="can't set its hooks"):
        for hooks in skipping:
            hooks.check(LTXTransformer3DModel(**TINY))


def test_hooks_on_a_compiled_transformer_are_refused() -> None:
    guidance = DiffusersGuidance(SkipLayerGuidance(skip_layer_guidance_layers=[1]), perturbs=False)
    compiled = torch.compile(LTXTransformer3DModel(**TINY), backend="eager")
    with pytest.raises(InputError, match="compiled"):
        next(iter(guidance.all_passes())).hooks.check(compiled)


def test_a_guider_is_told_its_run_first() -> None:
    with pytest.raises(InputError, match="for_run"):
        DiffusersGuidance(TheirClassifierFree()).at(1.0)
