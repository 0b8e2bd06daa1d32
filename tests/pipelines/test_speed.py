"""`pipe.set_speed`: what is left out, how little it changes, and that nothing stale is ever taken."""

from __future__ import annotations

import copy

import accelerate
import pytest
import torch
from helpers.autoencoders import relative_error
from PIL import Image
from tiny import tiny_components

from ltx_diffusers import LTXConditionPipeline, LTXEditPipeline, LTXImageToVideoPipeline, LTXPipeline
from ltx_diffusers.errors import InputError, UnknownNameError
from ltx_diffusers.pipelines import speed as speeds

STEPS = 24
CHANGE = 11
"""Step after which callbacks change something."""
CALL = {
    "prompt": "a red circle",
    "height": 64,
    "width": 64,
    "num_frames": 17,
    "num_inference_steps": STEPS,
    "output_type": "latent",
}
KINDS = {
    "guided": (LTXPipeline, {}),
    "one pass": (LTXPipeline, {"guidance_scale": 1.0}),
    "two videos": (LTXPipeline, {"num_videos_per_prompt": 2}),
    "first frame": (LTXImageToVideoPipeline, {"image": Image.new("RGB", (64, 64), (200, 40, 40))}),
}


def a_pipeline(kind: type = LTXPipeline):
    made = kind(**tiny_components(causal=True))
    made.set_progress_bar_config(disable=True)
    return made


def counted(pipeline) -> list[float]:
    """A list of the timesteps that the model is run at."""
    calls: list[float] = []
    pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(float(kwargs["timestep"].max())), with_kwargs=True
    )
    return calls


def video(pipeline, **call) -> torch.Tensor:
    return pipeline(**CALL | call, generator=torch.Generator().manual_seed(0)).frames


@pytest.mark.parametrize("name", KINDS)
def test_fast_runs_the_model_less_often_and_comes_near(name: str):
    kind, call = KINDS[name]
    pipeline = a_pipeline(kind)
    calls = counted(pipeline)
    plain = video(pipeline, **call)
    assert len(calls) == STEPS
    errors = {}
    for speed, most in (("fast", 0.05), ("fastest", 0.2)):
        calls.clear()
        pipeline.set_speed(speed)
        made = video(pipeline, **call)
        assert len(calls) + pipeline.num_foretold_steps == STEPS
        assert pipeline.num_foretold_steps > 0 or speed == "fast"
        assert torch.equal(video(pipeline, **call), made)  # nothing is left of the call before
        errors[speed] = relative_error(made, plain)
        assert (errors[speed] > 0) == (pipeline.num_foretold_steps > 0)
        assert errors[speed] < most
    pipeline.set_speed("exact")
    assert torch.equal(video(pipeline, **call), plain)
    assert pipeline.num_foretold_steps == 0


def test_a_few_steps_of_a_distilled_schedule_are_all_computed():
    """Nothing can be foretold from less than three steps."""
    pipeline = a_pipeline()
    pipeline.set_speed("fastest")
    video(pipeline, num_inference_steps=3)
    assert pipeline.num_foretold_steps == 0


def change_nothing(pipe, index, timestep, tensors):
    return tensors


def change_guidance(pipe, index, timestep, tensors):
    if index == CHANGE:
        pipe._guidance_scale = 1.5
    return {}


def replace_latents(pipe, index, timestep, tensors):
    return {"latents": tensors["latents"] * 1.01} if index == CHANGE else {}


def write_to_latents(pipe, index, timestep, tensors):
    if index == CHANGE:
        tensors["latents"].mul_(1.01)
    return tensors


def change_weights(pipe, index, timestep, tensors):
    if index == CHANGE:
        with torch.no_grad():
            pipe.transformer.proj_out.weight.mul_(1.01)
    return {}


@pytest.mark.parametrize(
    ("callback", "anew"),
    [
        (change_nothing, False),
        (change_guidance, True),
        (replace_latents, True),
        (write_to_latents, True),
        (change_weights, True),
    ],
)
def test_what_a_callback_changes_is_not_foretold_from_before(callback, anew: bool):
    pipeline = a_pipeline()
    pipeline.set_speed("fastest")
    calls = counted(pipeline)
    video(pipeline, callback_on_step_end=callback)
    timesteps = pipeline.scheduler.timesteps
    after = [
        any(abs(float(timestep) - call) < 1e-2 for call in calls)
        for timestep in timesteps[CHANGE + 1 : CHANGE + 4]
    ]
    assert pipeline.num_foretold_steps > 0
    assert all(after) == anew


@pytest.mark.parametrize("only_watches", [False, True])
def test_a_callback_that_only_watches_costs_nothing(only_watches: bool):
    def watch(pipe, index, timestep, tensors):
        return {}

    watch.only_watches = only_watches
    pipeline = a_pipeline()
    texts = []
    pipeline.transformer.caption_projection.register_forward_pre_hook(lambda *args: texts.append(1))
    video(pipeline, num_inference_steps=3, callback_on_step_end=watch)
    assert len(texts) == (1 if only_watches else 3)


