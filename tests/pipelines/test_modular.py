"""The blocks: equal to LTXConditionPipeline bit for bit, alone, composed with others', saved and loaded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import LTXPipeline as DiffusersPipeline
from diffusers.guiders import ClassifierFreeZeroStarGuidance
from diffusers.modular_pipelines import (
    InputParam,
    ModularPipelineBlocks,
    OutputParam,
    SequentialPipelineBlocks,
)
from diffusers.modular_pipelines.ltx.decoders import LTXVaeDecoderStep
from diffusers.modular_pipelines.ltx.encoders import LTXTextEncoderStep
from helpers.loras import largest_error, output, saved
from helpers.loras import pipeline as lora_pipeline
from tiny import tiny_components

from ltx_diffusers import (
    LTXConditionBlocks,
    LTXConditionModularPipeline,
    LTXConditionPipeline,
    LTXTransformer3DModel,
    RegionOfVideo,
    VideoCondition,
)
from ltx_diffusers.denoising.guidance import SpatioTemporalGuidance
from ltx_diffusers.errors import InputError
from ltx_diffusers.pipelines.modular.parameters import DEFAULTS, DESCRIPTIONS

FRAMES, HEIGHT, WIDTH = 17, 64, 96
CALL = {
    "prompt": "a red circle moves",
    "height": HEIGHT,
    "width": WIDTH,
    "num_frames": FRAMES,
    "frame_rate": 20,
    "num_inference_steps": 3,
    "max_sequence_length": 5,
    "output_type": "np",
}


@pytest.fixture(scope="module")
def pipeline() -> LTXConditionPipeline:
    pipeline = LTXConditionPipeline(
        **tiny_components(timestep_conditioning=True, causal=True, statistics=True)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def modular(pipeline) -> LTXConditionModularPipeline:
    return quiet(LTXConditionModularPipeline.from_pipe(pipeline))


def quiet(modular):
    modular.set_progress_bar_config(disable=True)
    return modular


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def seeded(*numbers: int):
    generators = [torch.Generator().manual_seed(number) for number in numbers]
    return generators if len(numbers) > 1 else generators[0]


def videos(modular, *seeds: int, **changes) -> np.ndarray:
    return modular(**(CALL | changes), generator=seeded(*(seeds or (0,))), output="videos")


def expected(pipeline, *seeds: int, **changes) -> np.ndarray:
    return pipeline(**(CALL | changes), generator=seeded(*(seeds or (0,)))).frames


@torch.no_grad()
def features(pipeline, prompt: str) -> dict:
    names = (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    )
    return dict(zip(names, pipeline.encode_prompt(prompt, max_sequence_length=5), strict=True))


CALLS = {
    "text": {},
    "unguided": {"guidance_scale": 1.0},
    "picture": {"image": pictures(1)[0]},
    "mixture": {
        "conditions": [
            VideoCondition(image=pictures(1)[0], crf=29),
            VideoCondition(image=pictures(1, 1)[0], frame_index=-1, strength=0.5),
            RegionOfVideo(pictures(FRAMES, 2), np.tri(HEIGHT, WIDTH) > 0, strength=0.7),
        ],
        "strength_rule": "proportional",
        "sampler": "heun",
    },
    "video to video": {"initial_video": pictures(FRAMES, 3), "denoise_strength": 0.7},
    "guidance": {"guidance": SpatioTemporalGuidance(3.0, rescale=0.5, stg_scale=1.0, stg_blocks=(1,))},
    "guider": {"guidance": ClassifierFreeZeroStarGuidance(3.0)},
    "sigmas": {"sigmas": [1.0, 0.7, 0.2], "num_inference_steps": None, "tone_map_compression": 0.5},
    "preset": {"preset": "2b-distilled-0.9.8", "num_inference_steps": None},
    "enhancer": {"prompt_enhancer": lambda prompts, pictures: [f"{text} on black" for text in prompts]},
    "latent": {"output_type": "latent"},
}


@pytest.mark.parametrize("name", CALLS)
def test_the_blocks_give_the_pipelines_bits(pipeline, modular, name):
    made, given = videos(modular, **CALLS[name]), expected(pipeline, **CALLS[name])
    assert np.array_equal(made, given) and made.shape[0] == 1


def test_a_batch_gives_the_pipelines_bits(pipeline, modular):
    batch = {
        "prompt": ["a red circle", "a blue square moves"],
        "negative_prompt": ["the wall", "black"],
        "conditions": [[VideoCondition(image=pictures(1, seed)[0])] for seed in (5, 6)],
        "num_videos_per_prompt": 2,
        "decode_timestep": [0.1, 0.2],
    }
    seeds = (0, 1, 2, 3)
    assert np.array_equal(videos(modular, *seeds, **batch), expected(pipeline, *seeds, **batch))


def test_features_in_place_of_texts(pipeline, modular):
    given = features(pipeline, "a red circle moves") | {"prompt": None}
    assert np.array_equal(videos(modular, **given), expected(pipeline))


def test_each_block_runs_alone_and_states_are_handed_on(pipeline, modular):
    blocks = modular.blocks.sub_blocks
    parts = [
        SequentialPipelineBlocks.from_blocks_dict({name: blocks[name]})
        for name in blocks
        if name != "settings"
    ]
    # What the settings block would fill in is given, and the condition alone goes to its block.
    call = CALL | {"image": pictures(1)[0], "generator": seeded(0)}
    state = None
    for part in parts:
        alone = quiet(LTXConditionModularPipeline.from_pipe(pipeline, part))
        names = {entry.name for entry in part.inputs}
        state = alone(state=state, **{name: value for name, value in call.items() if name in names})
        call["generator"] = state.get("generator") or call["generator"]
    assert np.array_equal(state.get("videos"), expected(pipeline, image=pictures(1)[0]))


def test_text_and_decoding_need_only_their_components(pipeline):
    blocks = LTXConditionBlocks().sub_blocks
    text = LTXConditionModularPipeline(
        SequentialPipelineBlocks.from_blocks_dict({"text": blocks["text_encoder"]})
    )
    assert set(text.component_names) == {"text_encoder", "tokenizer"}
    text.update_components(text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer)
    embeds = text(prompt="a red circle moves", max_sequence_length=5, output="prompt_embeds")
    assert torch.equal(embeds, features(pipeline, "a red circle moves")["prompt_embeds"])
    again = text(
        prompt="a", prompt_embeds=embeds, prompt_attention_mask=embeds[..., 0], max_sequence_length=5
    )
    assert not torch.equal(again.get("prompt_embeds"), embeds)  # the prompt wins

    decode = LTXConditionModularPipeline(
        SequentialPipelineBlocks.from_blocks_dict({"decode": blocks["decode"]})
    )
    decode.update_components(vae=pipeline.vae)
    latents = torch.randn(2, 8, 3, 2, 3, generator=seeded(1))
    made = decode(latents=latents, output_type="pt", generator=seeded(2, 3), output="videos")
    single = decode(latents=latents[1:], output_type="pt", generator=seeded(3), output="videos")
    assert made.shape == (2, FRAMES, 3, HEIGHT, WIDTH) and torch.allclose(made[1:], single, atol=1e-5)


class Darker(ModularPipelineBlocks):
    """Somebody's block between denoising and decoding."""

    @property
    def inputs(self):
        return [InputParam("latents", required=True), InputParam("factor", default=0.5)]

    @property
    def intermediate_outputs(self):
        return [OutputParam("latents")]

    def __call__(self, pipeline, state):
        block = self.get_block_state(state)
        block.latents = block.latents * block.factor
        self.set_block_state(state, block)
        return pipeline, state


