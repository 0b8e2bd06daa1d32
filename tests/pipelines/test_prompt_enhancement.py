"""Prompts written out: by tiny random chat models, of text and of pictures, and by functions in the pipelines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.chat_models import NO_SYSTEM, image_enhancer, text_enhancer
from PIL import Image
from tiny import tiny_components

from ltx_diffusers import LTXConditionPipeline, PromptEnhancer, VideoCondition
from ltx_diffusers.errors import InputError
from ltx_diffusers.pipelines.prompt_enhancement import (
    IMAGE_INSTRUCTIONS,
    TEXT_INSTRUCTIONS,
    WORD_LIMIT,
    asked_once,
    cleaned,
    whole_sentences,
)

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def seen_by(enhancer: PromptEnhancer, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What the model is asked, call by call."""
    seen = []
    generate = enhancer.model.generate

    def watched(**inputs):
        seen.append(inputs)
        return generate(**inputs)

    monkeypatch.setattr(enhancer.model, "generate", watched)
    return seen


def asked(enhancer: PromptEnhancer, inputs: dict) -> str:
    words = getattr(enhancer.processor, "tokenizer", enhancer.processor)
    return words.decode(inputs["input_ids"][0])


# chat models


def test_the_answer_is_what_the_model_says_after_the_chat(monkeypatch) -> None:
    """Oracle: the likeliest token, one after the other, by plain runs of the model."""
    enhancer = text_enhancer()
    seen = seen_by(enhancer, monkeypatch)
    written = enhancer("a red kite")
    chat = asked(enhancer, seen[0])
    assert chat.startswith("<system> You turn a short idea")
    assert chat.endswith("<eos> <user> a red kite <eos> <assistant>")
    ids = seen[0]["input_ids"]
    for _ in range(12):
        with torch.no_grad():
            following = enhancer.model(ids).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], dim=1)
    answer = enhancer.processor.decode(ids[0, seen[0]["input_ids"].shape[1] :], skip_special_tokens=True)
    assert written == whole_sentences(cleaned(answer))


def test_prompts_together_get_what_they_get_alone() -> None:
    enhancer = text_enhancer()
    prompts = ["a red kite", "blue"]
    assert enhancer(prompts) == [enhancer(prompts[0]), enhancer(prompts[1])]
    assert enhancer(prompts)[0] != enhancer(prompts)[1]


def test_draws_depend_on_the_seed_alone_and_leave_torchs_numbers() -> None:
    first, again, other = (text_enhancer(temperature=2.0, seed=seed) for seed in (1, 1, 2))
    torch.rand(1)
    before = torch.get_rng_state()
    written = first("a red kite")
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert again("a red kite") == written
    assert other("a red kite") != written


def test_instructions_go_to_the_user_where_a_model_knows_no_system(monkeypatch) -> None:
    enhancer = text_enhancer(NO_SYSTEM, text_instructions="one paragraph")
    seen = seen_by(enhancer, monkeypatch)
    enhancer("a red kite")
    assert asked(enhancer, seen[0]) == "<user> one paragraph a red kite <eos> <assistant>"


def test_a_model_of_pictures_sees_the_picture_in_every_form(monkeypatch) -> None:
    enhancer = image_enhancer()
    assert enhancer.reads_images
    seen = seen_by(enhancer, monkeypatch)
    tensor = torch.from_numpy(PICTURE).permute(2, 0, 1) / 255
    written = [enhancer("a red kite", image) for image in (PICTURE, Image.fromarray(PICTURE), tensor)]
    assert len(set(written)) == 1
    assert "The picture is the first frame" in asked(enhancer, seen[0])
    assert torch.equal(seen[0]["pixel_values"], seen[2]["pixel_values"])
    enhancer("a red kite", 255 - PICTURE)
    assert not torch.equal(seen[0]["pixel_values"], seen[3]["pixel_values"])


def test_without_a_picture_it_is_a_model_of_text(monkeypatch) -> None:
    enhancer = image_enhancer()
    seen = seen_by(enhancer, monkeypatch)
    enhancer(["a red kite", "blue"], [None, PICTURE])
    assert "pixel_values" not in seen[0]
    assert "You turn a short idea" in asked(enhancer, seen[0])
    assert "pixel_values" in seen[1]


def test_a_model_of_text_does_without_the_picture() -> None:
    assert text_enhancer()("a red kite", PICTURE) == text_enhancer()("a red kite")


@pytest.mark.parametrize("build", [text_enhancer, image_enhancer])
def test_a_saved_chat_model_is_loaded(build, tmp_path: Path) -> None:
    enhancer = build()
    enhancer.model.save_pretrained(tmp_path)
    enhancer.processor.save_pretrained(tmp_path)
    loaded = PromptEnhancer.from_pretrained(tmp_path, max_new_tokens=12)
    assert loaded.reads_images == enhancer.reads_images
    assert loaded("a red kite", PICTURE) == enhancer("a red kite", PICTURE)


def test_models_that_cannot_chat_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without a chat template"):
        text_enhancer(template=None)
    with pytest.raises(InputError, match="can't be loaded"):
        PromptEnhancer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((" ",), "must be a text"),
        ((["a", 3],), "must be a text"),
        ((["a", "b"], [PICTURE]), "one for each prompt"),
        (("a", [PICTURE[None].repeat(2, axis=0)]), "one picture"),
    ],
)
def test_bad_input_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        text_enhancer()(*arguments)


