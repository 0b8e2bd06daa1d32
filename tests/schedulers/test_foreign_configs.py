"""Configs of Diffusers and of the official package, read and written (schedules: tests/parity)."""

from __future__ import annotations

import json

import pytest
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from ltx_diffusers.errors import InputError
from ltx_diffusers.schedulers.flow_match import LTXFlowMatchScheduler

OFFICIAL = [
    {"sampler": "Uniform", "shifting": "SD3", "target_shift_terminal": 0.1},
    {"sampler": "LinearQuadratic", "shifting": None, "target_shift_terminal": None},
    {"sampler": "Uniform", "shifting": "SimpleDiffusion", "base_resolution": 512},
    {"sampler": "Constant", "shifting": None, "shift": 1.25},
]


@pytest.mark.parametrize("config", OFFICIAL, ids=str)
def test_official_configs_come_back_as_they_were(config):
    named = {"_class_name": "RectifiedFlowScheduler", "num_train_timesteps": 1000, **config}
    written = LTXFlowMatchScheduler.from_config(named).to_official_config()
    assert written.pop("target_shift_terminal") == named.pop("target_shift_terminal", None)
    assert written.pop("shift", None) == pytest.approx(named.pop("shift", None))
    assert written == named


def test_a_saved_diffusers_scheduler_loads(tmp_path):
    FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, shift_terminal=0.1
    ).save_pretrained(tmp_path)
    own = LTXFlowMatchScheduler.from_pretrained(tmp_path)
    assert (own.config.schedule, own.config.shifting, own.config.shift_terminal) == ("uniform", "sd3", 0.1)
    # what the file leaves to Diffusers' defaults, not to ours
    assert (own.config.base_image_seq_len, own.config.max_shift) == (256, 1.15)
    own.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "LTXFlowMatchScheduler" and "use_dynamic_shifting" not in saved


def test_keyword_arguments_override_a_foreign_config():
    theirs = FlowMatchEulerDiscreteScheduler()
    own = LTXFlowMatchScheduler.from_config(theirs.config, schedule="linear-quadratic")
    assert own.config.schedule == "linear-quadratic"
    own = LTXFlowMatchScheduler.from_official_config(OFFICIAL[1], allowed_inference_steps=[1.0, 0.725])
    assert own.config.allowed_inference_steps == [1.0, 0.725]


@pytest.mark.parametrize(
    "config",
    [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"invert_sigmas": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    ],
    ids=str,
)
def test_what_ours_lacks_of_diffusers_is_refused(config):
    with pytest.raises(InputError):
        LTXFlowMatchScheduler.from_config(FlowMatchEulerDiscreteScheduler(**config).config)


@pytest.mark.parametrize(
    "config",
    [{"sampler": "Cosine"}, {"sampler": "Uniform", "shifting": "sd3"}, {"sampler": "Constant"}],
    ids=str,
)
def test_unknown_official_settings_are_refused(config):
    with pytest.raises(InputError):
        LTXFlowMatchScheduler.from_official_config(config)


def test_other_schedulers_are_refused(tmp_path):
    DDIMScheduler().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="DDIMScheduler"):
        LTXFlowMatchScheduler.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"schedule": "uniform", "shifting": "simple-diffusion"},
        {"schedule": "uniform", "shifting": "sd3", "clamp_shift": True},
        {"schedule": "constant-shift", "schedule_options": {"shift": 2.0}, "shifting": "sd3"},
    ],
    ids=str,
)
def test_what_diffusers_cannot_express_is_not_written_for_it(config):
    with pytest.raises(InputError):
        LTXFlowMatchScheduler(**config).to_diffusers_config()


@pytest.mark.parametrize(
    "config",
    [
        {"schedule_options": {"threshold": 0.1}},
        {"shifting": "sd3", "clamp_shift": True},
        {"shifting": "sd3", "max_shift": 1.15},
        {"shift_terminal": 0.1},
    ],
    ids=str,
)
def test_what_the_official_scheduler_cannot_express_is_not_written_for_it(config):
    with pytest.raises(InputError):
        LTXFlowMatchScheduler(**config).to_official_config()
