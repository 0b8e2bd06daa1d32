"""`LTXEditPipeline` on tiny random weights: what it computes, batches, and bad input."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import tiny_components
from torch import Tensor

from ltx_diffusers import LTXEditPipeline
from ltx_diffusers.denoising.editing import FlowEdit, RFInversion
from ltx_diffusers.errors import InputError, UnknownNameError
from ltx_diffusers.functional.latents import pack_latents

VIDEO = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 3), dtype=np.uint8)
CALL = {
    "video": VIDEO,
    "prompt": "a red circle moves left",
    "source_prompt": "a blue square moves right",
    "editor": FlowEdit(strength=0.99),
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
    "output_type": "latent",
}


@pytest.fixture(scope="module")
def pipe() -> LTXEditPipeline:
    pipe = LTXEditPipeline(**tiny_components(causal=True, statistics=True))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def edit(pipe: LTXEditPipeline, **changes) -> Tensor:
    return pipe(**{"generator": seeded(), **CALL, **changes}).frames


def mean_latents(pipe: LTXEditPipeline) -> Tensor:
    pixels = torch.from_numpy(VIDEO).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad():
        mean = pipe.vae.encode(pixels).latent_dist.mode()
    shape = (1, -1, 1, 1, 1)
    return (mean - pipe.vae.latents_mean.view(shape)) / pipe.vae.latents_std.view(shape)


def test_equal_prompts_and_guidance_give_back_the_video(pipe) -> None:
    edited = edit(pipe, source_prompt=CALL["prompt"], source_guidance_scale=3.0)
    torch.testing.assert_close(edited, mean_latents(pipe))


def test_a_flow_edit_is_the_models_guided_velocities(pipe) -> None:
    """Step by step with the transformer itself: both prompts with their scales, the right coordinates and levels."""
    embeds, mask, negative, negative_mask = pipe.encode_prompt(
        [CALL["prompt"], CALL["source_prompt"]], "a wall", max_sequence_length=16
    )
    source = pack_latents(mean_latents(pipe))
    pipe.scheduler.set_timesteps(4, num_tokens=source.shape[1])
    levels = [*(pipe.scheduler.timesteps / 1000).tolist(), 0.0]

    @torch.no_grad()
    def velocity(tokens: Tensor, level: float, row: int, scale: float) -> Tensor:
        def predict(text: Tensor, text_mask: Tensor) -> Tensor:
            return pipe.transformer(
                hidden_states=tokens,
                encoder_hidden_states=text[row : row + 1],
                timestep=torch.tensor([1000 * level]),
                encoder_attention_mask=text_mask[row : row + 1],
                num_frames=2,
                height=2,
                width=3,
                frame_rate=24.0,
                return_dict=False,
            )[0]

        without = predict(negative, negative_mask)
        return without + scale * (predict(embeds, mask) - without)

    generator, edited = seeded(), source
    for level, following in list(pairwise(levels))[1:]:  # from 0.99 on
        noise = torch.randn(source.shape, generator=generator)
        noisy = (1 - level) * source + level * noise
        change = velocity(edited + noisy - source, level, 0, 3.0) - velocity(noisy, level, 1, 1.5)
        edited = edited + (following - level) * change
    ours = edit(pipe, frame_rate=24.0, negative_prompt="a wall", max_sequence_length=16)
    torch.testing.assert_close(pack_latents(ours), edited, atol=1e-5, rtol=1e-5)


def test_rf_inversion_held_to_the_end_gives_back_the_video(pipe) -> None:
    edited = edit(pipe, editor=RFInversion(eta=1.0, stop=0.0), guidance_scale=1.0)
    torch.testing.assert_close(edited, mean_latents(pipe))


def test_rf_inversion_inverts_under_the_source_prompt(pipe) -> None:
    first, other = (edit(pipe, editor="rf-inversion", source_prompt=text) for text in ("", "a red wall"))
    assert not torch.allclose(first, other, atol=1e-4)


@pytest.mark.parametrize("editor", [CALL["editor"], "rf-inversion"], ids=["flow-edit", "rf-inversion"])
def test_batches_give_what_single_calls_give(pipe, editor) -> None:
    prompts, sources = ["a red circle", "the white wall moves"], ["a green circle", "a black wall"]
    generators = [seeded(seed) for seed in range(4)]
    together = edit(
        pipe,
        editor=editor,
        prompt=prompts,
        source_prompt=sources,
        num_videos_per_prompt=2,
        generator=generators,
    )
    for index in range(4):
        alone = edit(
            pipe,
            editor=editor,
            prompt=prompts[index // 2],
            source_prompt=sources[index // 2],
            generator=seeded(index),
        )
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=1e-5)


def test_the_same_seed_gives_the_same_video(pipe) -> None:
    assert torch.equal(edit(pipe), edit(pipe))
    assert not torch.equal(edit(pipe), edit(pipe, generator=seeded(1)))


def test_texts_as_features_give_what_texts_give(pipe) -> None:
    embeds, mask, negative, negative_mask = pipe.encode_prompt(CALL["prompt"], "")
    source, source_mask, _, _ = pipe.encode_prompt(CALL["source_prompt"], None, False)
    features = {
        "prompt": None,
        "source_prompt": "",
        "prompt_embeds": embeds,
        "prompt_attention_mask": mask,
        "source_prompt_embeds": source,
        "source_prompt_attention_mask": source_mask,
        "negative_prompt_embeds": negative,
        "negative_prompt_attention_mask": negative_mask,
    }
    torch.testing.assert_close(edit(pipe, **features), edit(pipe), atol=1e-5, rtol=1e-5)


def test_guidance_under_the_source_prompt_is_a_share_of_the_targets(pipe) -> None:
    assert torch.equal(edit(pipe), edit(pipe, source_guidance_scale=1.5))
    assert not torch.equal(edit(pipe), edit(pipe, source_guidance_scale=3.0))


def test_an_unguided_model_runs_no_negative_pass(pipe) -> None:
    rows = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["hidden_states"].shape[0]), with_kwargs=True
    )
    edit(pipe, guidance_scale=1.0)
    hook.remove()
    assert rows == [1] * 6  # 3 steps, target and source


def test_the_video_is_decoded(pipe) -> None:
    frames = edit(pipe, output_type="np", editor="flow-edit")
    assert frames.shape == (1, 9, 64, 96, 3)
    assert 0 <= frames.min() < frames.max() <= 1


def test_a_callback_watches_and_stops(pipe) -> None:
    seen = []

    def callback(pipe, index, timestep, tensors):
        seen.append((index, float(timestep), tensors["latents"]))
        pipe._interrupt = index == 1
        return tensors

    stopped = edit(pipe, callback_on_step_end=callback)
    assert [index for index, _, _ in seen] == [0, 1]
    assert seen[0][1] > seen[1][1]
    assert torch.equal(pack_latents(stopped), seen[1][2])
    with pytest.raises(InputError, match="can't change"):
        edit(pipe, callback_on_step_end=lambda pipe, i, t, tensors: {"latents": tensors["latents"] + 1})


@pytest.mark.parametrize("only_watches", [False, True])
def test_a_callback_that_only_watches_costs_nothing(pipe, only_watches: bool) -> None:
    def watch(pipe, index, timestep, tensors):
        return {}

    watch.only_watches = only_watches
    texts = []
    hook = pipe.transformer.caption_projection.register_forward_pre_hook(lambda *args: texts.append(1))
    edit(pipe, callback_on_step_end=watch)
    hook.remove()
    # Under each prompt once, or once a step.
    assert len(texts) == (2 if only_watches else 2 * pipe.num_timesteps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": VIDEO[:8]}, "8"),
        ({"video": VIDEO[:, :50]}, "32"),
        ({"video": [VIDEO[0], VIDEO[1, :32]]}, "one size"),
        ({"video": "file.mp4"}, "image"),
        ({"prompt": None}, "prompt is needed"),
        ({"source_prompt": ["a", "b"]}, "one for each prompt"),
        ({"source_prompt": None}, "string or a list"),
        ({"source_prompt_attention_mask": torch.ones(1, 4)}, "without source_prompt_embeds"),
        ({"source_guidance_scale": -1.0}, "source_guidance_scale"),
        ({"editor": FlowEdit}, "object like"),
        ({"editor": FlowEdit(strength=0.01)}, "no step of the schedule"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "unknown tensors"),
    ],
)
def test_bad_input_is_refused_before_any_model_runs(pipe, monkeypatch, changes: dict, message: str) -> None:
    def fail(*args, **kwargs):
        raise AssertionError("a model ran")

    for model in (pipe.transformer, pipe.vae, pipe.text_encoder):
        monkeypatch.setattr(model, "forward", fail)
    monkeypatch.setattr(pipe.vae, "encode", fail)
    with pytest.raises(InputError, match=message):
        edit(pipe, **changes)


def test_an_unknown_editor_is_answered_with_near_names(pipe) -> None:
    with pytest.raises(UnknownNameError, match="did you mean flow-edit"):
        edit(pipe, editor="flowedit")
