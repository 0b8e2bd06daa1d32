"""Presets: what each release gets, against the numbers of the official configs step by step."""

from __future__ import annotations

import numpy as np
import pytest

from ltx_diffusers.conversion.releases import RELEASES
from ltx_diffusers.denoising.guidance import GuidanceByLevel
from ltx_diffusers.errors import UnknownNameError
from ltx_diffusers.models.transformers.released import RELEASED
from ltx_diffusers.pipelines.presets import PRESETS, get_preset, preset_of, unsaid
from ltx_diffusers.schedulers.flow_match import LTXFlowMatchScheduler

STEPS = {
    "num_inference_steps",
    "sigmas",
    "skip_initial_inference_steps",
    "skip_final_inference_steps",
}
EXPECTED = {
    "0.9.0": "2b-dev",
    "0.9.1": "2b-dev",
    "0.9.5": "2b-dev",
    "0.9.6-dev": "2b-dev",
    "0.9.6-distilled": "2b-distilled-0.9.6",
    "0.9.7-dev": "13b-dev",
    "0.9.7-distilled": "13b-distilled",
    "0.9.8-13b-dev": "13b-dev",
    "0.9.8-13b-distilled": "13b-distilled",
    "0.9.8-2b-distilled": "2b-distilled-0.9.8",
}


def models() -> list[str]:
    return [name for name, release in RELEASES.items() if release.size is not None]


@pytest.mark.parametrize("name", models())
def test_every_release_gets_its_preset_and_can_run_it(name: str) -> None:
    release = RELEASES[name]
    transformer = RELEASED[release.size]
    preset = preset_of(transformer, release.scheduler_config)
    assert preset.name == EXPECTED[name]
    scheduler = LTXFlowMatchScheduler(**release.scheduler_config)
    for settings in (preset.single, preset.first, preset.second):
        if settings is None:
            continue
        scheduler.set_timesteps(settings.num_inference_steps, sigmas=settings.sigmas, num_tokens=4096)
        skipped = settings.skip_initial_inference_steps + settings.skip_final_inference_steps
        assert skipped < len(scheduler.timesteps)
        for run in settings.guidance.all_passes():
            if run.perturbation is not None:
                run.perturbation.check_depth(transformer["num_layers"])


def test_other_models_have_none() -> None:
    # Distilled by someone else: for the released levels, or for others.
    own = {"allowed_inference_steps": [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.9094, 0.725, 0.4219]}
    assert preset_of({"num_layers": 28}, own).name == "2b-distilled-0.9.8"
    assert preset_of({"num_layers": 28}, {"allowed_inference_steps": [1.0, 0.75, 0.5, 0.25]}) is None
    assert preset_of({"num_layers": 7}, {}) is None


def test_the_13b_first_pass_step_by_step() -> None:
    """Oracle: the lists of the official config and the lines of its pipeline that pick from them."""
    timesteps = [1.0, 0.996, 0.9933, 0.985, 0.9767, 0.9008, 0.618]
    cfg, stg = [1, 1, 6, 8, 6, 1, 1], [0, 0, 4, 4, 4, 2, 1]
    rescale = [1, 1, 0.5, 0.5, 1, 1, 1]
    blocks = [[], [11, 25, 35, 39], [22, 35, 39], [28], [28], [28], [28]]
    settings = PRESETS["13b-dev"].first
    scheduler = LTXFlowMatchScheduler(**RELEASES["0.9.8-13b-dev"].scheduler_config)
    scheduler.set_timesteps(settings.num_inference_steps)
    levels = scheduler.sigmas[:-1].tolist()
    kept = levels[: len(levels) - settings.skip_final_inference_steps]
    assert len(kept) == 27 and kept[-1] == pytest.approx(0.4458, abs=1e-4)
    for level in kept:
        index = next((i for i, value in enumerate(timesteps) if value <= level), len(timesteps) - 1)
        guidance = settings.guidance.at(level)
        assert (guidance.scale, guidance.stg_scale) == (cfg[index], stg[index])
        assert guidance.star
        if stg[index] > 0:
            assert guidance.rescale == (0 if rescale[index] == 1 else rescale[index])
            assert list(guidance.stg_blocks) == blocks[index]
        names = [run.text for run in guidance.passes]
        assert names == (["negative"] if cfg[index] > 1 else []) + ["positive"] * (1 + (stg[index] > 0))


def test_the_13b_second_pass_begins_low() -> None:
    settings = PRESETS["13b-dev"].second
    scheduler = LTXFlowMatchScheduler(**RELEASES["0.9.8-13b-dev"].scheduler_config)
    scheduler.set_timesteps(settings.num_inference_steps)
    left = scheduler.sigmas[settings.skip_initial_inference_steps : -1]
    assert len(left) == 13 and left[0].item() == pytest.approx(0.9548, abs=1e-4)
    assert not isinstance(settings.guidance, GuidanceByLevel)


@pytest.mark.parametrize(
    ("call", "left_out"),
    [
        ({}, set()),
        ({"guidance_rescale": 0.0, "skip_final_inference_steps": 0, "sigmas": None}, set()),
        ({"guidance_scale": 0.0}, {"guidance"}),
        ({"guidance_rescale": 0.7}, {"guidance"}),
        ({"tone_map_compression": 0.3}, {"tone_map_compression"}),
        ({"sigmas": np.array([1.0, 0.5])}, STEPS),
        ({"skip_final_inference_steps": 2}, STEPS),
    ],
)
def test_what_a_call_says_no_preset_says(call: dict, left_out: set) -> None:
    preset = PRESETS["13b-dev"].second
    assert preset.arguments().keys() - unsaid(preset, call).keys() == left_out


def test_an_unknown_preset() -> None:
    with pytest.raises(UnknownNameError, match="13b-dev"):
        get_preset("13b")