def with_lora(pipeline, weight: float = 1.0) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    torch.manual_seed(4)
    pipeline.transformer.add_adapter(config, adapter_name="style")
    pipeline.transformer.set_adapters("style", weight)


def test_a_lora_changed_midway_is_seen():
    def change_lora(pipe, index, timestep, tensors):
        if index == CHANGE:
            pipe.transformer.set_adapters("style", 0.3)
        return {}

    pipeline = a_pipeline()
    with_lora(pipeline)
    pipeline.set_speed("fastest")
    calls = counted(pipeline)
    video(pipeline, callback_on_step_end=change_lora)
    after = pipeline.scheduler.timesteps[CHANGE + 1 : CHANGE + 4]
    assert all(any(abs(float(timestep) - call) < 1e-2 for call in calls) for timestep in after)
    assert pipeline.num_foretold_steps > 0


def test_what_is_done_is_said():
    pipeline = a_pipeline()
    assert pipeline.set_speed("exact") == ["every step is computed"]
    steps, compiling = pipeline.set_speed("fast")
    assert "5%" in steps
    assert compiling == "nothing is compiled on cpu"
    assert pipeline.set_speed("fastest")[1].startswith("weights stay as they are")
    assert pipeline.speed == "fastest"
    with pytest.raises(UnknownNameError, match="exact, fast, fastest"):
        pipeline.set_speed("faster")
    assert a_pipeline(LTXEditPipeline).set_speed("fast")[0] == "this pipeline computes every step"


@pytest.fixture
def in_8_bits(monkeypatch):
    """As on a GPU: int8 products, by torchao."""
    quantization = pytest.importorskip("torchao.quantization")
    config = quantization.Int8DynamicActivationInt8WeightConfig()
    monkeypatch.setattr(speeds, "product_config", lambda device, dtype: config)


@pytest.mark.parametrize("lora", [None, "before"])
def test_products_of_8_bits_are_for_good(in_8_bits, lora):
    pipeline = a_pipeline(LTXConditionPipeline)
    if lora == "before":
        with_lora(pipeline)
    rounded = a_pipeline(LTXConditionPipeline)
    rounded.transformer = copy.deepcopy(pipeline.transformer)
    plain = video(pipeline)
    notes = pipeline.set_speed("fastest")
    assert "Int8DynamicActivationInt8WeightConfig" in notes[1]
    layers = speeds.block_layers(pipeline.transformer)
    assert len(layers) == 8 * len(pipeline.transformer.transformer_blocks)
    assert all(type(layer.weight) is not torch.nn.Parameter for layer in layers.values())
    kept = pipeline.transformer.transformer_blocks[0].attn2.to_k
    assert type(getattr(kept, "base_layer", kept).weight) is torch.nn.Parameter
    rounded.set_speed("exact")
    speeds.quantize_blocks(rounded.transformer, speeds.product_config(None, None))
    assert 0 < relative_error(video(rounded), plain) < 0.1
    assert 0 < relative_error(video(pipeline), plain) < 0.2
    assert pipeline.set_speed("fastest")[1] == "products of 8 bits, as before"
    sharing = LTXPipeline.from_pipe(pipeline)
    for made in (pipeline, sharing):
        with pytest.raises(InputError, match="load the model again"):
            made.set_speed("exact")


@pytest.mark.parametrize("offloading", ["sequential", "to the disk"])
def test_weights_that_offloading_keeps_copies_of_are_brought_to_8_bits_before(
    in_8_bits, offloading: str, tmp_path
):
    pipeline = a_pipeline()
    offload = {
        "sequential": lambda: accelerate.cpu_offload(pipeline.transformer, torch.device("cpu")),
        "to the disk": lambda: pipeline.transformer.enable_group_offload(
            onload_device=torch.device("cpu"),
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            offload_to_disk_path=str(tmp_path),
        ),
    }
    offload[offloading]()
    with pytest.raises(InputError, match="before offloading is enabled"):
        pipeline.set_speed("fastest")
    assert pipeline.speed == "exact"
    pipeline.set_speed("fast")


def test_on_a_gpu_blocks_are_compiled_and_what_the_caller_compiled_stays(monkeypatch):
    """The device is only said to be one."""
    pipeline = a_pipeline()
    monkeypatch.setattr(type(pipeline), "_execution_device", torch.device("cuda"))
    monkeypatch.setattr(speeds, "product_config", lambda device, dtype: None)
    blocks = pipeline.transformer.transformer_blocks
    assert pipeline.set_speed("fast")[1] == "blocks are compiled in the first step"
    assert all(block._compiled_call_impl is not None for block in blocks)
    pipeline.set_speed("exact")
    assert all(block._compiled_call_impl is None for block in blocks)
    speeds.compile_blocks(pipeline.transformer, backend="eager")
    own = blocks[0]._compiled_call_impl
    pipeline.set_speed("fastest")
    pipeline.set_speed("exact")
    assert blocks[0]._compiled_call_impl is own
