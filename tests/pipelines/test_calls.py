"""A call of a pipeline: defaults, callbacks, interrupts, LoRA, and input that is refused before any work."""

from __future__ import annotations

import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import PipelineCallback
from diffusers.pipelines.ltx.pipeline_output import LTXPipelineOutput
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from tiny import TEXT_CHANNELS, tiny_components

from ltx_diffusers import LTXImageToVideoPipeline, LTXPipeline
from ltx_diffusers.errors import InputError
from ltx_diffusers.pipelines.request import Request, with_defaults

SIZE = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 3}
LATENT = SIZE | {"output_type": "latent"}


@pytest.fixture
def pipeline() -> LTXPipeline:
    made = LTXPipeline(**tiny_components())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def image_pipeline() -> LTXImageToVideoPipeline:
    made = LTXImageToVideoPipeline(**tiny_components())
    made.set_progress_bar_config(disable=True)
    return made


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(count: int = 1, tokens: int = 4) -> dict:
    return {
        "prompt_embeds": torch.randn(count, tokens, TEXT_CHANNELS, generator=generator()),
        "prompt_attention_mask": torch.ones(count, tokens, dtype=torch.bool),
    }


# defaults and outputs


def test_defaults_come_from_the_components(pipeline):
    pipeline.transformer.register_to_config(
        default_height=32, default_width=64, default_num_frames=9, default_frame_rate=8.0
    )
    pipeline.scheduler.register_to_config(default_num_inference_steps=2, default_guidance_scale=1.0)
    frames = pipeline("a", output_type="pt").frames
    assert frames.shape == (1, 9, 3, 32, 64)
    assert (pipeline.num_timesteps, pipeline.guidance_scale) == (2, 1.0)
    assert pipeline.do_classifier_free_guidance is False


def test_fallbacks_are_those_of_diffusers():
    names = Request.__dataclass_fields__
    request = with_defaults(Request(**dict.fromkeys(names)), {}, {}, {})
    assert (request.height, request.width, request.num_frames, request.frame_rate) == (512, 704, 161, 25)
    assert (request.num_inference_steps, request.guidance_scale) == (50, 3.0)


@pytest.mark.parametrize("ours", [LTXPipeline, LTXImageToVideoPipeline])
def test_arguments_stand_in_the_order_of_diffusers(ours):
    own = list(inspect.signature(ours.__call__).parameters)
    theirs = list(inspect.signature(getattr(diffusers, ours.__name__).__call__).parameters)
    assert own == [*theirs, "sigmas"]


def test_numpy_numbers_will_do(pipeline):
    size = {name: np.int64(value) for name, value in SIZE.items()}
    frames = pipeline("a", **size, frame_rate=np.float32(25), output_type="latent").frames
    assert frames.shape == (1, 8, 8)


def test_outputs(pipeline):
    output = pipeline("a", **SIZE, generator=generator())
    assert isinstance(output, LTXPipelineOutput)
    assert isinstance(output.frames[0][0], Image.Image)
    (frames,) = pipeline("a", **SIZE, output_type="np", return_dict=False, generator=generator())
    assert frames.shape == (1, 9, 64, 64, 3)
    assert np.abs(frames[0, 3] * 255 - np.asarray(output.frames[0][3])).max() <= 0.51


def test_a_generator_makes_calls_repeatable(pipeline):
    videos = [pipeline("a", **LATENT, generator=generator(seed)).frames for seed in (1, 1, 2)]
    assert torch.equal(videos[0], videos[1])
    assert not torch.equal(videos[0], videos[2])


def test_bfloat16(pipeline):
    reference = pipeline("a red circle", **SIZE, output_type="pt", generator=generator()).frames
    pipeline.to(dtype=torch.bfloat16)
    frames = pipeline("a red circle", **SIZE, output_type="pt", generator=generator()).frames
    assert frames.dtype == torch.bfloat16
    torch.testing.assert_close(frames.float(), reference, atol=0.05, rtol=0)


def test_the_text_encoder_may_be_of_another_type_than_the_transformer(pipeline):
    pipeline.transformer.to(torch.bfloat16)
    assert pipeline("a", **LATENT, generator=generator()).frames.isfinite().all()