class Recorder(ModularPipelineBlocks):
    """Somebody's block in the loop, which changes the last step's latents."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __call__(self, pipeline, block, i, t):
        self.seen.append((i, float(t), tuple(block.latents.shape)))
        if i == 2:
            block.latents = torch.zeros_like(block.latents)
        return pipeline, block


def test_blocks_can_be_put_between_and_into_the_loop(pipeline):
    blocks = LTXConditionBlocks()
    blocks.sub_blocks.insert("darker", Darker(), 6)
    modular = quiet(LTXConditionModularPipeline.from_pipe(pipeline, blocks))
    plain = expected(pipeline, output_type="latent")
    assert torch.equal(videos(modular, output_type="latent", factor=0.25), plain * 0.25)

    recorder = Recorder()
    blocks.sub_blocks["denoise"].sub_blocks["recorder"] = recorder
    modular = quiet(LTXConditionModularPipeline.from_pipe(pipeline, blocks))
    assert not videos(modular, output_type="latent").any()
    assert [(index, shape) for index, _, shape in recorder.seen] == [
        (index, (1, 18, 8)) for index in range(3)
    ]
    assert recorder.seen[0][1] == 1000 and recorder.seen[2][1] < 1000


def test_diffusers_blocks_in_place_of_ours():
    pipeline = LTXConditionPipeline(**tiny_components())  # no noise in decoding: Diffusers puts it elsewhere
    pipeline.set_progress_bar_config(disable=True)
    blocks = LTXConditionBlocks()
    blocks.sub_blocks["text_encoder"] = LTXTextEncoderStep()
    blocks.sub_blocks["decode"] = LTXVaeDecoderStep()
    modular = quiet(LTXConditionModularPipeline.from_pipe(pipeline, blocks))
    state = modular(**CALL, generator=seeded(0))
    # Diffusers' block doesn't tell the text encoder which tokens are padding.
    names = (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    )
    theirs = {name: state.get(name) for name in names} | {"prompt": None}
    assert np.abs(np.asarray(state.get("videos")) - expected(pipeline, **theirs)).max() < 1e-6


def test_workflows_leave_out_what_they_dont_need():
    blocks = LTXConditionBlocks()
    assert "condition_encoder" not in blocks.get_workflow("text2video").sub_blocks
    for name in ("image2video", "conditions2video"):
        assert "condition_encoder" in blocks.get_workflow(name).sub_blocks


def test_every_argument_is_an_input_and_described():
    blocks = LTXConditionBlocks()
    described = {entry.name: entry for entry in blocks.inputs}
    assert set(DESCRIPTIONS) <= set(described)
    assert set(DEFAULTS) - set(described) == {
        "return_dict",
        "callback_on_step_end",
        "callback_on_step_end_tensor_inputs",
    }
    assert described["image_cond_noise_scale"].default == 0.15
    assert all(described[name].description for name in described)
    for block in (blocks, *blocks.sub_blocks.values()):
        assert block.description and "Inputs:" in block.doc and "TODO" not in block.doc


BAD = {
    "size": {"height": 60},
    "frames": {"num_frames": 18},
    "generators": {"generator": seeded(0, 1)},
    "strength": {"image": pictures(1)[0], "strength": 2.0},
    "kinds": {
        "prompt": ["a", "b"],
        "conditions": [
            [VideoCondition(image=pictures(1)[0])],
            [VideoCondition(image=pictures(1)[0], frame_index=8)],
        ],
    },
    "start": {"denoise_strength": 0.5},
    "output": {"output_type": "gif"},
    "sampler": {"sampler": "nope"},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_any_model_runs(modular, monkeypatch, name):
    for part in ("transformer", "vae", "text_encoder"):
        monkeypatch.setattr(getattr(modular, part), "forward", None)
    monkeypatch.setattr(modular.vae, "encode", None)
    with pytest.raises(InputError):
        modular(**(CALL | BAD[name]))


def test_saved_and_loaded(pipeline, modular, tmp_path):
    folder = str(tmp_path / "modular")
    modular.save_pretrained(folder, overwrite_modular_index=True)
    loaded = quiet(LTXConditionModularPipeline.from_pretrained(folder))
    loaded.load_components()
    assert isinstance(loaded.blocks, LTXConditionBlocks) and isinstance(
        loaded.transformer, LTXTransformer3DModel
    )
    # Memory that is mapped from files is aligned in another way, and sums round otherwise.
    assert np.allclose(
        videos(loaded, image=pictures(1)[0]), expected(pipeline, image=pictures(1)[0]), atol=1e-5
    )


def test_a_repository_of_diffusers_gets_our_classes_and_the_releases_settings(tmp_path):
    components = tiny_components(timestep_conditioning=True, causal=True, ours=False)
    DiffusersPipeline(**components).save_pretrained(tmp_path)
    pipeline = LTXConditionPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    modular = quiet(LTXConditionModularPipeline.from_pretrained(tmp_path))
    assert modular.transformer is None
    modular.load_components()
    assert modular.transformer.config.causal_temporal_positioning is True
    assert modular.scheduler.config.schedule == "linear-quadratic"
    assert np.array_equal(videos(modular), expected(pipeline))

    theirs = quiet(
        LTXConditionBlocks().init_pipeline(str(tmp_path))
    )  # Diffusers' own way: its classes, our blocks
    theirs.load_components()
    assert type(theirs.transformer).__module__.startswith("diffusers")
    assert np.allclose(videos(theirs), expected(pipeline), atol=1e-4)


def test_loras_load_as_into_the_other_pipelines(tmp_path):
    path, result = saved(tmp_path / "one")
    modular = LTXConditionModularPipeline.from_pipe(lora_pipeline(LTXConditionPipeline))
    report = modular.load_lora_weights(path, "style")
    assert report.matched and not report.unmatched and modular.get_active_adapters() == ["style"]
    assert largest_error(output(modular.transformer), result) < 5e-6
    modular.unload_lora_weights()
    assert largest_error(output(modular.transformer), result) > 1e-3


def test_other_models_and_missing_blocks_are_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}'
    )
    with pytest.raises(InputError, match="isn't an LTX-Video pipeline"):
        LTXConditionModularPipeline.from_pretrained(tmp_path)
    blocks = LTXConditionBlocks()
    blocks.sub_blocks.insert("darker", Darker(), 6)
    own = SequentialPipelineBlocks.from_blocks_dict(blocks.sub_blocks)
    LTXConditionModularPipeline(own).save_config(tmp_path / "own")
    with pytest.raises(InputError, match="pass blocks"):
        LTXConditionModularPipeline.from_pretrained(tmp_path / "own")
    loaded = LTXConditionModularPipeline.from_pretrained(tmp_path / "own", blocks=own)
    assert "darker" in loaded.blocks.sub_blocks
