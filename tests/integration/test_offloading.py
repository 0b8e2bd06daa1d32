"""Weights that aren't on the device between their uses: every part runs only while its weights are there.

Without an accelerator, moving weights away moves nothing. So these tests make weights unreadable (NaN) while Diffusers
or accelerate has them away: a part that ran without its hook would turn the video into NaN.
"""

from __future__ import annotations

import inspect

import accelerate
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.hooks.group_offloading import ModuleGroup, apply_group_offloading
from tiny import tiny_components

from ltx_diffusers import (
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXLatentUpsamplePipeline,
    LTXPipeline,
)

CPU = torch.device("cpu")
CALL = {
    "prompt": "a",
    "height": 64,
    "width": 64,
    "num_frames": 9,
    "num_inference_steps": 3,
    "output_type": "pt",
}
PARTS = ("text_encoder", "transformer", "vae")


@pytest.fixture(params=[LTXPipeline, LTXImageToVideoPipeline, LTXConditionPipeline])
def pipeline(request) -> DiffusionPipeline:
    made = request.param(**tiny_components(timestep_conditioning=True, causal=True, statistics=True))
    made.set_progress_bar_config(disable=True)
    return made


def video(pipeline) -> torch.Tensor:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    extra = {}
    if isinstance(pipeline, LTXImageToVideoPipeline):
        extra = {"image": images[0]}
    elif isinstance(pipeline, LTXConditionPipeline):
        extra = {"image": list(images), "frame_index": [0, 8]}
    return pipeline(**CALL, **extra, generator=torch.Generator().manual_seed(0)).frames


class Vault:
    """Holds the values of parameters that are away, and leaves NaN in their place."""

    def __init__(self) -> None:
        self.values: dict[torch.nn.Parameter, torch.Tensor] = {}

    def take(self, parameters) -> None:
        for parameter in parameters:
            if parameter not in self.values:
                self.values[parameter] = parameter.data
                parameter.data = torch.full_like(parameter, torch.nan)

    def give(self, parameters) -> None:
        for parameter in parameters:
            if parameter in self.values:
                parameter.data = self.values.pop(parameter)


def parameters_of(pipeline) -> list[torch.nn.Parameter]:
    return [parameter for part in PARTS for parameter in getattr(pipeline, part).parameters()]


def test_model_offload(pipeline, monkeypatch):
    """One model at a time has its weights, and none after a call.

    Images are encoded after the text, before its encoder's turn to leave has come, as in Diffusers' pipelines.
    """
    expected = video(pipeline)
    vault, used = Vault(), []
    at_once = 1 if isinstance(pipeline, LTXPipeline) else 2

    def put_away(hook, module):
        vault.take(module.parameters())
        return module

    def fetch(hook, module, *args, **kwargs):
        if hook.prev_module_hook is not None:
            hook.prev_module_hook.offload()
        vault.give(module.parameters())
        name = next(name for name in PARTS if getattr(pipeline, name) is module)
        used.append(name)
        present = {part for part in PARTS if next(getattr(pipeline, part).parameters()) not in vault.values}
        assert len(present) <= at_once and not {"text_encoder", "transformer"} <= present
        return args, kwargs

    monkeypatch.setattr(accelerate.hooks.CpuOffload, "init_hook", put_away)
    monkeypatch.setattr(accelerate.hooks.CpuOffload, "pre_forward", fetch)
    pipeline.enable_model_cpu_offload(device="cpu")
    assert len(vault.values) == len(parameters_of(pipeline))
    for _ in range(2):
        torch.testing.assert_close(video(pipeline), expected)
        assert len(vault.values) == len(parameters_of(pipeline))
    assert set(used) == set(PARTS)


@pytest.mark.parametrize("kind", [LTXPipeline, LTXLatentUpsamplePipeline])
def test_the_order_of_model_offload_names_each_model_once(kind):
    """Diffusers takes no notice of a second time; the last to run is the VAE's decoder."""
    order = kind.model_cpu_offload_seq.split("->")
    assert len(set(order)) == len(order) and order[-1] == "vae"
    assert set(order) <= set(inspect.signature(kind.__init__).parameters)


def test_sequential_offload(pipeline):
    """Every layer's weights are on the meta device but while it runs.

    By the function that `enable_sequential_cpu_offload` calls for each model; itself, it asks for an accelerator.
    """
    expected = video(pipeline)
    for part in (getattr(pipeline, name) for name in PARTS):
        accelerate.cpu_offload(part, CPU, offload_buffers=bool(part._parameters))
    assert all(parameter.is_meta for parameter in parameters_of(pipeline))
    torch.testing.assert_close(video(pipeline), expected, atol=1e-5, rtol=0)
    assert all(parameter.is_meta for parameter in parameters_of(pipeline))


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload(pipeline, monkeypatch, kind):
    """Every group's weights are away but while it runs; the VAE runs by `encode` and `decode`, not `forward`."""
    expected = video(pipeline)
    vault = Vault()

    def members(group):
        return [*group.parameters, *(p for module in group.modules for p in module.parameters())]

    monkeypatch.setattr(ModuleGroup, "offload_", lambda group: vault.take(members(group)))
    monkeypatch.setattr(ModuleGroup, "onload_", lambda group: vault.give(members(group)))
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    pipeline.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type=kind, **blocks)
    assert len(vault.values) == len(parameters_of(pipeline))
    for _ in range(2):
        torch.testing.assert_close(video(pipeline), expected)
        assert len(vault.values) == len(parameters_of(pipeline))


def test_group_offload_to_disk(tmp_path):
    """Diffusers leaves unset memory in place of weights that are on the disk; here, NaN shows any use of it."""
    made = LTXPipeline(**tiny_components())
    made.set_progress_bar_config(disable=True)
    expected = video(made)
    made.transformer.enable_group_offload(
        onload_device=CPU, offload_device=CPU, offload_type="leaf_level", offload_to_disk_path=str(tmp_path)
    )
    assert list(tmp_path.glob("group_*.safetensors"))
    for parameter in made.transformer.parameters():
        parameter.data.fill_(torch.nan)
    torch.testing.assert_close(video(made), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["model", "sequential", "block", "leaf with a stream"])
def test_offloading_on_an_accelerator(pipeline, kind):
    device = torch.device("cuda")
    expected = video(pipeline.to(device))
    pipeline.to("cpu")
    if kind == "model":
        pipeline.enable_model_cpu_offload()
    elif kind == "sequential":
        pipeline.enable_sequential_cpu_offload()
    elif kind == "block":
        pipeline.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=1)
    else:
        pipeline.enable_group_offload(device, offload_type="leaf_level", use_stream=True)
    for _ in range(2):  # with a stream, the first call finds the order of the layers
        torch.testing.assert_close(video(pipeline), expected, atol=1e-5, rtol=0)
    assert all(parameter.device.type != "cuda" for parameter in parameters_of(pipeline))


def test_a_text_encoder_can_be_offloaded_alone():
    """Of Transformers, so not by a method of its own."""
    made = LTXPipeline(**tiny_components())
    made.set_progress_bar_config(disable=True)
    expected = video(made)
    apply_group_offloading(made.text_encoder, onload_device=CPU, offload_type="leaf_level")
    torch.testing.assert_close(video(made), expected)