def test_no_text_encoder_is_needed_for_features():
    parts = tiny_components() | {"text_encoder": None, "tokenizer": None}
    pipeline = LTXPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(**features(), **LATENT, guidance_scale=1).frames.shape == (1, 8, 8)
    with pytest.raises(InputError, match="no text encoder"):
        pipeline("a", **LATENT)
    with pytest.raises(InputError, match="no text encoder"):
        pipeline(**features(), **LATENT, guidance_scale=3)


# callbacks


def test_a_callback_sees_every_step(pipeline):
    seen = []

    def callback(owner, index, timestep, tensors):
        assert owner is pipeline
        assert owner.current_timestep == timestep
        seen.append((index, {name: tuple(tensor.shape) for name, tensor in tensors.items()}))
        return {}

    pipeline(
        "a",
        **LATENT,
        max_sequence_length=4,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds", "negative_prompt_embeds"],
    )
    shapes = {
        "latents": (1, 8, 8),
        "prompt_embeds": (2, 4, TEXT_CHANNELS),
        "negative_prompt_embeds": (1, 4, TEXT_CHANNELS),
    }
    assert seen == [(index, shapes) for index in range(3)]


def test_a_callback_may_replace_latents(pipeline):
    def callback(owner, index, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])} if index == 2 else tensors

    assert (pipeline("a", **LATENT, callback_on_step_end=callback).frames == 0).all()


