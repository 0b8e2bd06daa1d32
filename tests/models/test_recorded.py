"""Configs of Diffusers' classes that also hold the settings of ours."""

from __future__ import annotations

import logging

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from tiny import transformer_config

from ltx_diffusers import LTXFlowMatchScheduler, LTXTransformer3DModel
from ltx_diffusers.models.recorded import RECORD, with_recorded
from ltx_diffusers.schedulers.foreign_configs import to_recorded_diffusers

RECORDED = {"causal_temporal_positioning": True, "default_height": 96}


@pytest.fixture
def warnings_of_diffusers(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> list:
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    return caplog.records


def test_diffusers_passes_over_the_record_and_keeps_it(tmp_path, warnings_of_diffusers) -> None:
    config = {**transformer_config(), RECORD: RECORDED, "_class_name": "LTXVideoTransformer3DModel"}
    theirs = LTXVideoTransformer3DModel.from_config(config)
    assert warnings_of_diffusers == []
    theirs.save_pretrained(tmp_path)
    ours = LTXTransformer3DModel.from_pretrained(tmp_path)
    assert {name: ours.config[name] for name in RECORDED} == RECORDED
    assert RECORD not in ours.config
    assert warnings_of_diffusers == []


def test_a_config_without_a_record_is_left_alone() -> None:
    assert with_recorded({"a": 1}) == {"a": 1}
    assert with_recorded({"a": 1, RECORD: "nonsense"}) == {"a": 1}


@pytest.mark.parametrize(
    "settings",
    [
        {"allowed_inference_steps": [1.0, 0.725], "default_guidance_scale": 3.0, "stochastic_sampling": True},
        {"schedule": "uniform", "shifting": "sd3", "shift_terminal": 0.1},
        {"schedule_options": {"threshold": 0.1}},
    ],
    ids=str,
)
def test_schedulers_come_back_as_they_were(settings: dict, tmp_path, warnings_of_diffusers) -> None:
    own = LTXFlowMatchScheduler(**settings)
    theirs = FlowMatchEulerDiscreteScheduler.from_config(to_recorded_diffusers(own.config))
    assert warnings_of_diffusers == []
    theirs.save_pretrained(tmp_path)
    read = LTXFlowMatchScheduler.from_pretrained(tmp_path)
    assert {name: read.config[name] for name in own.config if name[0] != "_"} == {
        name: value for name, value in own.config.items() if name[0] != "_"
    }
    assert theirs.config.use_dynamic_shifting == (own.config.shifting == "sd3")


def test_a_changed_config_counts_more_than_the_record() -> None:
    config = to_recorded_diffusers(LTXFlowMatchScheduler(schedule="uniform", shifting="sd3").config)
    changed = FlowMatchEulerDiscreteScheduler.from_config(config, shift_terminal=0.2)
    assert LTXFlowMatchScheduler.from_config(changed.config).config.shift_terminal == 0.2


@pytest.mark.parametrize("record", [{}, {"schedule": "uniform"}, "text", None, {"schedule_options": 3}])
def test_a_foreign_record_is_passed_over(record: object) -> None:
    config = dict(FlowMatchEulerDiscreteScheduler(base_shift=0.7).config) | {RECORD: record}
    assert LTXFlowMatchScheduler.from_config(config).config.base_shift == 0.7
