"""What holds for every condition with every guidance: rows are single videos, order and reuse don't matter."""

from __future__ import annotations

import pytest
import torch
from helpers.condition_cases import CONDITIONS, GUIDANCES, SIZE, pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_components

from ltx_diffusers import LTXConditionPipeline
from ltx_diffusers.denoising.samplers import GradientEstimation, samplers

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


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_a_batch_of_every_condition_gives_what_single_calls_give(pipeline, guidance):
    """Two prompts of each kind, far apart in the call, so that kinds are grouped and put back in order."""
    kinds = [*CONDITIONS, *CONDITIONS]
    own = [CONDITIONS[kind](10 * index) for index, kind in enumerate(kinds)]
    prompts = [PROMPTS[index % len(PROMPTS)] for index in range(len(kinds))]
    given = GUIDANCES[guidance]()
    together = run(pipeline, *range(len(kinds)), prompt=prompts, conditions=own, guidance=given)
    for index in range(len(CONDITIONS), len(kinds)):
        alone = run(pipeline, index, prompt=prompts[index], conditions=own[index], guidance=given)
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
    kinds = ["keyframe", "none", "keyframe"]
    latents = torch.randn(6, 8, 8)
    features = {f"{sign}prompt_embeds": torch.randn(3, 5, 16) for sign in ("", "negative_")} | {
        f"{sign}prompt_attention_mask": torch.ones(3, 5) for sign in ("", "negative_")
    }
    call = {"guidance_scale": 3.0, "output_type": output_type}
    own = [CONDITIONS[kind](row) for row, kind in enumerate(kinds)]
    levels = {"decode_timestep": [0.0, 0.02, 0.04], "decode_noise_scale": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]}
    together = run(
        pipeline,
        *range(6),
        conditions=own,
        num_videos_per_prompt=2,
        latents=latents,
        **features,
        **levels,
        **call,
    )
    assert len(together) == 6
    for video in (1, 2, 5):
        row = video // 2
        alone = run(
            pipeline, video, conditions=own[row], latents=latents[video : video + 1],
            **{name: value[row : row + 1] for name, value in features.items()},
            decode_timestep=levels["decode_timestep"][row], decode_noise_scale=levels["decode_noise_scale"][video],
            **call,
        )  # fmt: skip
        if output_type == "pil":
            differences = [
                abs(torch.tensor(list(a.tobytes())) - torch.tensor(list(b.tobytes()))).max()
                for a, b in zip(together[video][:3], alone[0][:3], strict=True)
            ]
            assert max(differences) <= 1 or all(d == 255 for d in differences)
        else:
            torch.testing.assert_close(
                torch.as_tensor(together[video : video + 1]), torch.as_tensor(alone), **CLOSE
            )


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