def test_a_callback_may_replace_features(pipeline):
    """As in Diffusers, as one batch [negative, positive]; the change holds for the steps that follow."""
    call = LATENT | {"guidance_scale": 4.0, "max_sequence_length": 4}

    def swapped(owner, index, timestep, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"].flip(0)} if index == 0 else {}

    results = [
        pipeline(
            "a red circle",
            "black wall on",
            **call,
            generator=generator(),
            callback_on_step_end=callback,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        ).frames
        for callback in (None, swapped)
    ]
    theirs = diffusers.LTXPipeline(**pipeline.components)
    theirs.set_progress_bar_config(disable=True)
    reference = theirs(
        "a red circle",
        "black wall on",
        **call,
        generator=generator(),
        callback_on_step_end=swapped,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    ).frames
    assert (results[0] - results[1]).abs().max() > 1e-3
    torch.testing.assert_close(results[1], reference, atol=1e-2, rtol=0)  # theirs runs T5 without its mask


def test_a_callback_may_end_guidance(pipeline):
    batches = []
    pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(kwargs["encoder_hidden_states"].shape[0]),
        with_kwargs=True,
    )

    def stop_guiding(owner, index, timestep, tensors):
        owner._guidance_scale = 0.0
        return {"prompt_embeds": tensors["prompt_embeds"][-1:]}

    pipeline(
        "a",
        **LATENT,
        callback_on_step_end=stop_guiding,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    assert batches == [2, 1, 1]


def test_pipeline_callbacks_name_their_own_tensors(pipeline):
    seen = []

    class Watch(PipelineCallback):
        tensor_inputs = ["latents", "prompt_embeds"]

        def callback_fn(self, owner, index, timestep, tensors):
            seen.append(sorted(tensors))
            return tensors

    pipeline("a", **LATENT, callback_on_step_end=Watch(cutoff_step_ratio=None, cutoff_step_index=0))
    assert seen == [["latents", "prompt_embeds"]] * 3


def test_an_interrupt_stops_the_steps(pipeline):
    steps = []

    def callback(owner, index, timestep, tensors):
        steps.append(index)
        owner._interrupt = index == 1
        return {}

    assert pipeline("a", **LATENT, callback_on_step_end=callback).frames.isfinite().all()
    assert steps == [0, 1]
    assert pipeline.interrupt
    steps.clear()
    pipeline("a", **LATENT, callback_on_step_end=lambda *args: steps.append(0))
    assert len(steps) == 3


def test_the_progress_bar_counts_steps(pipeline, monkeypatch):
    class Bar:
        count = 0

        def __enter__(self):
            return self

        def __exit__(self, *problem):
            return None

        def update(self):
            Bar.count += 1

    totals = []
    monkeypatch.setattr(pipeline, "progress_bar", lambda total: totals.append(total) or Bar())
    pipeline("a", **LATENT)
    assert (totals, Bar.count) == ([3], 3)


# LoRA


def test_lora_loads_scales_and_unloads(pipeline, tmp_path):
    plain = pipeline("a", **LATENT, generator=generator()).frames
    donor = LTXPipeline(**tiny_components()).transformer
    donor.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    LTXPipeline.save_lora_weights(
        tmp_path, transformer_lora_layers=get_peft_model_state_dict(donor), safe_serialization=True
    )

    pipeline.load_lora_weights(tmp_path, adapter_name="test")
    assert pipeline.get_active_adapters() == ["test"]
    adapted = pipeline("a", **LATENT, generator=generator()).frames
    assert (adapted - plain).abs().max() > 1e-4
    reference = LTXPipeline(**(pipeline.components | {"transformer": donor}))
    reference.set_progress_bar_config(disable=True)
    torch.testing.assert_close(adapted, reference("a", **LATENT, generator=generator()).frames)

    off = pipeline("a", **LATENT, generator=generator(), attention_kwargs={"scale": 0.0}).frames
    torch.testing.assert_close(off, plain)
    pipeline.set_adapters("test", 0.0)
    torch.testing.assert_close(pipeline("a", **LATENT, generator=generator()).frames, plain)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(pipeline("a", **LATENT, generator=generator()).frames, plain)


# offloading


def test_offload_order(pipeline):
    assert pipeline.model_cpu_offload_seq == "text_encoder->transformer->vae"


def test_hooks_are_freed_after_a_call(pipeline, monkeypatch):
    freed = []
    monkeypatch.setattr(pipeline, "maybe_free_model_hooks", lambda: freed.append(True))
    pipeline("a", **LATENT)
    assert freed == [True]


# bad input

ONE_LATENT = torch.zeros(1, 8, 8)
BAD_CALLS = {
    "height": ({"height": 65}, "height must be a positive multiple of 32"),
    "width": ({"width": 50}, "use 32 or 64"),
    "frames": ({"num_frames": 10}, "use 9 or 17"),
    "fractional size": ({"height": 64.0}, "whole number"),
    "no frames": ({"num_frames": 0}, "num_frames"),
    "steps": ({"num_inference_steps": 0}, "num_inference_steps"),
    "frame rate": ({"frame_rate": 0}, "frame_rate"),
    "guidance": ({"guidance_scale": -1}, "guidance_scale"),
    "guidance nan": ({"guidance_scale": float("nan")}, "guidance_scale"),
    "rescale": ({"guidance_rescale": 2}, "guidance_rescale"),
    "no prompt": ({"prompt": None}, "neither"),
    "two prompts": (features(), "both"),
    "prompt type": ({"prompt": 3}, "prompt must be a string"),
    "prompt list": ({"prompt": ["a", 3]}, "prompt must be a string"),
    "no texts": ({"prompt": []}, "prompt must be a string"),
    "negatives": ({"negative_prompt": ["a", "b"]}, "one for each prompt"),
    "negative type": ({"negative_prompt": 1}, "negative_prompt must be a string"),
    "two negatives": ({"negative_prompt": "a", "negative_prompt_embeds": torch.zeros(1, 4, 16)}, "two negative"),
    "mask alone": ({"negative_prompt_attention_mask": torch.ones(1, 4)}, "without negative_prompt_embeds"),
    "no mask": ({"prompt": None, "prompt_embeds": torch.zeros(1, 4, 16)}, "needs a prompt_attention_mask"),
    "mask shape": (
        {"prompt": None, "prompt_embeds": torch.zeros(1, 4, 16), "prompt_attention_mask": torch.ones(1, 5)},
        r"expected \(1, 4\)",
    ),
    "features": (
        {"prompt": None, "prompt_embeds": torch.zeros(1, 4, 5), "prompt_attention_mask": torch.ones(1, 4)},
        "wrong shape",
    ),
    "features differ": (
        features() | {"prompt": None}
        | {"negative_prompt_embeds": torch.zeros(1, 3, 16), "negative_prompt_attention_mask": torch.ones(1, 3)},
        "differ in shape",
    ),
    "negative count": (
        {"negative_prompt_embeds": torch.zeros(2, 4, 16), "negative_prompt_attention_mask": torch.ones(2, 4)},
        "one entry for each prompt",
    ),
    "generators": ({"generator": [torch.Generator()] * 2}, "one for each video"),
    "generator": ({"generator": 42}, "torch.Generator"),
    "videos": ({"num_videos_per_prompt": 0}, "num_videos_per_prompt"),
    "latents": ({"latents": torch.zeros(1, 7, 8)}, r"expected \(1, 8, 8\)"),
    "both lists": ({"timesteps": [1000.0], "sigmas": [1.0]}, "both timesteps and sigmas"),
    "rising sigmas": ({"num_inference_steps": None, "sigmas": [0.5, 0.9]}, "0.9"),
    "timesteps": ({"num_inference_steps": None, "timesteps": [2000, 1000]}, "2"),
    "steps and sigmas": ({"sigmas": [1.0, 0.5]}, "number of steps differs"),
    "decode level": ({"decode_timestep": 1.5}, "decode_timestep must be in"),
    "decode list": ({"decode_noise_scale": [0.1, 0.1]}, "one for each prompt"),
    "output": ({"output_type": "gif"}, "output_type"),
    "callback": ({"callback_on_step_end_tensor_inputs": ["noise"]}, "unknown tensors"),
    "length": ({"max_sequence_length": 0}, "max_sequence_length"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_refused_before_any_work(pipeline, monkeypatch, name):
    changes, message = BAD_CALLS[name]

    def heavy(*args, **kwargs):
        raise AssertionError("work was done")

    for part in ("text_encoder", "transformer", "vae"):
        monkeypatch.setattr(getattr(pipeline, part), "forward", heavy)
    with pytest.raises(InputError, match=message):
        pipeline(**(SIZE | {"prompt": "a"} | changes))


def test_encoding_alone_refuses_bad_input_too(pipeline):
    embeds = torch.zeros(1, 4, TEXT_CHANNELS)
    mask = torch.ones(1, 4)
    with pytest.raises(InputError, match="needs a prompt_attention_mask"):
        pipeline.encode_prompt(None, prompt_embeds=embeds)
    with pytest.raises(InputError, match="needs a negative_prompt_attention_mask"):
        pipeline.encode_prompt("a", negative_prompt_embeds=embeds)
    with pytest.raises(InputError, match="a prompt is needed"):
        pipeline.encode_prompt(None)
    pipeline.register_modules(text_encoder=None)
    with pytest.raises(InputError, match="no text encoder"):
        pipeline.encode_prompt("a")
    encoded = pipeline.encode_prompt(
        None, do_classifier_free_guidance=False, prompt_embeds=embeds, prompt_attention_mask=mask
    )
    assert encoded[0].shape == embeds.shape
    assert encoded[1].tolist() == mask.tolist()


BAD_IMAGES = {
    "none": (None, "needs an image"),
    "type": ("picture.png", "PIL image"),
    "empty": ([], "no image"),
    "count": ([Image.new("RGB", (8, 8))] * 2, "one for each prompt"),
    "layout": (np.zeros((3, 8, 8), dtype=np.uint8), "wrong shape"),
    "tensor layout": (torch.zeros(8, 8, 3), "wrong shape"),
    "range": (torch.full((3, 8, 8), -1.0), "out of range"),
    "integers": (np.full((8, 8, 3), 300), "out of range"),
    "nan": (torch.full((3, 8, 8), float("nan")), "out of range"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_refused(image_pipeline, monkeypatch, name):
    image, message = BAD_IMAGES[name]
    monkeypatch.setattr(image_pipeline.text_encoder, "forward", lambda *args: pytest.fail("work was done"))
    with pytest.raises(InputError, match=message):
        image_pipeline(image, "a", **SIZE)


def test_a_transformer_with_patches_is_refused():
    pipeline = LTXPipeline(**tiny_components())
    pipeline.transformer.register_to_config(patch_size=2)
    with pytest.raises(InputError, match="one latent per token"):
        pipeline("a", **SIZE)
