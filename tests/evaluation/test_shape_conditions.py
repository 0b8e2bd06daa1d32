"""The evaluation's parts with conditions, on pipelines that draw: known paths, jumps and outsides."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.shape_pipelines import ShiftingVAE

from ltx_diffusers.data.moving_shapes import render
from ltx_diffusers.evaluation.shape_cases import draw_cases
from ltx_diffusers.evaluation.shape_conditions import CONDITION_PARTS
from ltx_diffusers.evaluation.shapes import evaluate_shapes
from ltx_diffusers.geometry import LTX_RATIOS, VideoSize
from ltx_diffusers.pipelines.media import RegionOfVideo

SIZE = VideoSize(17, 96, 96)
COUNT = 6
FOLLOWED = ("first-and-last-frame", "extension", "extension-backward")


class ConditionedPipeline:
    """Draws the true clip of each prompt, moved by `shift` of the frame's width from frame 9 on."""

    ratios, vae = LTX_RATIOS, ShiftingVAE()
    transformer = SimpleNamespace(config=SimpleNamespace(default_frame_rate=8.0))
    turning = ("left", "right", "up", "down", "grow", "shrink")

    def __init__(self, shift: float = 0.0, outside: float = 0.0) -> None:
        self.specs = {case.seed: case.spec for case in draw_cases(COUNT)}
        self.shift, self.outside = shift, outside
        self.given = []

    def __call__(self, prompt, conditions, generator, output_type, num_frames, height, width):
        self.given += conditions
        clips = []
        for entries, text, own in zip(conditions, prompt, generator, strict=True):
            spec = self.specs[own.initial_seed()]
            clips.append(self._inpainted(*entries, text) if output_type == "latent" else self._moved(spec))
        frames = np.stack(clips)
        if output_type == "latent":
            frames = torch.from_numpy(frames).permute(0, 4, 1, 2, 3) * 2 - 1
        return SimpleNamespace(frames=frames)

    def stream(self, prompts, num_frames, *, height, width, generator):
        """The clip, and then its last frame at rest or its way back, by the words of the second prompt."""
        self.given.append(prompts)
        spec = self.specs[generator.initial_seed()]
        clip = render(spec, 17, height, width)
        back = clip[::-1] if spec.motion in self.turning else np.repeat(clip[-1:], 17, axis=0)
        frames = np.concatenate([clip, np.roll(back, round(self.shift * width), axis=2)[1:]])
        assert len(frames) == num_frames
        yield from np.split((frames * 255).round().astype(np.uint8), [10, 20])

    def _moved(self, spec):
        step = replace(spec, start=(spec.start[0] + self.shift, spec.start[1]))
        return np.concatenate([render(spec, *SIZE)[:9], render(step, *SIZE)[9:]])

    def _inpainted(self, region: RegionOfVideo, prompt: str):
        color = np.float32([0.1, 0.65, 0.15] if "green" in prompt else [0.9, 0.1, 0.1])
        clip = region.video.astype(np.float32) / 255 + self.outside
        clip[:, ~region.keep] = clip[0, -1, -1]
        inside = np.argwhere(~region.keep)
        (top, left), (bottom, right) = inside.min(0) + 8, inside.max(0) - 8
        clip[:, top:bottom, left:right] = color
        return clip


def figures(part: str, pipeline: ConditionedPipeline) -> dict[str, dict]:
    report = evaluate_shapes(pipeline, num_prompts=COUNT, parts=[part], size=SIZE, batch_size=4)
    return {figure["name"]: figure for figure in report["figures"]}


@pytest.mark.parametrize("part", FOLLOWED)
def test_the_true_clip_is_right(part):
    pipeline = ConditionedPipeline()
    found = figures(part, pipeline)
    assert found["distance from the path"]["value"] == pytest.approx(0, abs=1e-3)
    assert found["jump"]["value"] == pytest.approx(0, abs=1e-3)
    assert found["no jump"]["value"] == found["motion"]["value"] == 1
    assert found["given frames PSNR"]["lowest"] == 100
    (first, *rest) = pipeline.given[0]
    clip = render(draw_cases(1)[0].spec, *SIZE)
    if part == "first-and-last-frame":
        assert np.abs(first.image / 255 - clip[0]).max() < 0.01 and first.frame_index == 0
        assert np.abs(rest[0].image / 255 - clip[16]).max() < 0.01 and rest[0].frame_index == -1
    else:
        kept = clip[:9] if part == "extension" else clip[8:]
        assert np.abs(first.video / 255 - kept).max() < 0.01 and not rest
        assert first.frame_index == (0 if part == "extension" else -1)


def test_a_jump_is_measured():
    found = figures("extension", ConditionedPipeline(shift=-0.1))
    assert found["jump"]["value"] == pytest.approx(0.1, abs=0.01)
    assert found["distance from the path"]["value"] == pytest.approx(0.1, abs=0.01)
    assert found["no jump"]["value"] == 0


def test_inpainting_is_measured_outside():
    found = figures("inpainting", ConditionedPipeline())
    # The VAE of this test shifts both sides by the same.
    assert found["outside PSNR"]["lowest"] > 60
    assert found["color"]["count"] == COUNT
    found = figures("inpainting", ConditionedPipeline(outside=0.01))
    assert 38 < found["outside PSNR"]["lowest"] < 42


def test_what_was_in_the_box_is_hidden():
    pipeline = ConditionedPipeline()
    figures("inpainting", pipeline)
    for (region,) in pipeline.given:
        assert region.keep.any() and not region.keep.all()
        assert region.hide
        assert region.video[:, region.keep].std(axis=(0, 1)).max() < 1  # nothing of the shape is left


def test_the_second_prompt_must_be_followed():
    pipeline = ConditionedPipeline()
    found = figures("two-prompts", pipeline)
    still = sum(spec.motion == "still" for spec in pipeline.specs.values())
    assert found["first motion"]["right"] == found["no jump"]["right"] == COUNT
    assert found["second motion"]["right"] == COUNT - still
    (begin, first), (turn, second) = pipeline.given[0]
    assert (begin, turn) == (0, 2) and first != second
    pipeline.turning = ()
    assert figures("two-prompts", pipeline)["second motion"]["right"] == 0
    assert figures("two-prompts", ConditionedPipeline(shift=0.1))["no jump"]["right"] == 0


def test_every_part_can_be_asked_for():
    from ltx_diffusers.cli.evaluate import _PARTS

    assert set(CONDITION_PARTS) <= set(_PARTS.values())
