"""What a report says of a LoRA."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.loras import base_transformer, some_lora

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.conversion.lora.formats import from_tensors, to_tensors
from ltx_diffusers.conversion.lora.layers import Lora, LoraLayer
from ltx_diffusers.conversion.lora.names import layers_of
from ltx_diffusers.conversion.lora.peft_model import linear_shapes
from ltx_diffusers.conversion.lora.report import check_effect, describe_lora, fitted
from ltx_diffusers.errors import InputError
from ltx_diffusers.models.transformers.released import RELEASED


def shapes() -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in base_transformer().named_parameters()}


def test_the_table_of_layers_is_the_models() -> None:
    model = base_transformer()
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(layers_of(model.config.num_layers)) == linear
    assert {name.removesuffix(".weight") for name in linear_shapes(model)} == linear


@pytest.mark.parametrize(("size", "count"), [("2b", 28 * 10 + 7), ("13b", 48 * 10 + 7)])
def test_the_table_covers_the_released_models(size: str, count: int) -> None:
    with torch.device("meta"):
        model = LTXTransformer3DModel(**RELEASED[size])
    shapes = linear_shapes(model)
    assert len(shapes) == count
    assert shapes.keys() == {f"{name}.weight" for name in layers_of(RELEASED[size]["num_layers"])}
    assert shapes == {name: tuple(model.get_parameter(name).shape) for name in shapes}


def test_norms_are_those_of_the_changes_of_each_block() -> None:
    lora = some_lora("bias")
    report = describe_lora(lora)
    blocks = ["transformer_blocks.0", "transformer_blocks.1", "outside the blocks"]
    assert list(report.norms) == blocks
    for block in blocks:
        inside = [
            layer
            for name, layer in lora.layers.items()
            if name.startswith(f"{block}.")
            or (block == blocks[2] and not name.startswith("transformer_blocks"))
        ]
        changes = [layer.scale * (layer.up @ layer.down) for layer in inside]
        changes += [layer.scale * layer.bias for layer in inside]
        expected = torch.cat([change.flatten() for change in changes]).double().norm().item()
        assert report.norms[block] == pytest.approx(expected, rel=1e-5)
    assert report.relative is None


@pytest.mark.parametrize("kind", ["alpha", "dora"])
def test_with_the_weights_changes_are_relative_to_them(kind: str) -> None:
    lora, weights = some_lora(kind), dict(base_transformer().named_parameters())
    report = describe_lora(lora, lambda name: weights[name].detach())
    change = weight = 0.0
    for name, layer in lora.layers.items():
        if name.startswith("transformer_blocks.1."):
            original = weights[f"{name}.weight"].detach()
            after = original + layer.scale * layer.up @ layer.down
            if kind == "dora":
                after = layer.magnitude[:, None] * after / after.norm(dim=1, keepdim=True)
            change += (after - original).norm().item() ** 2
            weight += original.norm().item() ** 2
    assert report.norms["transformer_blocks.1"] == pytest.approx(change**0.5, rel=1e-4)
    assert report.relative["transformer_blocks.1"] == pytest.approx((change / weight) ** 0.5, rel=1e-4)


def test_a_norm_without_the_product_is_right_for_near_cancellation() -> None:
    down, up = torch.randn(2, 30), torch.randn(40, 2)
    down[1], up[:, 1] = down[0] * (1 + 1e-4), -up[:, 0]
    layer = LoraLayer(down, up, alpha=6)
    assert layer.norm == pytest.approx(3 * (up.double() @ down.double()).norm().item(), rel=1e-6)


def test_blocks_are_in_their_order() -> None:
    layer = LoraLayer(torch.ones(1, 2), torch.ones(2, 1), 1)
    names = ["proj_in", "transformer_blocks.10.ff.net.2", "transformer_blocks.9.ff.net.2"]
    report = describe_lora(Lora(dict.fromkeys(names, layer)))
    assert list(report.norms) == ["transformer_blocks.9", "transformer_blocks.10", "outside the blocks"]


def test_what_doesnt_fit_the_model_is_moved_to_the_unmatched() -> None:
    tensors = to_tensors(some_lora(), "comfy")
    tensors["diffusion_model.transformer_blocks.5.attn1.to_q.lora_A.weight"] = torch.ones(2, 16)
    tensors["diffusion_model.transformer_blocks.5.attn1.to_q.lora_B.weight"] = torch.ones(16, 2)
    tensors["diffusion_model.patchify_proj.lora_A.weight"] = torch.ones(2, 9)
    tensors["diffusion_model.proj_out.diff_b"] = torch.ones(7)
    tensors["diffusion_model.transformer_blocks.0.attn1.q_norm.diff"] = torch.ones(16)
    lora = fitted(from_tensors(tensors), shapes(), differences=False)
    assert "proj_in" not in lora.layers
    assert not lora.differences
    reasons = describe_lora(lora).reasons()
    assert next(keys for reason, keys in reasons.items() if "the model's is (16, 8)" in reason) == [
        "diffusion_model.patchify_proj.lora_A.weight",
        "diffusion_model.patchify_proj.lora_B.weight",
        "diffusion_model.patchify_proj.alpha",
    ]
    assert any("no such layer" in reason for reason in reasons)
    assert any("lora merge" in reason for reason in reasons)
    assert (
        "transformer_blocks.0.attn1.norm_q.weight"
        in fitted(from_tensors(tensors), shapes(), differences=True).differences
    )


def test_a_text_of_the_report_names_keys_and_reasons() -> None:
    lora = replace(
        some_lora(),
        unmatched={"x.lokr_w1": "LoKr isn't a low-rank update", "y": "LoKr isn't a low-rank update"},
    )
    text = str(describe_lora(lora))
    assert "27 keys used, 2 not" in text
    assert "x.lokr_w1 and 1 more: LoKr" in text


@pytest.mark.parametrize("what", ["up", "alpha"])
def test_a_lora_that_changes_nothing_is_an_error(what: str) -> None:
    lora = from_tensors(to_tensors(some_lora(), "comfy"))
    changes = {
        name: replace(layer, up=layer.up * 0) if what == "up" else replace(layer, alpha=0.0)
        for name, layer in lora.layers.items()
    }
    with pytest.raises(InputError, match="no effect: every update is zero"):
        check_effect(describe_lora(replace(lora, layers=changes)))
    one = {**changes, "proj_in": lora.layers["proj_in"]}
    check_effect(describe_lora(replace(lora, layers=one)))


def test_a_lora_for_another_size_is_an_error() -> None:
    lora = from_tensors(to_tensors(some_lora(), "comfy"))
    larger = {name: tuple(2 * side for side in shape) for name, shape in shapes().items()}
    with pytest.raises(InputError, match=r"none of its keys fits.*made for a weight of shape \(16, 8\)"):
        check_effect(describe_lora(fitted(lora, larger, differences=True)), "it")


def test_dora_with_zero_matrices_may_still_have_an_effect() -> None:
    lora = some_lora("dora")
    zero = {name: replace(layer, up=layer.up * 0, keys=("x",)) for name, layer in lora.layers.items()}
    check_effect(describe_lora(replace(lora, layers=zero)))
