"""LoRAs merged into checkpoints of every layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import save_checkpoint
from helpers.loras import KINDS, add_adapter, base_transformer, largest_error, output, pipeline, some_lora
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx_diffusers import LTXPipeline, LTXTransformer3DModel
from ltx_diffusers.conversion.lora.files import write_lora
from ltx_diffusers.conversion.lora.layers import Lora
from ltx_diffusers.conversion.lora.merge import NOTE, merge_loras
from ltx_diffusers.conversion.lora.peft_model import extract_adapter
from ltx_diffusers.conversion.renames import to_official
from ltx_diffusers.errors import CheckpointError, InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `base_transformer`."""
    path = tmp_path_factory.mktemp("base") / "transformer"
    base_transformer().save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_merged_equals_loaded(kind: str, folder: Path, tmp_path: Path) -> None:
    first, second = some_lora(kind), some_lora(kind, seed=2, target_modules=["to_q", "proj_in"])
    pipe = pipeline()
    for name, lora in (("first", first), ("second", second)):
        pipe.load_lora_weights(write_lora(lora, tmp_path / name), name)
    pipe.set_adapters(["first", "second"], [0.75, -0.5])
    expected = output(pipe.transformer)

    report = merge_loras(folder, [(tmp_path / "first", 0.75), (second, -0.5)], tmp_path / "merged")
    merged = LTXTransformer3DModel.from_pretrained(tmp_path / "merged").eval()
    assert largest_error(output(merged), expected) < 5e-6
    assert report.changed == len(first.layers) * (2 if kind == "bias" else 1)
    assert report.rounding < 1e-6
    assert [len(lora.unmatched) for lora in report.loras] == [0, 0]


def test_an_official_file_keeps_its_names_metadata_and_other_parts(tmp_path: Path) -> None:
    model, _ = save_checkpoint(tmp_path / "in.safetensors")
    add_adapter(model)
    lora = extract_adapter(model)
    merge_loras(
        tmp_path / "in.safetensors",
        [(write_lora(lora, tmp_path / "lora", "kohya"), 0.5)],
        tmp_path / "out.safetensors",
    )

    before, after = load_file(tmp_path / "in.safetensors"), load_file(tmp_path / "out.safetensors")
    changed = {
        f"model.diffusion_model.{to_official('transformer', f'{name}.weight')}" for name in lora.layers
    }
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == changed
    layer = lora.layers["time_embed.linear"]
    key = "model.diffusion_model.adaln_single.linear.weight"
    torch.testing.assert_close(
        after[key] - before[key], 0.5 * layer.scale * layer.up @ layer.down, rtol=1e-4, atol=1e-6
    )
    with (
        safe_open(tmp_path / "in.safetensors", "pt") as old,
        safe_open(tmp_path / "out.safetensors", "pt") as new,
    ):
        assert {**new.metadata(), NOTE: None} == {**old.metadata(), NOTE: None}
        assert json.loads(new.metadata()[NOTE]) == [["pytorch_lora_weights.safetensors", 0.5]]


