"""What holds for every condition with every guidance: rows are single videos, order and reuse don't matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.condition_cases import CONDITIONS, GUIDANCES, SIZE, pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_components

from ltx_diffusers import LTXConditionPipeline, RegionOfVideo, VideoCondition
from ltx_diffusers.denoising.samplers import GradientEstimation, samplers
from ltx_diffusers.denoising.state import from_noise
from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.geometry import CompressionRatios, VideoSize, latent_size
from ltx_diffusers.pipelines.media import checked_conditions
from ltx_diffusers.pipelines.media_encoding import build_conditions

PROMPTS = ("a red circle moves", "the blue square", "green", "a white triangle up down")
CALL = {
    "height": SIZE.height,
    "width": SIZE.width,
    "num_frames": SIZE.frames,
    "frame_rate": 20,
    "num_inference_steps": 3,
    "max_sequence_length": 5,
    "output_type": "latent",
}
CLOSE = {"atol": 2e-4, "rtol": 2e-4}
FEW = settings(max_examples=12, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def pipeline() -> LTXConditionPipeline:
    pipeline = LTXConditionPipeline(
        **tiny_components(timestep_conditioning=True, causal=True, statistics=True)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def run(pipeline: LTXConditionPipeline, *numbers: int, **changes) -> torch.Tensor:
    return pipeline(**(CALL | changes), generator=seeds(*numbers)).frames


@pytest.mark.parametrize(("number", "guidance"), [*enumerate(GUIDANCES)])
def test_a_batch_of_every_condition_gives_what_single_calls_give(pipeline, number, guidance):
    """Two prompts of each kind, far apart in the call, so that kinds are grouped and put back in order.

    For time's sake each guidance compares every other kind.
    """
    kinds = [*CONDITIONS, *CONDITIONS]
    own = [CONDITIONS[kind](10 * index) for index, kind in enumerate(kinds)]
    prompts = [PROMPTS[index % len(PROMPTS)] for index in range(len(kinds))]
    call = {"guidance": GUIDANCES[guidance](), "num_inference_steps": 2}
    together = run(pipeline, *range(len(kinds)), prompt=prompts, conditions=own, **call)
    for index in range(len(CONDITIONS) + number % 2, len(kinds), 2):
        alone = run(pipeline, index, prompt=prompts[index], conditions=own[index], **call)
        torch.testing.assert_close(
            together[index : index + 1], alone, **CLOSE, msg=lambda m, k=kinds[index]: f"{k}: {m}"
        )
    assert not torch.isclose(together[1:], together[:-1], atol=1e-3).flatten(1).all(dim=1).any()


@FEW
@given(data=st.data())
def test_calls_drawn_at_random_are_their_single_calls(pipeline, data):
    """Any kinds, videos per prompt, sampler, rule of strengths and start."""
    kinds = data.draw(st.lists(st.sampled_from(sorted(CONDITIONS)), min_size=1, max_size=3), label="kinds")
    count = data.draw(st.integers(1, 2), label="videos per prompt")
    arguments = {
        "guidance": GUIDANCES[data.draw(st.sampled_from(sorted(GUIDANCES)), label="guidance")](),
        "sampler": data.draw(st.sampled_from([None, *samplers.list()]), label="sampler"),
        "strength_rule": data.draw(st.sampled_from(["official", "proportional"]), label="rule"),
        "image_cond_noise_scale": data.draw(st.sampled_from([0.0, 0.15]), label="condition noise"),
    }
    if data.draw(st.booleans(), label="from a video"):
        arguments |= {"initial_video": pictures(SIZE.frames, 99), "denoise_strength": 0.7}
    prompts, own = list(PROMPTS[: len(kinds)]), [CONDITIONS[kind](10 * row) for row, kind in enumerate(kinds)]
    numbers = range(count * len(kinds))
    call = {"prompt": prompts, "conditions": own, "num_videos_per_prompt": count, **arguments}
    together = run(pipeline, *numbers, **call)
    assert torch.equal(run(pipeline, *numbers, **call), together)
    video = data.draw(st.sampled_from(numbers), label="video")
    row = video // count
    alone = run(pipeline, video, prompt=prompts[row], conditions=own[row], **arguments)
    torch.testing.assert_close(together[video : video + 1], alone, **CLOSE)


@FEW
@given(data=st.data())
def test_permuted_conditions_give_the_same_video(pipeline, data):
    compatible = [
        "soft first frame",
        "soft keyframe",
        "two at one frame",
        "clip at the end",
        "reference",
        "no strength",
    ]
    kinds = data.draw(st.lists(st.sampled_from(compatible), min_size=1, max_size=3), label="kinds")
    conditions = [entry for row, kind in enumerate(kinds) for entry in CONDITIONS[kind](row)]
    permuted = data.draw(st.permutations(conditions), label="order")
    results = [run(pipeline, 1, prompt=PROMPTS[0], conditions=order) for order in (conditions, permuted)]
    assert torch.equal(*results)


@pytest.mark.parametrize("output_type", ["latent", "pt", "np", "pil"])
def test_groups_come_back_in_the_callers_order(pipeline, output_type):
    """Everything that a call may give for each prompt or video goes with its prompt."""
    torch.manual_seed(5)
    kinds = ["keyframe", "none", "none", "keyframe"]
    latents = torch.randn(8, 8, 8)
    features = {f"{sign}prompt_embeds": torch.randn(4, 5, 16) for sign in ("", "negative_")} | {
        f"{sign}prompt_attention_mask": torch.ones(4, 5) for sign in ("", "negative_")
    }
    call = {"guidance_scale": 3.0, "output_type": output_type}
    own = [CONDITIONS[kind](row) for row, kind in enumerate(kinds)]
    levels = {
        "decode_timestep": [0.0, 0.02, 0.04, 0.06],
        "decode_noise_scale": [number / 10 for number in range(8)],
    }
    together = run(
        pipeline,
        *range(8),
        conditions=own,
        num_videos_per_prompt=2,
        latents=latents,
        **features,
        **levels,
        **call,
    )
    assert len(together) == 8
    for video in (1, 2, 5, 7):
        row = video // 2
        alone = run(
            pipeline, video, conditions=own[row], latents=latents[video : video + 1],
            **{name: value[row : row + 1] for name, value in features.items()},
            decode_timestep=levels["decode_timestep"][row], decode_noise_scale=levels["decode_noise_scale"][video],
            **call,
        )  # fmt: skip
        if output_type == "pil":
            videos = [
                np.stack([np.asarray(frame, dtype=int) for frame in clip])
                for clip in (together[video], alone[0])
            ]
            assert abs(videos[0] - videos[1]).max() <= 1
        else:
            torch.testing.assert_close(
                torch.as_tensor(together[video : video + 1]), torch.as_tensor(alone), **CLOSE
            )


def test_conditions_without_strength_draw_nothing_for_their_video(pipeline):
    """Noise on given tokens is drawn where something is given; later draws must not depend on other rows."""
    sliver = np.arange(64) * np.ones((32, 1)) < 8  # no whole latent
    nothing_kept = [RegionOfVideo(pictures(SIZE.frames, 0), sliver)]
    call = {"sampler": "euler-ancestral"}
    for own in (
        [CONDITIONS[kind](0) for kind in ("no strength", "first frame")],
        [nothing_kept, CONDITIONS["region"](0)],
    ):
        together = run(pipeline, 1, 2, prompt=list(PROMPTS[:2]), conditions=own, **call)
        alone = run(pipeline, 1, prompt=PROMPTS[0], conditions=own[0], **call)
        torch.testing.assert_close(together[:1], alone, **CLOSE)


def test_groups_share_callbacks_and_stop_together(pipeline):
    seen = []

    def stop(pipe, index, timestep, tensors):
        seen.append(tensors["latents"].shape[0])
        pipe._interrupt = len(seen) == 4
        return {}

    own = [CONDITIONS[kind](0) for kind in ("keyframe", "none", "keyframe")]
    run(pipeline, 0, 1, 2, prompt=list(PROMPTS[:3]), conditions=own, callback_on_step_end=stop)
    assert seen == [2, 2, 2, 1]


@pytest.mark.parametrize("make", [GradientEstimation, lambda: "gradient-estimation"], ids=["object", "name"])
def test_a_sampler_object_serves_many_calls(pipeline, make):
    sampler = make()
    first, second = (run(pipeline, 1, prompt=PROMPTS[0], sampler=sampler) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, run(pipeline, 1, prompt=PROMPTS[0], sampler="gradient-estimation"))
    own = [CONDITIONS[kind](0) for kind in ("keyframe", "none")]
    together = run(pipeline, 3, 1, prompt=[PROMPTS[1], PROMPTS[0]], conditions=own, sampler=sampler)
    torch.testing.assert_close(together[1:], first, **CLOSE)


def test_a_sampler_that_cannot_be_copied_is_refused(pipeline, monkeypatch):
    sampler = GradientEstimation()
    sampler.waiting = (number for number in range(3))
    monkeypatch.setattr(pipeline.text_encoder, "forward", None)
    with pytest.raises(ValueError, match="can't be copied"):
        run(pipeline, 1, prompt=PROMPTS[0], sampler=sampler)


RATIOS = CompressionRatios(8, 32, 32)
STRENGTHS = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(), st.none())


class ZeroVAE:
    """Stands in for the VAE: latents of the right shape."""

    dtype = torch.float32
    latents_mean, latents_std = torch.zeros(4), torch.ones(4)
    config = type("Config", (), {"scaling_factor": 1.0})()

    def encode(self, pixels: torch.Tensor) -> object:
        size = latent_size(VideoSize(*pixels.shape[2:]), RATIOS)
        posterior = type("Posterior", (), {"sample": lambda self, generator: torch.zeros(1, 4, *size)})()
        return type("Output", (), {"latent_dist": posterior})()


@st.composite
def anything(draw: st.DrawFn) -> object:
    """A condition that may or may not be usable."""
    strength = draw(STRENGTHS)
    if draw(st.integers(0, 4)) == 0:
        keep = np.ones(draw(st.sampled_from([(25, 32, 64), (32, 64), (24, 32, 64), (32, 32)])), bool)
        return RegionOfVideo(pictures(draw(st.sampled_from([25, 9])), 1), keep, strength)
    shown = draw(st.sampled_from(["image", "video", "both", "none"]))
    count, sides = (
        draw(st.sampled_from([1, 8, 9, 17, 25, 33])),
        draw(st.sampled_from([(32, 64), (32, 32), (48, 64)])),
    )
    return VideoCondition(
        image=pictures(1, 2, *sides)[0] if shown in ("image", "both") else None,
        video=pictures(count, 3, *sides) if shown in ("video", "both") else None,
        frame_index=draw(st.one_of(st.integers(-30, 30), st.sampled_from([0, 8, 16, -1, 2.0]))),
        strength=strength,
        place=draw(st.sampled_from([None, None, (0, 0), (32, 0), (-32, 0), (8, 0)])),
        prefix=draw(st.sampled_from(["extra", "soft", "drop", "concat"])),
    )


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(given_conditions=st.lists(anything(), max_size=3))
def test_what_passes_the_check_can_be_used_and_the_rest_is_an_input_error(given_conditions):
    try:
        checked = checked_conditions(given_conditions, SIZE, RATIOS)
    except InputError:
        return
    state = from_noise(
        torch.randn(2, 4, *latent_size(SIZE, RATIOS)), Placement(20.0, causal=True, ratios=RATIOS)
    )
    for condition in build_conditions(ZeroVAE(), [checked], SIZE, RATIOS, 2, None, torch.device("cpu")):
        state = condition.apply_to(state)
    assert state.tokens.shape[1] == state.strength.shape[1] == state.coords.shape[2] == 8 + state.num_extra
