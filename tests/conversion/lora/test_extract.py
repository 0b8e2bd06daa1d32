"""LoRAs extracted from two checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import official_config, official_tensors
from helpers.loras import base_transformer, largest_error, output, some_lora
from safetensors.torch import save_file

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.conversion.lora.extract import extract_lora, low_rank
from ltx_diffusers.conversion.lora.layers import Lora
from ltx_diffusers.conversion.lora.merge import merge_loras
from ltx_diffusers.errors import CheckpointError, InputError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `base_transformer`."""
    path = tmp_path_factory.mktemp("base") / "transformer"
    base_transformer().save_pretrained(path)
    return path


def changed(folder: Path, change: dict[str, torch.Tensor]) -> Path:
    """A folder with `base_transformer` and these additions to its parameters."""
    model = base_transformer()
    parameters = dict(model.named_parameters())
    for name, difference in change.items():
        parameters[name].data += difference
    model.save_pretrained(folder)
    return folder


def test_a_merged_lora_comes_back(base: Path, tmp_path: Path) -> None:
    lora = some_lora("patterns")
    merge_loras(base, [(lora, 1)], tmp_path / "tuned")
    found, report = extract_lora(base, tmp_path / "tuned", rank=8, dtype=torch.float32)
    assert {name: layer.rank for name, layer in found.layers.items()} == {
        name: layer.rank for name, layer in lora.layers.items()
    }  # of the rank asked for, only what isn't zero
    assert report.error < 1e-5
    merge_loras(base, [(found, 1)], tmp_path / "again")
    models = [LTXTransformer3DModel.from_pretrained(tmp_path / name).eval() for name in ("tuned", "again")]
    assert largest_error(output(models[1]), output(models[0])) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_is_that_of_the_singular_values_left_out(
    dtype: torch.dtype, base: Path, tmp_path: Path
) -> None:
    names = (
        "proj_in.weight",
        "transformer_blocks.0.ff.net.2.weight",
        "transformer_blocks.1.attn1.to_q.weight",
    )
    parameters = dict(base_transformer().named_parameters())
    change = {name: torch.randn(parameters[name].shape) for name in names}
    lora, report = extract_lora(base, changed(tmp_path / "tuned", change), rank=3, dtype=dtype)

    left = {
        name: torch.linalg.svdvals(difference.double())[3:].norm().item()
        for name, difference in change.items()
    }
    whole = {name: difference.double().norm().item() for name, difference in change.items()}
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    assert report.errors["transformer_blocks.0"] == pytest.approx(
        left[names[1]] / whole[names[1]], rel=tolerance
    )
    everything = torch.tensor(list(left.values())).norm() / torch.tensor(list(whole.values())).norm()
    assert report.error == pytest.approx(everything.item(), rel=tolerance)
    stored = (change[names[0]] - lora.layers["proj_in"].product()).norm().item()
    assert report.errors["outside the blocks"] == pytest.approx(stored / whole[names[0]], rel=1e-5)
    assert {layer.up.dtype for layer in lora.layers.values()} == {dtype}


def test_large_weights_are_decomposed_nearly_as_well_and_reproducibly() -> None:
    generator = torch.Generator().manual_seed(1)
    spectrum = torch.linspace(0, 6, 600).neg().exp()
    left = torch.linalg.qr(torch.randn(600, 600, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(640, 600, generator=generator)).Q
    matrix = left * spectrum @ right.T
    layer = low_rank(matrix, 20, generator=torch.Generator().manual_seed(0))
    best = spectrum[20:].norm()
    assert (matrix - layer.product()).norm() < 1.002 * best
    again = low_rank(matrix, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer.up, again.up)


def test_layouts_may_differ(base: Path, tmp_path: Path) -> None:
    model = base_transformer()
    model.proj_in.weight.data += torch.outer(torch.arange(16.0), torch.arange(8.0))
    config = {"config": json.dumps(official_config(model))}
    save_file(official_tensors(model), tmp_path / "tuned.safetensors", metadata=config)
    lora, report = extract_lora(base, tmp_path / "tuned.safetensors", rank=4)
    assert list(lora.layers) == ["proj_in"]
    assert lora.layers["proj_in"].rank == 1
    assert report.error < 5e-3


def test_what_low_rank_cant_hold_is_named_or_kept_whole(base: Path, tmp_path: Path) -> None:
    change = {
        "proj_out.weight": torch.randn(8, 16),
        "proj_out.bias": torch.full((8,), 0.5),
        "transformer_blocks.0.attn1.norm_q.weight": torch.full((16,), 0.25),
        "transformer_blocks.0.scale_shift_table": torch.full((6, 16), 0.125),
    }
    tuned = changed(tmp_path / "tuned", change)
    _, report = extract_lora(base, tuned, rank=8)
    assert report.left_out == pytest.approx(
        {name: difference.norm().item() for name, difference in change.items() if name != "proj_out.weight"},
        rel=1e-5,
    )
    whole, report = extract_lora(base, tuned, rank=8, dtype=torch.float32, differences=True)
    assert not report.left_out
    merge_loras(base, [(whole, 1)], tmp_path / "again")
    models = [LTXTransformer3DModel.from_pretrained(tmp_path / name).eval() for name in ("tuned", "again")]
    assert largest_error(output(models[1]), output(models[0])) < 2e-5


def test_what_cant_be_extracted_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rank must be positive; got 0"):
        extract_lora(base, base, rank=0)
    with pytest.raises(InputError, match="float32, bfloat16 or float16"):
        extract_lora(base, base, dtype=torch.float8_e4m3fn)
    with pytest.raises(InputError, match="don't differ.*two equal transformers"):
        extract_lora(base, base)
    tuned = changed(tmp_path / "bias", {"proj_out.bias": torch.ones(8)})
    with pytest.raises(InputError, match=r"got differences in proj_out.bias only"):
        extract_lora(base, tuned)
    deeper = LTXTransformer3DModel(**{**base_transformer().config, "num_layers": 3})
    deeper.save_pretrained(tmp_path / "deeper")
    with pytest.raises(CheckpointError, match=r"transformer_blocks.2.* differ in shape"):
        extract_lora(base, tmp_path / "deeper")
    broken = changed(tmp_path / "broken", {"proj_in.weight": torch.full((16, 8), torch.nan)})
    with pytest.raises(CheckpointError, match="NaN"):
        extract_lora(base, broken)


def test_an_extracted_lora_has_an_alpha_for_each_rank(base: Path, tmp_path: Path) -> None:
    lora = some_lora("patterns")
    kept = {name: replace(layer, up=layer.up.clone()) for name, layer in lora.layers.items()}
    merge_loras(base, [(Lora(kept), 1)], tmp_path / "tuned")
    found, _ = extract_lora(base, tmp_path / "tuned", rank=8)
    assert all(layer.scale == 1 for layer in found.layers.values())
