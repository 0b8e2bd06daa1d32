"""Diffusers' own mechanisms on our classes: saving, caches, casting, offloading, adapters."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FirstBlockCacheConfig, LayerSkipConfig, LTXVideoTransformer3DModel
from diffusers.hooks import HookRegistry, apply_layer_skip
from diffusers.hooks._helpers import AttentionProcessorRegistry, TransformerBlockRegistry
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from helpers.transformers import TINY, on_grid, relative_error, tiny_inputs
from peft import LoraConfig

import ltx_diffusers
from ltx_diffusers import LTXFlowMatchScheduler, LTXTransformer3DModel, integration
from ltx_diffusers.models.transformers.attention_ltx import LTXAttnProcessor
from ltx_diffusers.models.transformers.block_ltx import LTXTransformerBlock


class Pair(DiffusionPipeline):
    """The smallest pipeline with a model and a scheduler of ours."""

    def __init__(self, transformer: LTXTransformer3DModel, scheduler: LTXFlowMatchScheduler) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)


@pytest.fixture
def model() -> LTXTransformer3DModel:
    return LTXTransformer3DModel(**TINY, causal_temporal_positioning=True).eval()


@pytest.fixture
def inputs() -> dict:
    return {**tiny_inputs("per token"), **on_grid()}


def test_registering_twice_changes_nothing() -> None:
    integration.register()
    before = dict(LOADABLE_CLASSES), dict(TransformerBlockRegistry._registry)
    integration.register.__wrapped__()
    assert before[0] == LOADABLE_CLASSES
    assert TransformerBlockRegistry._registry.keys() == before[1].keys()
    assert TransformerBlockRegistry.get(LTXTransformerBlock).return_hidden_states_index == 0
    assert AttentionProcessorRegistry.get(LTXAttnProcessor)


def test_names_that_the_loader_needs_resolve() -> None:
    for name in integration.LOADABLE:
        assert hasattr(ltx_diffusers, name)


def test_pipelines_record_our_library_and_load_from_it(tmp_path, model) -> None:
    Pair(model, LTXFlowMatchScheduler()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["transformer"] == ["ltx_diffusers", "LTXTransformer3DModel"]
    assert index["scheduler"] == ["ltx_diffusers", "LTXFlowMatchScheduler"]
    loaded = Pair.from_pretrained(tmp_path)
    assert type(loaded.transformer) is LTXTransformer3DModel
    assert loaded.transformer.config.causal_temporal_positioning is True
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[key], tensor)


def test_a_new_process_loads_after_importing_the_package_alone(tmp_path, model) -> None:
    Pair(model, LTXFlowMatchScheduler()).save_pretrained(tmp_path)
    code = f"""
import ltx_diffusers
from diffusers import DiffusionPipeline
class Pair(DiffusionPipeline):
    def __init__(self, transformer, scheduler):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
pipeline = Pair.from_pretrained({str(tmp_path)!r})
print(type(pipeline.transformer).__name__, type(pipeline.scheduler).__name__)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["LTXTransformer3DModel", "LTXFlowMatchScheduler"]


def test_first_block_cache_skips_the_other_blocks(model, inputs) -> None:
    expected = model(**inputs)[0]
    model.enable_cache(FirstBlockCacheConfig(threshold=0.05))
    calls = []
    for block in model.transformer_blocks[1:]:
        block.ff.register_forward_pre_hook(lambda *args: calls.append(1))
    with model.cache_context("cond"):
        first, second = model(**inputs)[0], model(**inputs)[0]
    assert relative_error(first, expected) < 1e-6
    assert relative_error(second, expected) < 1e-5  # the same step again: what is reused is exact
    assert len(calls) == TINY["num_layers"] - 1
    changed = {**inputs, "hidden_states": inputs["hidden_states"] * 3}
    with model.cache_context("cond"):
        third = model(**changed)[0]
    model.disable_cache()
    assert len(calls) == 2 * (TINY["num_layers"] - 1)
    assert relative_error(third, model(**changed)[0]) < 1e-6