def test_a_pipelines_folder_is_copied_around_its_transformer(tmp_path: Path) -> None:
    pipeline().save_pretrained(tmp_path / "in")
    (tmp_path / "in" / "transformer" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(
        b"another variant"
    )
    merge_loras(tmp_path / "in", [(some_lora(), 1)], tmp_path / "out")
    names = {str(path.relative_to(tmp_path / "in")) for path in (tmp_path / "in").rglob("*")}
    copied = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")}
    assert names - copied == {"transformer/diffusion_pytorch_model.fp16.safetensors"}
    assert copied <= names
    pipe = LTXPipeline.from_pretrained(tmp_path / "out")
    assert largest_error(output(pipe.transformer), output(_with(some_lora()))) < 5e-6


def _with(lora: Lora) -> torch.nn.Module:
    """`base_transformer` with a LoRA added to its weights by hand."""
    model = base_transformer()
    for name, layer in lora.layers.items():
        model.get_submodule(name).weight.data += layer.scale * layer.up @ layer.down
    return model


def test_sharded_weights_keep_their_shards(tmp_path: Path) -> None:
    base_transformer().save_pretrained(tmp_path / "in", max_shard_size="10KB")
    merge_loras(tmp_path / "in", [(some_lora(), 1)], tmp_path / "out")
    names = {path.name for path in (tmp_path / "in").iterdir()}
    assert len(names) > 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    merged = LTXTransformer3DModel.from_pretrained(tmp_path / "out").eval()
    assert largest_error(output(merged), output(_with(some_lora()))) < 5e-6


def test_full_differences_are_added(folder: Path, tmp_path: Path) -> None:
    difference = torch.randn(2, 16)
    merge_loras(folder, [(Lora({}, differences={"scale_shift_table": difference}), 2)], tmp_path / "out")
    merged = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")["scale_shift_table"]
    assert torch.equal(merged, base_transformer().scale_shift_table + 2 * difference)


def test_rounding_to_the_checkpoints_dtype_is_measured(tmp_path: Path) -> None:
    model = base_transformer().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "in")
    tiny = {name: replace(layer, alpha=layer.alpha / 1e4) for name, layer in some_lora().layers.items()}
    report = merge_loras(tmp_path / "in", [(Lora(tiny), 1)], tmp_path / "out")
    merged = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    error = change = 0.0
    for name, layer in tiny.items():
        product = layer.scale * layer.up @ layer.down
        exact = model.get_submodule(name).weight.detach().float() + product
        error += (merged[f"{name}.weight"].float() - exact).norm().item() ** 2
        change += product.norm().item() ** 2
    assert report.rounding == pytest.approx((error / change) ** 0.5, rel=1e-3)
    assert report.rounding > 0.3  # most of so small a change is lost


def test_what_cant_be_merged_is_refused_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    lora = some_lora()
    empty = {name: replace(layer, up=layer.up * 0) for name, layer in lora.layers.items()}
    weights = folder / "diffusion_pytorch_model.safetensors"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for checkpoint, loras, target, message in (
        (folder, [], "out", "no LoRA was given"),
        (folder, [(lora, 0)], "out", "other than 0"),
        (folder, [(lora, float("nan"))], "out", "other than 0"),
        (folder, [(Lora(empty), 1)], "out", "every update is zero"),
        (folder, [(tmp_path / "none.safetensors", 1)], "out", "there is no file"),
        (tmp_path / "none", [(lora, 1)], "out", "there is no file"),
        (folder, [(lora, 1)], "full", "which has content"),
        (weights, [(lora, 1)], "full", "into a file"),
        (weights, [(lora, 1)], "out.bin", "into a file"),
        (weights, [(lora, 1)], weights, "another name"),
        (folder, [(lora, 1)], folder / "inside", "inside its source"),
    ):
        with pytest.raises(InputError, match=message):
            merge_loras(checkpoint, loras, tmp_path / target)
    assert {path.name for path in tmp_path.iterdir()} == {"full"}


def test_8_bit_weights_are_refused(tmp_path: Path) -> None:
    tensors = {
        name: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t
        for name, t in base_transformer().state_dict().items()
    }
    base_transformer().save_pretrained(tmp_path / "in")
    save_file(tensors, tmp_path / "in" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match="8-bit weights; got proj_in.weight in float8_e4m3fn"):
        merge_loras(tmp_path / "in", [(some_lora(), 1)], tmp_path / "out")


def test_values_too_large_for_the_dtype_leave_nothing_behind(tmp_path: Path) -> None:
    base_transformer().to(torch.float16).save_pretrained(tmp_path / "in")
    huge = {name: replace(layer, alpha=1e9) for name, layer in some_lora().layers.items()}
    with pytest.raises(CheckpointError, match="too large for float16"):
        merge_loras(tmp_path / "in", [(Lora(huge), 1)], tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in"}
