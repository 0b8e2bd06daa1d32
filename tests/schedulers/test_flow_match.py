"""What the scheduler promises by itself; comparisons with other packages are in tests/parity."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from ltx_diffusers.errors import InputError, UnknownNameError
from ltx_diffusers.functional.sigmas import schedules, uniform
from ltx_diffusers.schedulers.flow_match import LTXFlowMatchScheduler

OLD_RELEASE = {"schedule": "uniform", "shifting": "sd3", "shift_terminal": 0.1}
ALLOWED = [1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725, 0.4219]


def scheduler(num_steps=4, num_tokens=1024, **config):
    made = LTXFlowMatchScheduler(**config)
    made.set_timesteps(num_steps, num_tokens=num_tokens)
    return made


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@settings(max_examples=60, deadline=None)
@given(
    num_steps=st.integers(1, 200),
    num_tokens=st.integers(16, 8000),
    schedule=st.sampled_from(["uniform", "linear-quadratic", "constant-shift"]),
    shifting=st.sampled_from([None, "sd3", "simple-diffusion"]),
    terminal=st.sampled_from([None, 0.05, 0.3]),
)
def test_every_setting_gives_a_falling_schedule(num_steps, num_tokens, schedule, shifting, terminal):
    made = scheduler(num_steps, num_tokens, schedule=schedule, shifting=shifting, shift_terminal=terminal)
    assert made.num_inference_steps == num_steps == len(made.timesteps)
    assert made.sigmas.dtype == made.timesteps.dtype == torch.float32
    assert made.sigmas[0] == 1 and made.sigmas[-1] == 0
    assert (made.sigmas.diff() < 0).all()
    close(made.timesteps, made.sigmas[:-1] * 1000)
    if terminal is not None and num_steps > 1:
        assert made.sigmas[-2].item() == pytest.approx(terminal, abs=1e-6)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("config", [OLD_RELEASE, {}])
def test_one_step_goes_straight_to_the_clean_sample(config, stochastic):
    made = scheduler(1, stochastic_sampling=stochastic, **config)
    x0, noise = torch.randn(2, 3, 5, 4)
    assert made.sigmas.tolist() == [1, 0]
    close(made.step(noise - x0, made.timesteps[0], noise).prev_sample, x0)


def test_deterministic_steps_follow_the_true_velocity_exactly():
    made = scheduler(6, **OLD_RELEASE)
    x0, noise = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    x = noise
    for i, t in enumerate(made.timesteps):
        close(x, made.add_noise(x0, noise, t))
        assert made.step_index == (None if i == 0 else i)
        x = made.step(noise - x0, t, x).prev_sample
    close(x, x0)


def test_a_level_between_scheduled_ones_goes_to_the_next_below():
    made = LTXFlowMatchScheduler()
    made.set_timesteps(sigmas=[1.0, 0.6, 0.2])
    x, v = torch.randn(2, 3, 5, 4)
    close(made.step(v, 700.0, x).prev_sample, x - (0.7 - 0.6) * v)
    close(made.step(v, torch.tensor(100.0), x).prev_sample, x - 0.1 * v)
    per_sample = made.step(v, torch.tensor([1000.0, 600.0, 0.0]), x).prev_sample
    close(per_sample, x - torch.tensor([0.4, 0.4, 0.0])[:, None, None] * v)


@pytest.mark.parametrize("stochastic", [False, True])
def test_token_wise_steps_equal_global_steps_of_the_same_level(stochastic):
    made = scheduler(5, stochastic_sampling=stochastic)
    x, v = torch.randn(2, 2, 6, 4)
    for t in made.timesteps:
        expected = made.step(v, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
        for shape in ((2, 6), (2, 1)):
            seeded = torch.Generator().manual_seed(0)
            actual = made.step(v, t, x, per_token_timesteps=t.expand(shape), generator=seeded).prev_sample
            close(actual, expected)


@pytest.mark.parametrize("stochastic", [False, True])
def test_rows_of_a_batch_step_as_they_would_alone(stochastic):
    made = scheduler(5, stochastic_sampling=stochastic)
    x, v = torch.randn(2, 3, 6, 4)
    levels = torch.rand(3, 6) * 1000
    levels[:, 0] = 0
    together = made.step(
        v,
        1000.0,
        x,
        per_token_timesteps=levels,
        generator=[torch.Generator().manual_seed(i) for i in range(3)],
    ).prev_sample
    for i in range(3):
        row = slice(i, i + 1)
        alone = made.step(
            v[row],
            1000.0,
            x[row],
            per_token_timesteps=levels[row],
            generator=torch.Generator().manual_seed(i),
        ).prev_sample
        assert torch.equal(together[row], alone)
    assert torch.equal(together[:, 0], x[:, 0])


def test_stochastic_steps_reach_the_next_noise_level_with_seeded_noise():
    made = LTXFlowMatchScheduler(stochastic_sampling=True)
    made.set_timesteps(sigmas=[1.0, 0.5])
    x0, noise = torch.full((4, 500, 8), 3.0), torch.randn(4, 500, 8)
    steps = [
        made.step(noise - x0, 1000.0, noise, generator=torch.Generator().manual_seed(seed)).prev_sample
        for seed in (0, 0, 1)
    ]
    assert torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0], steps[2])
    # (1 - 0.5) * 3 + 0.5 e over 16,000 values
    assert steps[0].mean().item() == pytest.approx(1.5, abs=0.02)
    assert steps[0].std().item() == pytest.approx(0.5, abs=0.02)


def test_the_result_has_the_dtype_of_the_sample_and_is_computed_in_float32():
    made = scheduler(40, schedule="uniform")
    x, v = torch.randn(2, 1, 64, 8).bfloat16()
    t = made.timesteps[0]
    half = made.step(v, t, x).prev_sample
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, made.step(v.float(), t, x.float()).prev_sample.bfloat16())
    assert made.step(v, t, x.float()).prev_sample.dtype == torch.float32
    assert made.add_noise(x, v, t).dtype == torch.bfloat16


def test_negated_output_turns_only_token_wise_velocities():
    plain, negated = scheduler(4), scheduler(4, negated_per_token_output=True)
    x, v = torch.randn(2, 1, 6, 4)
    t = plain.timesteps[1]
    levels = torch.rand(1, 6) * 1000
    close(negated.step(v, t, x).prev_sample, plain.step(v, t, x).prev_sample)
    close(
        negated.step(-v, t, x, per_token_timesteps=levels).prev_sample,
        plain.step(v, t, x, per_token_timesteps=levels).prev_sample,
    )


def test_lists_are_taken_as_they_are():
    made = LTXFlowMatchScheduler(**OLD_RELEASE)
    expected = torch.tensor([0.9, 0.5, 0.2, 0.0])
    for levels in ([0.9, 0.5, 0.2], (0.9, 0.5, 0.2, 0.0), np.array([0.9, 0.5, 0.2]), expected[:3]):
        made.set_timesteps(sigmas=levels, num_tokens=6144)
        close(made.sigmas, expected)
        assert made.num_inference_steps == 3
    made.set_timesteps(3, timesteps=[900, 500, 200])
    close(made.sigmas, expected)


def test_sigmas_with_mu_are_shifted_as_diffusers_pipelines_expect():
    made = LTXFlowMatchScheduler(**OLD_RELEASE)
    made.set_timesteps(8, num_tokens=4096)
    expected = made.sigmas
    made.set_timesteps(sigmas=uniform(8), mu=2.05)
    close(made.sigmas, expected)
    made.set_timesteps(8, mu=2.05)
    close(made.sigmas, expected)
    made = LTXFlowMatchScheduler()
    made.set_timesteps(sigmas=uniform(8), mu=2.05)
    close(made.sigmas[:-1], uniform(8).float())


def test_the_clamp_holds_the_shift_between_its_points():
    made, clamped = (
        LTXFlowMatchScheduler(**OLD_RELEASE),
        LTXFlowMatchScheduler(**OLD_RELEASE, clamp_shift=True),
    )
    for low, high in ((16, 1024), (9000, 4096)):
        clamped.set_timesteps(8, num_tokens=low)
        made.set_timesteps(8, num_tokens=high)
        close(clamped.sigmas, made.sigmas)
    made.set_timesteps(8, num_tokens=9000)
    clamped.set_timesteps(8, mu=9.0)
    assert (made.sigmas[1:-2] > clamped.sigmas[1:-2]).all()


def test_options_reach_the_schedule():
    made = scheduler(10, schedule_options={"threshold": 0.1, "linear_steps": 2})
    close(made.sigmas[:3], torch.tensor([1.0, 0.95, 0.9]))
    made = scheduler(4, schedule="constant-shift", schedule_options={"shift": 3.0})
    close(made.sigmas, torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]))


def test_a_registered_schedule_can_be_used():
    name = "halving-of-this-test"
    if name not in schedules:

        @schedules.register(name)
        def halving(num_steps: int, ratio: float = 0.5) -> torch.Tensor:
            return ratio ** torch.arange(num_steps, dtype=torch.float64)

    close(scheduler(3, schedule=name).sigmas, torch.tensor([1.0, 0.5, 0.25, 0.0]))


def test_allowing_no_level_at_all_is_refused():
    with pytest.raises(InputError, match="expected None for any"):
        LTXFlowMatchScheduler(allowed_inference_steps=[])
    made = LTXFlowMatchScheduler()
    made.register_to_config(allowed_inference_steps=[])
    with pytest.raises(InputError, match="certain noise levels"):
        made.set_timesteps(4)


def test_only_allowed_levels_are_accepted():
    made = LTXFlowMatchScheduler(allowed_inference_steps=ALLOWED, default_num_inference_steps=8)
    made.set_timesteps()
    assert made.num_inference_steps == 8
    made.set_timesteps(sigmas=[0.9094, 0.725, 0.4219])
    for bad in ({"num_inference_steps": 7}, {"sigmas": [1.0, 0.5]}, {"timesteps": [1000.0, 726.0]}):
        with pytest.raises(InputError, match="distilled"):
            made.set_timesteps(**bad)


def test_a_refused_call_leaves_the_schedule_as_it_was():
    made = scheduler(4)
    before = made.sigmas.clone()
    with pytest.raises(InputError):
        made.set_timesteps(sigmas=[0.5, 0.9])
    assert torch.equal(made.sigmas, before) and made.num_inference_steps == 4


@pytest.mark.parametrize(
    "config, call",
    [
        ({}, {"num_inference_steps": 0}),
        ({}, {"num_inference_steps": -1}),
        ({}, {"num_inference_steps": 2.5}),
        ({}, {}),
        ({}, {"sigmas": [0.9, 0.5], "timesteps": [900, 500]}),
        ({}, {"sigmas": [0.9, 0.5], "num_inference_steps": 3}),
        ({}, {"sigmas": []}),
        ({}, {"sigmas": [0.0]}),
        ({}, {"sigmas": 0.5}),
        ({}, {"sigmas": "abc"}),
        ({}, {"sigmas": [None, 0.5]}),
        ({}, {"sigmas": [0.5, 0.9]}),
        ({}, {"sigmas": [0.5, 0.5]}),
        ({}, {"sigmas": [1.5, 0.5]}),
        ({}, {"sigmas": [0.5, -0.5]}),
        ({}, {"sigmas": [[0.9, 0.5]]}),
        ({}, {"sigmas": [0.9, 0.5, 0.0, 0.0]}),
        ({}, {"sigmas": [math.nan]}),
        ({}, {"sigmas": 0.5, "mu": 1.0}),
        ({}, {"timesteps": [1001.0, 500.0]}),
        (OLD_RELEASE, {"num_inference_steps": 8}),
        (OLD_RELEASE, {"num_inference_steps": 8, "num_tokens": 0}),
        ({"shifting": "simple-diffusion"}, {"num_inference_steps": 8, "mu": 1.0}),
        # so many tokens that the first levels run together in float32
        ({"shifting": "sd3"}, {"num_inference_steps": 100, "num_tokens": 60_000}),
    ],
    ids=str,
)
def test_bad_schedules_are_refused(config, call):
    with pytest.raises(InputError):
        LTXFlowMatchScheduler(**config).set_timesteps(**call)


@pytest.mark.parametrize(
    "config",
    [
        {"shift_terminal": 0.0},
        {"shift_terminal": 1.0},
        {"base_image_seq_len": 4096, "max_image_seq_len": 1024},
        {"schedule_options": {"thresold": 0.1}},
        {"schedule": "uniform", "schedule_options": {"shift": 3.0}},
    ],
    ids=str,
)
def test_bad_configs_are_refused(config):
    with pytest.raises(InputError):
        LTXFlowMatchScheduler(**config)


def test_unknown_names_are_refused():
    with pytest.raises(UnknownNameError, match="linear-quadratic"):
        LTXFlowMatchScheduler(schedule="linear_quadratic")
    with pytest.raises(UnknownNameError, match="sd3"):
        LTXFlowMatchScheduler(shifting="SD3")


def test_bad_steps_are_refused():
    x = torch.randn(2, 6, 4)
    with pytest.raises(InputError, match="set_timesteps"):
        LTXFlowMatchScheduler().step(x, 1000.0, x)
    made = scheduler(4, stochastic_sampling=True)
    bad = [
        {"model_output": x[:, :5]},
        {"timestep": 1000},
        {"timestep": torch.tensor(3)},
        {"timestep": torch.tensor(993.75).bfloat16()},
        {"timestep": torch.rand(3)},
        {"timestep": torch.rand(2, 6)},
        {"per_token_timesteps": torch.rand(1, 6)},
        {"per_token_timesteps": torch.rand(2, 5)},
        {"per_token_timesteps": torch.rand(2)},
        {"generator": [torch.Generator()]},
    ]
    for change in bad:
        with pytest.raises(InputError):
            made.step(**{"model_output": x, "timestep": 1000.0, "sample": x, **change})
    with pytest.raises(InputError):
        made.add_noise(x, x[:1], 500.0)


def test_indices_fit_diffusers_pipelines():
    made = scheduler(5)
    assert made.order == 1 and made.init_noise_sigma == 1.0 and len(made) == 1000
    x = torch.randn(1, 6, 4)
    assert made.scale_model_input(x, made.timesteps[0]) is x
    assert [made.index_for_timestep(t) for t in made.timesteps] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError):
        made.index_for_timestep(123.0)
    made.set_begin_index(2)
    assert made.begin_index == made.step_index == 2
    made.step(x, made.timesteps[2], x)
    assert made.step_index == 3
    made.set_timesteps(5)
    assert made.begin_index is None and made.step_index is None


def test_saved_and_loaded_configs_are_equal(tmp_path):
    made = LTXFlowMatchScheduler(
        schedule_options={"threshold": 0.05},
        shifting="sd3",
        stochastic_sampling=True,
        allowed_inference_steps=ALLOWED,
        default_num_inference_steps=8,
        default_guidance_scale=1.0,
    )
    made.save_pretrained(tmp_path / "scheduler")
    saved = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "LTXFlowMatchScheduler"
    loaded = LTXFlowMatchScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    copied = LTXFlowMatchScheduler.from_config(made.config)
    for other in (loaded, copied):
        for key in LTXFlowMatchScheduler().config:
            if not key.startswith("_"):
                assert other.config[key] == made.config[key], key
    changed = LTXFlowMatchScheduler.from_config(made.config, default_num_inference_steps=4)
    assert changed.config.default_num_inference_steps == 4 and changed.config.shifting == "sd3"


@pytest.mark.parametrize("stochastic", [False, True])
def test_steps_never_wait_for_the_device(stochastic):
    # Fake tensors have no values: whatever would copy one to the host raises.
    made = scheduler(4, stochastic_sampling=stochastic)
    with FakeTensorMode() as mode:
        made.sigmas, made.timesteps = mode.from_tensor(made.sigmas), mode.from_tensor(made.timesteps)
        x = torch.randn(2, 6, 4)
        for t in made.timesteps.unbind():
            x = made.step(x, t, x).prev_sample
            x = made.step(x, t, x, per_token_timesteps=t.expand(2, 6)).prev_sample
        made.add_noise(x, x, made.timesteps[:2])
        with pytest.raises(DataDependentOutputException):
            made.step_index  # noqa: B018