@pytest.mark.parametrize("settings", [{"max_new_tokens": 0}, {"temperature": -1.0}])
def test_numbers_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(InputError, match="at least"):
        text_enhancer(**settings)


def test_an_empty_answer_is_an_error(monkeypatch) -> None:
    enhancer = text_enhancer()
    monkeypatch.setattr(enhancer.model, "generate", lambda **inputs: inputs["input_ids"])
    with pytest.raises(InputError, match="gave no prompt"):
        enhancer("a red kite")


# texts


def test_the_instructions_name_the_limit() -> None:
    assert f"{WORD_LIMIT} words" in TEXT_INSTRUCTIONS
    assert f"{WORD_LIMIT} words" in IMAGE_INSTRUCTIONS


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("  A kite\n\nflies.  ", "A kite flies."),
        ('"A kite flies."', "A kite flies."),
        ("\u201cA kite\u201d flies", "\u201cA kite\u201d flies"),
        ("'It's a kite.'", "It's a kite."),
        ("<think>Hm.\nWell.</think>\nA kite flies.", "A kite flies."),
        ("<think>Hm, and so on", ""),
        ('""', ""),
    ],
)
def test_answers_are_cleaned(answer: str, text: str) -> None:
    assert cleaned(answer) == text


@pytest.mark.parametrize(
    ("cut", "whole"), [("A kite. It fl", "A kite."), ("A kite", "A kite"), ("Up! A", "Up!")]
)
def test_cut_answers_end_with_a_sentence(cut: str, whole: str) -> None:
    assert whole_sentences(cut) == whole


# in the pipelines


@pytest.fixture(scope="module")
def pipe() -> LTXConditionPipeline:
    pipe = LTXConditionPipeline(**tiny_components(causal=True))
    pipe.set_progress_bar_config(disable=True)
    return pipe


CALL = {"height": 64, "width": 96, "num_frames": 9, "num_inference_steps": 2, "output_type": "latent"}


def make(pipe: LTXConditionPipeline, **changes) -> torch.Tensor:
    return pipe(generator=torch.Generator().manual_seed(0), **{**CALL, **changes}).frames


def test_a_pipeline_makes_the_video_of_the_prompt_written_out(pipe) -> None:
    def enhance(prompts: list[str], images: list | None = None) -> list[str]:
        assert images is None
        return [f"{prompt} moves left" for prompt in prompts]

    written = make(pipe, prompt=["a red circle", "a wall"], prompt_enhancer=enhance)
    assert torch.equal(written, make(pipe, prompt=["a red circle moves left", "a wall moves left"]))
    assert not torch.equal(written, make(pipe, prompt=["a red circle", "a wall"]))


def test_the_enhancer_sees_first_frames_only(pipe) -> None:
    seen = []

    def enhance(prompts: list[str], images: list | None = None) -> list[str]:
        seen.append(images)
        return prompts

    clip = np.stack([PICTURE.repeat(2, axis=0).repeat(2, axis=1)] * 9)
    last = VideoCondition(image=PICTURE, frame_index=-1)
    given = [[VideoCondition(image=PICTURE), last], [last]]
    make(pipe, prompt=["a red circle", "a wall"], conditions=given, prompt_enhancer=enhance)
    expected = torch.from_numpy(PICTURE).permute(2, 0, 1)
    assert torch.equal(seen[0][0], expected)
    assert seen[0][1] is None
    make(pipe, prompt="a wall", video=clip, prompt_enhancer=enhance)
    assert seen[1][0].shape == (3, 64, 96)
    make(pipe, prompt="a wall", image=PICTURE, frame_index=-1, prompt_enhancer=enhance)
    assert seen[2] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_enhancer": "llama"}, "PromptEnhancer or a function"),
        ({"prompt_enhancer": lambda prompts, images=None: prompts[:-1]}, "a text for each prompt"),
        ({"prompt_enhancer": lambda prompts, images=None: [""]}, "a text for each prompt"),
        ({"prompt_enhancer": lambda prompts, images=None: "a wall"}, "a text for each prompt"),
        ({"height": 50, "prompt_enhancer": lambda *given: pytest.fail("asked")}, "multiple of 32"),
    ],
)
def test_what_cannot_be_used_is_refused(pipe, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(pipe, prompt="a red circle", **changes)


def test_features_cannot_be_written_out(pipe) -> None:
    embeds, mask, negative, negative_mask = pipe.encode_prompt("a wall")
    features = {
        "prompt_embeds": embeds,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": negative,
        "negative_prompt_attention_mask": negative_mask,
    }
    with pytest.raises(InputError, match="as a text"):
        make(pipe, **features, prompt_enhancer=lambda prompts, images=None: prompts)


def test_several_passes_ask_once() -> None:
    answers = iter([["a wall"], ["a circle"]])
    enhance = asked_once(lambda prompts, images=None: next(answers))
    assert enhance(["red"]) == enhance(["red"], [PICTURE]) == ["a wall"]
    with pytest.raises(InputError, match="a function"):
        asked_once("llama")
