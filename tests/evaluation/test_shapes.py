"""The evaluation in moving-shapes, on pipelines that draw: known rights, wrongs, PSNR and confusions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.shape_pipelines import DrawnPipeline, wrong_everything

from ltx_diffusers.data.moving_shapes import caption, split_of
from ltx_diffusers.errors import InputError
from ltx_diffusers.evaluation.shape_sheets import ShapeSheets
from ltx_diffusers.evaluation.shapes import (
    PARTS,
    TARGETS,
    JudgedClip,
    default_size,
    draw_cases,
    evaluate_shapes,
)
from ltx_diffusers.evaluation.statistics import wilson_interval
from ltx_diffusers.geometry import VideoSize

COUNT = 24


@pytest.fixture(scope="module")
def cases():
    return draw_cases(COUNT)


def figures(report: dict) -> dict[tuple[str, str], dict]:
    return {(figure["part"], figure["name"]): figure for figure in report["figures"]}


def evaluate(cases, *, wrong=lambda index, spec: spec, noise=0.0, **settings) -> dict:
    return evaluate_shapes(
        DrawnPipeline(cases, wrong),
        image_pipeline=DrawnPipeline(cases, wrong, noise, image=True),
        num_prompts=COUNT,
        **settings,
    )


def test_cases_are_held_out_seeded_and_in_many_words(cases):
    assert cases == draw_cases(COUNT)
    assert cases[:5] == draw_cases(5)
    assert cases != draw_cases(COUNT, seed=1)
    assert all(split_of(case.spec.shape, case.spec.color, case.spec.motion) == "held-out" for case in cases)
    assert len({case.seed for case in cases}) == COUNT
    assert sum(case.prompt != caption(case.spec) for case in cases) > COUNT / 2
    assert all(case.spec.color in case.prompt for case in cases)


def test_a_pipeline_that_draws_right_reaches_every_judged_target(cases):
    report = evaluate(cases, noise=0.01)
    found = figures(report)
    assert {(part, name) for part, name in TARGETS if part in PARTS} <= set(found)
    for (part, name), figure in found.items():
        assert figure["count"] == COUNT
        if "right" in figure:
            assert figure["right"] == COUNT, (part, name)
            assert figure["value"] == 1
            assert figure["interval"] == pytest.approx(wilson_interval(COUNT, COUNT))
            assert figure["reached"] is True
    # Noise of 0.01 is 40 dB, or more where it is cut off at black and white.
    first = found["image-to-video", "first frame PSNR"]
    assert 39 < first["lowest"] <= first["value"] < 46
    assert first["reached"] is True
    assert report["failures"] == []
    assert set(report["seconds"]) == set(PARTS)


def test_a_vae_that_is_too_bright_is_measured_so(cases):
    found = figures(evaluate(cases, parts=["vae"]))
    assert set(found) == {("vae", "PSNR"), ("vae", "SSIM")}
    # Everything 0.1 too bright is 20 dB, a little more where white cuts it off.
    assert 20 <= found["vae", "PSNR"]["value"] < 30
    assert found["vae", "PSNR"]["lowest"] == pytest.approx(20, abs=0.3)
    assert found["vae", "PSNR"]["reached"] is False
    assert 0.3 < found["vae", "SSIM"]["value"] < 1


def test_a_pipeline_that_draws_wrong_reaches_nothing(cases):
    report = evaluate(cases, wrong=wrong_everything)
    found = figures(report)
    for name in ("color", "shape", "motion", "all"):
        assert found["text-to-video", name]["value"] == 0
        assert found["text-to-video", name]["reached"] is False
    assert found["image-to-video", "motion"]["value"] == 0
    assert found["image-to-video", "first frame PSNR"]["value"] < 28
    assert len(report["failures"]) == 2 * COUNT
    assert sum(entry["count"] for entry in report["confusions"]["text-to-video"]["shape"]) == COUNT


def test_failures_and_confusions_name_what_went_wrong(cases):
    def wrong(index, spec):
        return replace(spec, shape="circle" if spec.shape == "square" else "square") if index < 6 else spec

    report = evaluate(cases, wrong=wrong, parts=["text-to-video"])
    found = figures(report)
    assert found["text-to-video", "shape"]["right"] == COUNT - 6
    assert found["text-to-video", "all"]["right"] == COUNT - 6
    assert found["text-to-video", "color"]["right"] == COUNT
    low, high = found["text-to-video", "shape"]["interval"]
    assert 0 < low < (COUNT - 6) / COUNT < high < 1
    assert [failure["index"] for failure in report["failures"]] == [0, 1, 2, 3, 4, 5]
    for failure in report["failures"]:
        case = cases[failure["index"]]
        assert failure["wrong"] == ["shape"]
        assert (failure["prompt"], failure["seed"]) == (case.prompt, case.seed)
        assert failure["wanted"]["shape"] == case.spec.shape
        assert failure["read"]["shape"] == wrong(0, case.spec).shape
    confusions = report["confusions"]["text-to-video"]
    assert confusions["color"] == confusions["motion"] == []
    assert sum(entry["count"] for entry in confusions["shape"]) == 6
    assert all(entry["wanted"] != entry["read"] for entry in confusions["shape"])


def test_a_pipeline_that_gives_no_numbers_is_wrong_and_still_reported(cases):
    class Broken(DrawnPipeline):
        def __call__(self, **call):
            output = super().__call__(**call)
            output.frames[:] = np.nan
            return output

    clips = []
    report = evaluate_shapes(
        Broken(cases), num_prompts=3, image_pipeline=Broken(cases, image=True), on_clip=clips.append
    )
    json.dumps(report, allow_nan=False)
    assert figures(report)["text-to-video", "all"]["right"] == 0
    assert report["confusions"]["text-to-video"]["shape"][0]["read"] == "unclear"
    assert clips[0].frames.max() == 0


def test_the_batch_size_changes_nothing_but_the_calls(cases):
    small, large = DrawnPipeline(cases), DrawnPipeline(cases)
    by_five = evaluate_shapes(small, num_prompts=12, batch_size=5, parts=["text-to-video"])
    at_once = evaluate_shapes(large, num_prompts=12, batch_size=50, parts=["text-to-video"])
    assert by_five["figures"] == at_once["figures"]
    assert [len(call["prompt"]) for call in small.calls] == [5, 5, 2]
    assert [len(call["prompt"]) for call in large.calls] == [12]


def test_the_size_is_the_models_own_unless_given(cases):
    pipeline = DrawnPipeline(cases)
    assert default_size(pipeline) == VideoSize(9, 64, 64)
    report = evaluate_shapes(pipeline, num_prompts=1, parts=["text-to-video"])
    assert report["settings"]["size"] == {"frames": 9, "height": 64, "width": 64}
    evaluate_shapes(pipeline, num_prompts=1, parts=["text-to-video"], size=VideoSize(17, 96, 96))
    assert (pipeline.calls[1]["num_frames"], pipeline.calls[1]["height"]) == (17, 96)
    pipeline.transformer.config = {}
    assert default_size(pipeline) == VideoSize(161, 512, 704)
    # Whatever isn't a matter of size or seed is left to the pipeline.
    assert set(pipeline.calls[0]) == {"prompt", "num_frames", "height", "width", "generator", "output_type"}


def test_the_first_frames_are_those_of_the_true_clips(cases):
    images = DrawnPipeline(cases, image=True)
    evaluate_shapes(DrawnPipeline(cases), num_prompts=2, parts=["image-to-video"], image_pipeline=images)
    drawn = DrawnPipeline(cases)(**without_image(images.calls[0]))
    for image, frames in zip(images.calls[0]["image"], drawn.frames, strict=True):
        np.testing.assert_allclose(np.asarray(image) / 255, frames[0], atol=0.5 / 255 + 1e-6)


def without_image(call: dict) -> dict:
    return {name: value for name, value in call.items() if name != "image"}


def test_every_clip_is_handed_over_in_order(cases):
    clips: list[JudgedClip] = []
    evaluate_shapes(
        DrawnPipeline(cases),
        num_prompts=4,
        image_pipeline=DrawnPipeline(cases, image=True),
        batch_size=3,
        on_clip=clips.append,
    )
    assert [(clip.part, clip.case.index) for clip in clips] == [(part, i) for part in PARTS for i in range(4)]
    assert all(clip.frames.shape == (9, 64, 64, 3) and clip.frames.dtype == np.uint8 for clip in clips)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_prompts": 0}, "num_prompts"),
        ({"batch_size": 0}, "batch_size"),
        ({"parts": ["t2v"]}, "text-to-video"),
        ({"parts": []}, "none"),
    ],
)
def test_bad_settings_are_refused(cases, settings, message):
    with pytest.raises(InputError, match=message):
        evaluate_shapes(DrawnPipeline(cases), **settings)


def test_a_sheet_shows_failures_first_and_framed_in_red(cases):
    def wrong(index, spec):
        return wrong_everything(index, spec) if index == 3 else spec

    sheets = ShapeSheets(rows=2)
    evaluate_shapes(
        DrawnPipeline(cases, wrong), num_prompts=6, parts=["text-to-video", "vae"], on_clip=sheets.add
    )
    assert sheets.parts() == ["text-to-video", "vae"]
    pixels = np.asarray(sheets.draw("text-to-video"))
    red, green = ((pixels == color).all(axis=-1) for color in ((220, 40, 40), (40, 160, 60)))
    assert red.sum() > 8 * 4 * 3 * 64  # eight frames, four sides, three pixels
    assert green.sum() > 8 * 4 * 3 * 64
    assert np.argwhere(red)[:, 0].max() < np.argwhere(green)[:, 0].min()
    gray = np.asarray(sheets.draw("vae"))
    assert not (gray == (220, 40, 40)).all(axis=-1).any()