def test_layer_skip_skips_self_attention(model, inputs) -> None:
    """A skipped attention hands on its input, cross-attention stays; skipped scores give the values."""
    expected = model(**inputs)[0]
    outputs = {}
    for name, config in {
        "attention": {"skip_attention": True},
        "scores": {"skip_attention": False, "skip_attention_scores": True},
    }.items():
        skipped = copy.deepcopy(model)
        apply_layer_skip(
            skipped, LayerSkipConfig(indices=[1], fqn="transformer_blocks", skip_ff=False, **config)
        )
        outputs[name] = skipped(**inputs)[0]

    class HandOn(LTXAttnProcessor):
        def __call__(self, attn, hidden_states, *args, **kwargs) -> torch.Tensor:
            return hidden_states

    class Values(LTXAttnProcessor):
        def __call__(self, attn, hidden_states, *args, **kwargs) -> torch.Tensor:
            return attn.to_out[0](attn.to_v(hidden_states))

    for name, processor in (("attention", HandOn()), ("scores", Values())):
        by_hand = copy.deepcopy(model)
        by_hand.transformer_blocks[1].attn1.set_processor(processor)
        assert relative_error(outputs[name], by_hand(**inputs)[0]) < 1e-6
        assert relative_error(outputs[name], expected) > 1e-3


def test_layerwise_casting(model, inputs) -> None:
    expected = model(**inputs)[0]
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    block = model.transformer_blocks[0]
    assert block.ff.net[2].weight.dtype == torch.float8_e4m3fn
    assert block.attn1.norm_q.weight.dtype == torch.float32
    output = model(**inputs)[0]
    assert output.dtype == torch.float32
    assert 0 < relative_error(output, expected) < 0.1


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offloading(model, inputs, kind) -> None:
    """With the CPU as both places it moves nothing, but its hooks run, on every block and layer."""
    expected = model(**inputs)[0]
    count = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    cpu = torch.device("cpu")
    model.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type=kind, **count)
    hooked = model.transformer_blocks[1] if kind == "block_level" else model.transformer_blocks[1].attn1.to_q
    assert HookRegistry.check_if_exists_or_initialize(hooked).get_hook("group_offloading") is not None
    assert relative_error(model(**inputs)[0], expected) < 1e-6


def test_lora_gives_what_it_gives_on_diffusers_model(inputs) -> None:
    theirs = LTXVideoTransformer3DModel(**TINY).eval()
    ours = LTXTransformer3DModel(**TINY).eval()
    ours.load_state_dict(theirs.state_dict())
    plain = ours(**inputs)[0]
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0", "proj_in"])
    for model in (theirs, ours):
        torch.manual_seed(1)
        model.add_adapter(copy.deepcopy(config))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    expected = theirs(**inputs)[0]
    assert relative_error(expected, plain) > 1e-2
    assert relative_error(ours(**inputs)[0], expected) < 1e-5
    for scale in (0.0, 0.5):
        scaled = ours(**inputs, attention_kwargs={"scale": scale})[0]
        assert relative_error(scaled, theirs(**inputs, attention_kwargs={"scale": scale})[0]) < 1e-5
    assert relative_error(ours(**inputs, attention_kwargs={"scale": 0.0})[0], plain) < 1e-6


def test_lora_files_go_both_ways(tmp_path, inputs) -> None:
    """Alpha isn't the rank, so that losing it would show."""
    theirs, ours = LTXVideoTransformer3DModel(**TINY).eval(), LTXTransformer3DModel(**TINY).eval()
    ours.load_state_dict(theirs.state_dict())
    file = {"weight_name": "lora.safetensors"}
    targets = ["to_q", "net.0.proj"]
    ours.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False))
    expected = ours(**inputs)[0]
    ours.save_lora_adapter(tmp_path, **file)
    theirs.load_lora_adapter(tmp_path, prefix=None, adapter_name="theirs", **file)
    assert relative_error(theirs(**inputs)[0], expected) < 1e-5
    theirs.save_lora_adapter(tmp_path / "theirs", adapter_name="theirs", **file)
    ours.delete_adapters("default")
    assert relative_error(ours(**inputs)[0], expected) > 1e-2
    ours.load_lora_adapter(tmp_path / "theirs", prefix=None, adapter_name="ours", **file)
    assert relative_error(ours(**inputs)[0], expected) < 1e-5
    ours.set_adapters("ours", 0.5)
    assert relative_error(ours(**inputs)[0], expected) > 1e-2


def test_a_pipeline_imported_by_its_full_path_is_saved_under_the_same_names(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tiny import tiny_components\n"
        "from ltx_diffusers.pipelines.pipeline_ltx import LTXPipeline\n"
        "LTXPipeline(**tiny_components()).save_pretrained(sys.argv[1])\n"
    )
    tests = Path(__file__).parent  # where `tiny` is found
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=tests)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["transformer"] == ["ltx_diffusers", "LTXTransformer3DModel"]
    assert index["scheduler"] == ["ltx_diffusers", "LTXFlowMatchScheduler"]
