"""PEFT adapters on our transformer, against the same adapters on Diffusers' own."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import LTXVideoTransformer3DModel
from helpers.transformers import TINY, on_grid, relative_error, tiny_inputs
from peft import LoraConfig

from ltx_diffusers import LTXTransformer3DModel


@pytest.fixture
def inputs() -> dict:
    return {**tiny_inputs("per token"), **on_grid()}


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
