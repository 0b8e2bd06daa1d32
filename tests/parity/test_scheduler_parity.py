"""The scheduler against the official `RectifiedFlowScheduler` and Diffusers' flow-matching scheduler."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from diffusers.pipelines.ltx.pipeline_ltx_condition import (
    LTXVideoCondition,
)
from diffusers.pipelines.ltx.pipeline_ltx_condition import (
    linear_quadratic_schedule as diffusers_linear_quadratic,
)

from ltx_diffusers.schedulers.flow_match import LTXFlowMatchScheduler

RectifiedFlowScheduler = pytest.importorskip("ltx_video.schedulers.rf").RectifiedFlowScheduler

ATOL = 1e-6
TOKENS = (64, 1024, 6144)
STEPS = (2, 3, 8, 40)

OFFICIAL_CONFIGS = [
    {"sampler": sampler, "shifting": shifting, **extra}
    for (sampler, extra), shifting in itertools.product(
        (("Uniform", {}), ("LinearQuadratic", {}), ("Constant", {"shift": 1.1})),
        (None, "SD3", "SimpleDiffusion"),
    )
] + [
    {"sampler": "Uniform", "shifting": "SD3", "target_shift_terminal": 0.1},
    {"sampler": "LinearQuadratic", "shifting": "SD3", "target_shift_terminal": 0.1},
    {"sampler": "Uniform", "shifting": "SimpleDiffusion", "base_resolution": 512},
    # Stretched with SD3 only: the official class passes over the terminal value here.
    {"sampler": "Uniform", "shifting": None, "target_shift_terminal": 0.1},
]
# The settings of releases 0.9.0 and 0.9.1, and of later ones.
OLD_RELEASE = {"sampler": "Uniform", "shifting": "SD3", "target_shift_terminal": 0.1}
NEW_RELEASE = {"sampler": "LinearQuadratic"}

DIFFUSERS_OLD = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}


def both(config, num_steps, num_tokens=6144, **ours):
    official = RectifiedFlowScheduler.from_config(config)
    official.set_timesteps(num_steps, samples_shape=torch.Size((1, num_tokens, 128)))
    own = LTXFlowMatchScheduler.from_official_config(config, **ours)
    own.set_timesteps(num_steps, num_tokens=num_tokens)
    return official, own


def close(actual, expected, atol=ATOL):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("config", OFFICIAL_CONFIGS, ids=lambda c: "-".join(map(str, c.values())))
@pytest.mark.parametrize("num_tokens", TOKENS)
def test_schedules_equal_the_official_ones(config, num_tokens):
    for num_steps in STEPS:
        official, own = both(config, num_steps, num_tokens)
        close(own.sigmas[:-1], official.timesteps)
        assert own.sigmas[-1] == 0
        close(own.timesteps, official.timesteps * 1000, atol=1e-3)


@pytest.mark.parametrize("levels", [[1, 0.9937, 0.9875, 0.725, 0.4219], [0.9094, 0.725, 0.4219], [1.0]])
def test_an_explicit_list_equals_the_official_one(levels):
    official = RectifiedFlowScheduler.from_config(OLD_RELEASE)
    official.set_timesteps(timesteps=levels)
    own = LTXFlowMatchScheduler.from_official_config(OLD_RELEASE)
    own.set_timesteps(sigmas=levels, num_tokens=6144)
    close(own.sigmas[:-1], official.timesteps)
    own.set_timesteps(timesteps=[level * 1000 for level in levels])
    close(own.sigmas[:-1], official.timesteps)


@pytest.mark.parametrize("stochastic", [False, True], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("config", [OLD_RELEASE, NEW_RELEASE], ids=["old", "new"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_whole_run_equals_the_official_one(config, stochastic, batch):
    official, own = both(config, 8, stochastic_sampling=stochastic)
    x_official = x_own = torch.randn(batch, 6, 4)
    for i, (t_official, t_own) in enumerate(zip(official.timesteps, own.timesteps, strict=True)):
        velocity = torch.randn(batch, 6, 4)
        torch.manual_seed(i)  # the official step draws from the global generator
        x_official = official.step(
            velocity, t_official, x_official, return_dict=False, stochastic_sampling=stochastic
        )[0]
        generator = torch.Generator().manual_seed(i)
        x_own = own.step(velocity, t_own, x_own, generator=generator).prev_sample
        close(x_own, x_official, atol=ATOL * (i + 1))
    assert own.step_index == 8


@pytest.mark.parametrize("stochastic", [False, True], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("config", [OLD_RELEASE, NEW_RELEASE], ids=["old", "new"])
@pytest.mark.parametrize("batch", [1, 3])
def test_token_wise_steps_equal_the_official_ones(config, stochastic, batch):
    official, own = both(config, 8, stochastic_sampling=stochastic)
    length = 40
    levels = torch.rand(batch, length)
    levels[:, :8] = official.timesteps  # scheduled levels
    levels[:, 8:12] = 0  # finished tokens
    levels[:, 12:14] = official.timesteps[2] + 5e-7  # inside the margin
    sample, velocity = torch.randn(2, batch, length, 4)
    torch.manual_seed(1)
    expected = official.step(velocity, levels, sample, return_dict=False, stochastic_sampling=stochastic)[0]
    # In float64, since rounding to timesteps and back could carry a level across the margin.
    actual = own.step(
        velocity,
        own.timesteps[0],
        sample,
        per_token_timesteps=levels.double() * 1000,
        generator=torch.Generator().manual_seed(1),
    ).prev_sample
    close(actual, expected)
    assert torch.equal(actual[:, 8:12], sample[:, 8:12])


def test_add_noise_equals_the_official_one():
    official, own = both(NEW_RELEASE, 8)
    x0, noise = torch.randn(2, 3, 7, 4)
    per_sample, per_token = torch.rand(3), torch.rand(3, 7)
    for levels in (per_sample, per_token):
        close(own.add_noise(x0, noise, levels * 1000), official.add_noise(x0, noise, levels))
    close(own.scale_noise(x0, per_sample * 1000, noise), official.add_noise(x0, noise, per_sample))


def diffusers_pair(config, num_steps, num_tokens):
    """Both schedulers set as Diffusers' LTX pipelines set theirs."""
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    own = LTXFlowMatchScheduler.from_config(theirs.config)
    line = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(num_tokens, *(theirs.config[key] for key in line))
    for scheduler in (theirs, own):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=mu)
    return theirs, own


