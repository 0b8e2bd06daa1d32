"""Diffusers' step caches: what they skip, and that they give on our model what they give on Diffusers' own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    LTXVideoTransformer3DModel,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from helpers.transformers import FRAME_RATE, GRID, TINY, on_grid, relative_error, tiny_inputs
from tiny import tiny_components

from ltx_diffusers import LTXPipeline, LTXTransformer3DModel
from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance
from ltx_diffusers.denoising.state import at_noise_level, from_noise
from ltx_diffusers.denoising.velocity import GuidedVelocity, TextFeatures
from ltx_diffusers.functional.coordinates import Placement

STEPS = 8
TIMESTEPS = torch.linspace(1000, 125, STEPS)

Clock = Callable[[], float]
"""Tells a cache the current timestep."""

CACHES: dict[str, Callable[[Clock], object]] = {
    "first block": lambda clock: FirstBlockCacheConfig(threshold=0.2),
    "pyramid attention broadcast": lambda clock: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        cross_attention_block_skip_range=3,
        current_timestep_callback=clock,
    ),
    # Of the two halves of FasterCache only this one knows tokens; see the last test.
    "FasterCache": lambda clock: FasterCacheConfig(
        is_guidance_distilled=True, attention_weight_callback=lambda _: 0.5, current_timestep_callback=clock
    ),
    # Without `cache_identifiers` it looks for modules named "...attn", and LTX's are "...attn1" and "...attn2".
    "TaylorSeer": lambda clock: TaylorSeerCacheConfig(
        cache_interval=3,
        disable_cache_before_step=2,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[r"transformer_blocks\.\d+\.attn\d"],
    ),
    "TaylorSeer lite": lambda clock: TaylorSeerCacheConfig(
        cache_interval=3, disable_cache_before_step=2, taylor_factors_dtype=torch.float32, use_lite_mode=True
    ),
    "MagCache": lambda clock: MagCacheConfig(
        threshold=0.1, mag_ratios=[1.0] * STEPS, num_inference_steps=STEPS
    ),
}


def count_projections(model) -> list[int]:
    """A list that grows with every computed attention."""
    calls = []
    for block in model.transformer_blocks:
        for attention in (block.attn1, block.attn2):
            attention.to_out[0].register_forward_pre_hook(lambda *args: calls.append(1))
    return calls


def run(model, config: Callable[[Clock], object] | None) -> tuple[torch.Tensor, int]:
    """Denoise along `TIMESTEPS`. Returns the tokens and how many attentions were computed."""
    torch.manual_seed(1)
    inputs = {**tiny_inputs(), **on_grid()}
    now = [0.0]
    if config is not None:
        model.enable_cache(config(lambda: now[0]))
    calls = count_projections(model)
    tokens = inputs.pop("hidden_states")
    with torch.no_grad():
        for timestep in TIMESTEPS:
            now[0] = timestep.item()
            inputs["timestep"] = timestep.expand(2)
            with model.cache_context("cond_uncond"):
                tokens = tokens - model(tokens, **inputs)[0] / STEPS
    return tokens, len(calls)


@pytest.fixture
def models() -> tuple[LTXVideoTransformer3DModel, LTXTransformer3DModel]:
    """Diffusers' model and ours, with the same weights.

    Diffusers' doesn't tell its caches which attention is cross-attention, so they take all for self-attention.
    """
    theirs, ours = LTXVideoTransformer3DModel(**TINY).eval(), LTXTransformer3DModel(**TINY).eval()
    ours.load_state_dict(theirs.state_dict())
    for block in theirs.transformer_blocks:
        block.attn2.is_cross_attention = True
    return theirs, ours


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_gives_what_it_gives_on_diffusers_model(models, name):
    theirs, ours = models
    all_calls = run(LTXTransformer3DModel(**TINY).eval(), None)[1]
    expected, their_calls = run(theirs, CACHES[name])
    cached, calls = run(ours, CACHES[name])
    assert all_calls == STEPS * 2 * TINY["num_layers"]
    assert calls == their_calls < all_calls
    assert relative_error(cached, expected) < 1e-5


@pytest.fixture
def pipeline() -> LTXPipeline:
    made = LTXPipeline(**tiny_components())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_speeds_up_a_pipeline_and_starts_anew_with_each_call(pipeline, name):
    calls = count_projections(pipeline.transformer)

    def video() -> tuple[torch.Tensor, int]:
        calls.clear()
        call = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": STEPS}
        generator = torch.Generator().manual_seed(0)
        tokens = pipeline("a red circle", **call, generator=generator, output_type="latent").frames
        return tokens, len(calls)

    plain, all_calls = video()
    pipeline.transformer.enable_cache(CACHES[name](lambda: pipeline.current_timestep))
    cached, cached_calls = video()
    again, again_calls = video()
    assert cached_calls == again_calls < all_calls
    assert torch.equal(cached, again)
    assert 0 < relative_error(cached, plain) < 0.5
    pipeline.transformer.disable_cache()
    assert torch.equal(video()[0], plain)


@pytest.mark.parametrize("name", [name for name in CACHES if name != "FasterCache"])
def test_a_cache_starts_anew_when_the_passes_change(pipeline, name):
    """What was computed for a prompt and its negative isn't taken for the prompt's alone.

    FasterCache can't start in the range of timesteps where it skips; it ends with an error then.
    """
    call = {"prompt": "a red circle", "height": 64, "width": 64, "num_frames": 9, "output_type": "latent"}
    reached = {}

    def end_guidance(pipe, index, timestep, tensors):
        if index == STEPS // 2 - 1:
            pipe._guidance_scale = 1.0
            reached.update(tensors, sigmas=pipe.scheduler.sigmas[index + 1 : -1])

    pipeline.transformer.enable_cache(CACHES[name](lambda: pipeline.current_timestep))
    steps = {"num_inference_steps": STEPS, "callback_on_step_end": end_guidance}
    whole = pipeline(**call, **steps, generator=torch.Generator().manual_seed(0)).frames
    rest = {"latents": reached["latents"], "sigmas": reached["sigmas"], "guidance_scale": 1.0}
    assert torch.equal(pipeline(**call, **rest).frames, whole)


@pytest.mark.parametrize("name", ["first block", "TaylorSeer", "TaylorSeer lite", "MagCache"])
@torch.no_grad()
def test_passes_in_turn_are_cached_apart(name):
    """Two texts in turn compute what each would alone, and give what both together give."""
    torch.manual_seed(5)
    model = LTXTransformer3DModel(**TINY).eval()
    calls = count_projections(model)
    start = at_noise_level(from_noise(torch.randn(1, 8, *GRID), Placement(FRAME_RATE, causal=True)), 1.0)
    texts = {name: TextFeatures(torch.randn(1, 6, 32), None) for name in ("positive", "negative")}

    def run_with(texts, guidance, in_one_batch) -> tuple[torch.Tensor, int]:
        calls.clear()
        model.enable_cache(CACHES[name](lambda: 0.0))
        velocity, state = GuidedVelocity(model, texts, guidance, in_one_batch=in_one_batch), start
        for timestep in TIMESTEPS:
            predicted = velocity(state, timestep.expand(1))
            state = dataclasses.replace(state, tokens=state.tokens - predicted / STEPS)
        model.disable_cache()
        return state.tokens, len(calls)

    same = dict.fromkeys(texts, texts["positive"])
    alone, runs = run_with(same, ClassifierFreeGuidance(1.0), True)
    in_turn, both_runs = run_with(same, ClassifierFreeGuidance(3.0), False)
    assert both_runs == 2 * runs < 2 * STEPS * 2 * TINY["num_layers"]
    torch.testing.assert_close(in_turn, alone, rtol=1e-4, atol=1e-4)
    if name != "first block":  # which decides for a whole batch
        together, _ = run_with(texts, ClassifierFreeGuidance(3.0), True)
        in_turn, _ = run_with(texts, ClassifierFreeGuidance(3.0), False)
        torch.testing.assert_close(in_turn, together, rtol=1e-3, atol=1e-3)


def test_first_block_cache_skips_the_other_blocks():
    """Where the first block's output barely changes, and only there."""
    model = LTXTransformer3DModel(**TINY).eval()
    inputs = {**tiny_inputs("per token"), **on_grid()}
    expected = model(**inputs)[0]
    model.enable_cache(FirstBlockCacheConfig(threshold=0.05))
    calls = []
    for block in model.transformer_blocks[1:]:
        block.ff.register_forward_pre_hook(lambda *args: calls.append(1))
    with model.cache_context("cond"):
        first, second = model(**inputs)[0], model(**inputs)[0]
    assert relative_error(first, expected) < 1e-6
    assert relative_error(second, expected) < 1e-5  # the same step again: what is reused is exact
    assert len(calls) == TINY["num_layers"] - 1
    changed = {**inputs, "hidden_states": inputs["hidden_states"] * 3}
    with model.cache_context("cond"):
        third = model(**changed)[0]
    model.disable_cache()
    assert len(calls) == 2 * (TINY["num_layers"] - 1)
    assert relative_error(third, model(**changed)[0]) < 1e-6


def test_the_half_of_faster_cache_that_does_not_know_tokens(models):
    """Skipping the unconditional half takes latents (B, C, F, H, W), in Diffusers' code."""
    config = lambda clock: FasterCacheConfig(  # noqa: E731
        tensor_format="BCFHW", attention_weight_callback=lambda _: 0.5, current_timestep_callback=clock
    )
    for model in models:
        with pytest.raises((RuntimeError, ValueError)):
            run(model, config)
