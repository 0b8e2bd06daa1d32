"""The table of releases."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ltx_diffusers import LTXFlowMatchScheduler
from ltx_diffusers.conversion.releases import DISTILLED_STEPS, RELEASES
from ltx_diffusers.functional.sigmas import linear_quadratic


def test_every_release_is_there():
    assert list(RELEASES) == [
        "0.9.0",
        "0.9.1",
        "0.9.5",
        "0.9.6-dev",
        "0.9.6-distilled",
        "0.9.7-dev",
        "0.9.7-distilled",
        "0.9.8-13b-dev",
        "0.9.8-13b-distilled",
        "0.9.8-2b-distilled",
        "0.9.7-spatial-upsampler",
        "0.9.7-temporal-upsampler",
        "0.9.8-spatial-upsampler",
    ]
    assert all(release.name == name for name, release in RELEASES.items())


@pytest.mark.parametrize("release", [r for r in RELEASES.values() if r.size], ids=lambda r: r.name)
def test_a_release_s_settings_hang_together(release):
    new = release.vae == "0.9.5"
    assert release.causal == new
    scheduler = LTXFlowMatchScheduler(**release.scheduler_config)
    assert scheduler.config.schedule == ("linear-quadratic" if new else "uniform")
    assert scheduler.config.shifting == (None if new else "sd3")
    assert scheduler.config.stochastic_sampling == (release.name == "0.9.6-distilled")
    assert release.distilled == (release.allowed_inference_steps is not None) == ("distilled" in release.name)
    assert release.size == ("13b" if "13b" in release.name or "0.9.7" in release.name else "2b")
    # Its own default steps are among those that it allows.
    scheduler.set_timesteps(num_tokens=1024)
    assert len(scheduler.timesteps) == release.num_inference_steps


def test_distilled_steps_are_the_schedule_of_eight():
    assert torch.allclose(linear_quadratic(8).double(), torch.tensor(DISTILLED_STEPS).double(), atol=5.1e-5)


def test_releases_can_t_be_changed():
    with pytest.raises(TypeError):
        RELEASES["mine"] = RELEASES["0.9.0"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        RELEASES["0.9.0"].size = "13b"
    RELEASES["0.9.0"].scheduler_config["schedule"] = "mine"
    assert RELEASES["0.9.0"].scheduler_config["schedule"] == "uniform"