@pytest.mark.parametrize(
    "config",
    [
        DIFFUSERS_OLD,
        {},
        {"shift": 3.0},
        {"shift": 3.0, "shift_terminal": 0.2},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "shift": 2.0},
        {"shift_terminal": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("num_tokens", TOKENS)
def test_schedules_equal_those_of_diffusers(config, num_tokens):
    for num_steps in STEPS:
        theirs, own = diffusers_pair(config, num_steps, num_tokens)
        close(own.sigmas, theirs.sigmas)
        close(own.timesteps, theirs.timesteps, atol=1e-3)
        # Our own pipelines give the token count and no list.
        own.set_timesteps(num_steps, num_tokens=num_tokens)
        close(own.sigmas, theirs.sigmas)


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_whole_run_equals_that_of_diffusers(stochastic):
    theirs, own = diffusers_pair({**DIFFUSERS_OLD, "stochastic_sampling": stochastic}, 8, 6144)
    x_theirs = x_own = torch.randn(2, 4, 3, 2, 2)
    for i, (t_theirs, t_own) in enumerate(zip(theirs.timesteps, own.timesteps, strict=True)):
        velocity = torch.randn_like(x_own)
        generators = [torch.Generator().manual_seed(i) for _ in range(2)]
        x_theirs = theirs.step(velocity, t_theirs, x_theirs, generator=generators[0], return_dict=False)[0]
        x_own = own.step(velocity, t_own, x_own, generator=generators[1], return_dict=False)[0]
        assert own.step_index == theirs.step_index
        close(x_own, x_theirs, atol=ATOL * (i + 1))


def test_diffusers_can_read_our_config_back():
    for config in (DIFFUSERS_OLD, {}, {"shift": 3.0, "shift_terminal": 0.2}):
        theirs = FlowMatchEulerDiscreteScheduler(**config)
        own = LTXFlowMatchScheduler.from_diffusers_config(theirs.config)
        back = FlowMatchEulerDiscreteScheduler.from_config(own.to_diffusers_config())
        for key in (*DIFFUSERS_OLD, "shift", "stochastic_sampling", "num_train_timesteps"):
            assert back.config[key] == theirs.config[key], key


@pytest.fixture(scope="module")
def components():
    torch.manual_seed(0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=12,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=4,
    )
    return {"transformer": transformer.eval(), "vae": vae.eval()}


def run_pipeline(kind, components, scheduler, **call):
    pipeline = kind(scheduler=scheduler, text_encoder=None, tokenizer=None, **components)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    embeds = torch.randn(2, 5, 12, generator=generator)
    mask = torch.ones(2, 5, dtype=torch.long)
    return pipeline(
        prompt_embeds=embeds,
        negative_prompt_embeds=torch.zeros_like(embeds),
        prompt_attention_mask=mask,
        negative_prompt_attention_mask=mask,
        height=64,
        width=64,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=2.0,
        generator=generator,
        output_type="latent",
        return_dict=False,
        **call,
    )[0]


@pytest.mark.parametrize("config", [DIFFUSERS_OLD, {}], ids=["old", "plain"])
def test_in_diffusers_text_to_video_pipeline(components, config):
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    own = LTXFlowMatchScheduler.from_config(theirs.config)
    expected = run_pipeline(LTXPipeline, components, theirs)
    close(run_pipeline(LTXPipeline, components, own), expected, atol=1e-5)


def test_in_diffusers_image_to_video_pipeline(components):
    image = torch.rand(2, 3, 64, 64)
    theirs = FlowMatchEulerDiscreteScheduler(**DIFFUSERS_OLD)
    own = LTXFlowMatchScheduler.from_config(theirs.config)
    expected = run_pipeline(LTXImageToVideoPipeline, components, theirs, image=image)
    close(run_pipeline(LTXImageToVideoPipeline, components, own, image=image), expected, atol=1e-5)


@pytest.mark.parametrize("strength", [None, 0.7])
def test_in_diffusers_condition_pipeline_with_its_negated_velocity(components, strength):
    call = {}
    if strength is not None:
        frames = list(torch.rand(9, 3, 64, 64))
        call["conditions"] = LTXVideoCondition(video=frames, strength=strength)
    theirs = FlowMatchEulerDiscreteScheduler()
    own = LTXFlowMatchScheduler.from_config(theirs.config, negated_per_token_output=True)
    expected = run_pipeline(LTXConditionPipeline, components, theirs, **call)
    close(run_pipeline(LTXConditionPipeline, components, own, **call), expected, atol=1e-5)
    close(own.sigmas[:-1], diffusers_linear_quadratic(4))
