"""LoRA on the pipelines: loaded, weighed, fused, swapped, saved, and refused where it would do nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.loras import (
    KINDS,
    adapted_transformer,
    add_adapter,
    base_transformer,
    largest_error,
    output,
    pipeline,
    saved,
    some_lora,
)
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from ltx_diffusers import LTXImageToVideoPipeline, LTXPipeline
from ltx_diffusers.conversion.lora.files import read_lora, write_lora
from ltx_diffusers.conversion.lora.formats import to_tensors
from ltx_diffusers.conversion.lora.layers import Lora
from ltx_diffusers.conversion.lora.peft_model import extract_adapter, lora_modules
from ltx_diffusers.errors import CheckpointError, InputError

ROUNDING = 5e-6


@pytest.fixture
def one(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    return saved(tmp_path / "one")


@pytest.mark.parametrize("cls", [LTXPipeline, LTXImageToVideoPipeline])
def test_both_pipelines_load_weigh_fuse_and_unload(cls: type, one: tuple[Path, torch.Tensor]) -> None:
    path, expected = one
    pipe = pipeline(cls)
    before = {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}
    report = pipe.load_lora_weights(path, "style")
    assert len(report.matched) == 2 * 27
    assert not report.unmatched
    assert report.norm > 1
    assert pipe.get_active_adapters() == ["style"]
    assert largest_error(output(pipe.transformer), expected) < ROUNDING

    pipe.set_adapters("style", 0.0)
    assert torch.equal(output(pipe.transformer), output(base_transformer()))
    pipe.set_adapters("style", 1.0)
    pipe.fuse_lora()
    assert pipe.num_fused_loras == 1
    assert largest_error(output(pipe.transformer), expected) < ROUNDING
    pipe.unfuse_lora()
    assert largest_error(output(pipe.transformer), expected) < ROUNDING
    pipe.disable_lora()
    assert largest_error(output(pipe.transformer), output(base_transformer())) < ROUNDING

    pipe.unload_lora_weights()
    after = pipe.transformer.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=2e-6)


def test_a_lora_changes_the_videos_of_a_call(one: tuple[Path, torch.Tensor]) -> None:
    pipe = pipeline()

    def call(**kwargs: object) -> torch.Tensor:
        return pipe(
            "a red circle", height=32, width=32, num_frames=9, num_inference_steps=2, output_type="latent",
            generator=torch.Generator().manual_seed(0), **kwargs,
        ).frames  # fmt: skip

    plain = call()
    pipe.load_lora_weights(one[0], "style")
    styled = call()
    assert largest_error(styled, plain) > 0.01
    assert torch.equal(call(attention_kwargs={"scale": 1.0}), styled)
    pipe.set_adapters("style", 0.5)
    half = call()
    pipe.set_adapters("style", 1.0)
    assert largest_error(call(attention_kwargs={"scale": 0.5}), half) < ROUNDING


def test_several_loras_act_together_by_their_weights(tmp_path: Path) -> None:
    first, _ = saved(tmp_path / "first")
    second, _ = saved(tmp_path / "second", "patterns", seed=2)
    model = base_transformer()
    for path, weight in ((first, 0.5), (second, -2)):
        for name, layer in read_lora(path).layers.items():
            model.get_submodule(name).weight.data += weight * layer.scale * layer.up @ layer.down
    pipe = pipeline()
    pipe.load_lora_weights(first, "first")
    pipe.load_lora_weights(second, "second")
    pipe.set_adapters(["first", "second"], [0.5, -2])
    assert largest_error(output(pipe.transformer), output(model)) < ROUNDING
    pipe.fuse_lora()
    assert largest_error(output(pipe.transformer), output(model)) < ROUNDING
    pipe.unfuse_lora()
    pipe.delete_adapters("second")
    pipe.set_adapters("first")
    assert largest_error(output(pipe.transformer), output(adapted_transformer())) < ROUNDING


@pytest.mark.parametrize("kind", KINDS)
def test_fusing_with_a_scale_is_undone_whole(kind: str, tmp_path: Path) -> None:
    path, expected = saved(tmp_path / "x", kind)
    pipe = pipeline()
    pipe.load_lora_weights(path, "style")
    pipe.set_adapters("style", 0.5)
    half = output(pipe.transformer)
    pipe.set_adapters("style", 1.0)
    pipe.fuse_lora(lora_scale=0.5, safe_fusing=True)
    assert largest_error(output(pipe.transformer), half) < ROUNDING
    pipe.unfuse_lora()
    assert pipe.num_fused_loras == 0
    assert largest_error(output(pipe.transformer), expected) < ROUNDING


def test_an_adapter_that_isnt_active_can_be_fused_with_a_scale(tmp_path: Path) -> None:
    pipe = pipeline()
    for name, seed in (("first", 1), ("second", 2)):
        pipe.load_lora_weights(saved(tmp_path / name, seed=seed)[0], name)
    pipe.set_adapters("second", 0.5)
    expected = output(pipe.transformer)
    pipe.set_adapters("second", 1.0)
    pipe.set_adapters("first")
    pipe.fuse_lora(lora_scale=0.5, adapter_names=["second"])
    assert largest_error(output(pipe.transformer), expected) < ROUNDING


def test_what_a_fused_lora_would_make_pointless_is_refused(tmp_path: Path) -> None:
    path, expected = saved(tmp_path / "x")
    pipe = pipeline()
    pipe.load_lora_weights(path, "style")
    pipe.fuse_lora()
    for action in (
        lambda: pipe.load_lora_weights(path, "other"),
        lambda: pipe.load_lora_weights(path, "style", hotswap=True),
        lambda: pipe.set_adapters("style", 0.5),
        lambda: pipe.delete_adapters("style"),
        lambda: pipe.fuse_lora(),
    ):
        with pytest.raises(InputError, match=r"LoRAs are fused \(style\).*unfuse_lora"):
            action()
    pipe.unload_lora_weights()  # what is fused stays
    assert largest_error(output(pipe.transformer), expected) < ROUNDING
    pipe.load_lora_weights(path, "style")
    assert largest_error(output(pipe.transformer), expected) > 0.01


def test_a_fusing_that_fails_leaves_no_trace(one: tuple[Path, torch.Tensor]) -> None:
    pipe = pipeline()
    pipe.load_lora_weights(one[0], "style")
    last = list(lora_modules(pipe.transformer))[-1][1]
    last.lora_B["style"].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        pipe.fuse_lora(lora_scale=0.5, safe_fusing=True)
    last.lora_B["style"].weight.data.nan_to_num_()
    scales = {module.scaling["style"] for _, module in lora_modules(pipe.transformer)}
    assert scales == {4.0}
    pipe.disable_lora()
    assert largest_error(output(pipe.transformer), output(base_transformer())) < ROUNDING


@pytest.mark.parametrize("target_rank", [None, 8])
def test_loras_are_swapped_with_their_ranks_and_scales(target_rank: int | None, tmp_path: Path) -> None:
    files = [
        saved(tmp_path / "first"),
        saved(tmp_path / "second", "patterns", seed=2),
        saved(tmp_path / "third", "rslora", seed=3, target_modules=["to_q", "proj_in"]),
        saved(tmp_path / "fourth", "alpha", seed=4, r=6),
    ]
    pipe = pipeline()
    if target_rank is not None:
        pipe.enable_lora_hotswap(target_rank=target_rank)
    pipe.load_lora_weights(files[0][0], "style")
    for path, expected in [*files, files[1]]:
        pipe.load_lora_weights(path, "style", hotswap=True)
        assert largest_error(output(pipe.transformer), expected) < ROUNDING
        again = write_lora(extract_adapter(pipe.transformer), tmp_path / "again.safetensors")
        assert all(layer.rank <= 6 for layer in read_lora(again).layers.values())
    pipe.set_adapters("style", 0.5)
    pipe.set_adapters("style", 1.0)
    assert largest_error(output(pipe.transformer), files[1][1]) < ROUNDING
    pipe.transformer.to(torch.float64)  # wants every tensor to be a parameter still


def test_swapping_leaves_the_callers_tensors_alone(tmp_path: Path) -> None:
    path, expected = saved(tmp_path / "x", r=6)
    tensors = load_file(path)
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    pipe = pipeline()
    pipe.load_lora_weights(saved(tmp_path / "small")[0], "style")
    for _ in range(2):
        pipe.load_lora_weights(tensors, "style", hotswap=True)
    assert all(torch.equal(tensors[name], kept[name]) for name in kept)
    scaled = {name: layer.scale for name, layer in extract_adapter(pipe.transformer).layers.items()}
    assert set(scaled.values()) == {1.0}  # tensors alone don't say alpha
    assert largest_error(output(pipe.transformer), expected) > 0.01


def test_swaps_that_peft_cant_do_are_refused_beforehand(tmp_path: Path) -> None:
    pipe = pipeline()
    path, _ = saved(tmp_path / "all")
    with pytest.raises(InputError, match="no adapter 'style' to swap; expected a loaded adapter"):
        pipe.load_lora_weights(path, "style", hotswap=True)
    pipe.load_lora_weights(saved(tmp_path / "few", target_modules=["to_q"])[0], "style")
    expected = output(pipe.transformer)
    with pytest.raises(InputError, match="may not change layers that the one before it didn't; got 23"):
        pipe.load_lora_weights(path, "style", hotswap=True)
    with pytest.raises(InputError, match="can't swap LoRAs with DoRA"):
        pipe.load_lora_weights(
            saved(tmp_path / "dora", "dora", target_modules=["to_q"])[0], "style", hotswap=True
        )
    with pytest.raises(InputError, match="biases"):
        pipe.load_lora_weights(
            saved(tmp_path / "bias", "bias", target_modules=["to_q"])[0], "style", hotswap=True
        )
    with pytest.raises(InputError, match="already an adapter 'style'"):
        pipe.load_lora_weights(path, "style")
    assert torch.equal(output(pipe.transformer), expected)


def test_a_lora_without_effect_is_refused_before_the_model_is_touched(tmp_path: Path) -> None:
    lora = some_lora()
    zero = {name: replace(layer, up=layer.up * 0) for name, layer in lora.layers.items()}
    write_lora(Lora(zero), tmp_path / "zero.safetensors", "comfy")
    larger = {
        name: replace(layer, up=layer.up.repeat(2, 1), down=layer.down.repeat(1, 2))
        for name, layer in lora.layers.items()
    }
    write_lora(Lora(larger), tmp_path / "larger.safetensors", "kohya")
    deep = {
        name.replace("blocks.1", "blocks.40"): layer
        for name, layer in lora.layers.items()
        if "blocks.1" in name
    }
    write_lora(Lora(deep), tmp_path / "deep.safetensors")
    pipe = pipeline()
    for name, message in (
        ("zero", "every update is zero"),
        ("larger", r"made for a weight of shape \(\d+, \d+\), the model's is \(\d+, \d+\)"),
        ("deep", "the model has no such layer"),
    ):
        with pytest.raises(InputError, match=f"{name}.safetensors would have no effect.*{message}"):
            pipe.load_lora_weights(tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="no LoRA of an LTX-Video transformer"):
        pipe.load_lora_weights({"unet.x.lora_A.weight": torch.ones(1, 1)})
    assert not list(lora_modules(pipe.transformer))
    assert not hasattr(pipe.transformer, "peft_config")


def test_a_part_that_isnt_used_is_warned_of(
    one: tuple[Path, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    tensors = {**load_file(one[0]), "text_encoder.shared.lora_A.weight": torch.ones(2, 2)}
    pipe = pipeline()
    with caplog.at_level(logging.WARNING, "ltx_diffusers"):
        report = pipe.load_lora_weights(tensors)
    assert list(report.unmatched) == ["text_encoder.shared.lora_A.weight"]
    assert "text_encoder.shared.lora_A.weight: it is for a text encoder" in caplog.text


def test_a_lora_for_fused_projections_is_refused(one: tuple[Path, torch.Tensor]) -> None:
    pipe = pipeline()
    pipe.transformer.fuse_qkv_projections()
    with pytest.raises(InputError, match="no effect on them; call pipe.transformer.unfuse_qkv_projections"):
        pipe.load_lora_weights(one[0])
    pipe.transformer.unfuse_qkv_projections()
    pipe.load_lora_weights(one[0])
    assert largest_error(output(pipe.transformer), one[1]) < ROUNDING


@pytest.mark.parametrize("kind", ["patterns", "bias"])
def test_a_lora_keeps_its_precision_under_layerwise_casting(kind: str, tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "x", kind)
    outputs = []
    for lora_first in (True, False):
        pipe = pipeline()
        if lora_first:
            pipe.load_lora_weights(path)
        pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32, ("norm", "lora_"))
        if not lora_first:
            pipe.load_lora_weights(path)
        outputs.append(output(pipe.transformer))
    assert largest_error(outputs[1], outputs[0]) < ROUNDING
    with pytest.raises(InputError, match="can't be fused into weights stored as float8 numbers; got "):
        pipe.fuse_lora()
    assert largest_error(output(pipe.transformer), outputs[0]) < ROUNDING
    with pytest.raises(InputError, match="PEFT's DoRA can't compute with weights stored as float8 numbers"):
        pipe.load_lora_weights(saved(tmp_path / "dora", "dora")[0])


@pytest.mark.slow
def test_swapping_needs_no_new_compilation(tmp_path: Path) -> None:
    compilations = []

    def backend(module: torch.fx.GraphModule, inputs: list) -> object:
        compilations.append(inputs)
        return module.forward

    pipe = pipeline()
    pipe.enable_lora_hotswap(target_rank=6)
    first, second = saved(tmp_path / "first"), saved(tmp_path / "second", "patterns", seed=2)
    pipe.load_lora_weights(first[0], "style")
    torch._dynamo.reset()
    pipe.transformer.compile(backend=backend)
    assert largest_error(output(pipe.transformer), first[1]) < ROUNDING
    count = len(compilations)
    assert count
    pipe.load_lora_weights(second[0], "style", hotswap=True)
    assert largest_error(output(pipe.transformer), second[1]) < ROUNDING
    assert len(compilations) == count


def test_what_is_saved_from_a_model_is_what_it_had(tmp_path: Path) -> None:
    model = adapted_transformer("patterns", name="style")
    for format in ("diffusers", "peft", "comfy", "kohya"):
        path = LTXPipeline.save_lora_weights(tmp_path / format, model, adapter_name="style", format=format)
        pipe = pipeline()
        pipe.load_lora_weights(path.parent)
        assert largest_error(output(pipe.transformer), output(model)) < ROUNDING


def test_tensors_are_saved_as_diffusers_scripts_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = adapted_transformer("patterns")
    tensors = get_peft_model_state_dict(model)
    with caplog.at_level(logging.WARNING, "ltx_diffusers"):
        LTXPipeline.save_lora_weights(
            tmp_path / "full", transformer_lora_layers=tensors,
            transformer_lora_adapter_metadata=model.peft_config["default"].to_dict(),
        )  # fmt: skip
        assert not caplog.text
        LTXPipeline.save_lora_weights(tmp_path / "bare", transformer_lora_layers=tensors)
        assert "don't say alpha" in caplog.text
    pipe = pipeline()
    pipe.load_lora_weights(tmp_path / "full")
    assert largest_error(output(pipe.transformer), output(model)) < ROUNDING
    assert {layer.scale for layer in read_lora(tmp_path / "bare").layers.values()} == {1.0}


def test_savings_options(tmp_path: Path) -> None:
    model = adapted_transformer(name="style")
    assert LTXPipeline.save_lora_weights(tmp_path / "x", model, is_main_process=False) is None
    assert not (tmp_path / "x").exists()
    path = LTXPipeline.save_lora_weights(
        tmp_path / "x", model, weight_name="a.safetensors", dtype=torch.float16
    )
    assert path == tmp_path / "x" / "a.safetensors"
    assert read_lora(path).dtypes == [torch.float16]
    kept: dict = {}
    LTXPipeline.save_lora_weights(
        tmp_path / "y", model, save_function=lambda tensors, name: kept.update({name: tensors})
    )
    assert kept.keys() == {str(tmp_path / "y" / "pytorch_lora_weights.safetensors")}
    add_adapter(model, name="other")
    for arguments, message in (
        ({}, "which adapter is meant.*got adapters style, other"),
        ({"adapter_name": "none"}, "has no adapter 'none'"),
        ({"safe_serialization": False}, "safetensors"),
        ({"adapter_name": "style", "format": "x"}, "unknown LoRA format"),
    ):
        with pytest.raises(InputError, match=message):
            LTXPipeline.save_lora_weights(tmp_path / "z", model, **arguments)
    with pytest.raises(InputError, match="a model without adapters"):
        LTXPipeline.save_lora_weights(tmp_path / "z", base_transformer())
    with pytest.raises(InputError, match="nothing to save"):
        LTXPipeline.save_lora_weights(tmp_path / "z")


def test_unknown_adapters_are_named(one: tuple[Path, torch.Tensor]) -> None:
    pipe = pipeline()
    for action in (
        lambda: pipe.set_adapters("x"),
        lambda: pipe.delete_adapters("x"),
        lambda: pipe.fuse_lora(),
    ):
        with pytest.raises(InputError):
            action()
    pipe.load_lora_weights(one[0], "style")
    with pytest.raises(InputError, match="no adapter 'x'; expected one of style"):
        pipe.set_adapters(["style", "x"])


def test_lora_state_dict_gives_diffusers_keys_for_any_format(tmp_path: Path) -> None:
    lora = some_lora("patterns")
    path = write_lora(lora, tmp_path / "x.safetensors", "kohya")
    tensors, metadata = LTXPipeline.lora_state_dict(path, return_lora_metadata=True)
    expected = to_tensors(lora, "diffusers")
    assert tensors.keys() == expected.keys()
    assert metadata["transformer.alpha_pattern"]["proj_in"] == 1
    assert LTXPipeline.lora_state_dict(path).keys() == expected.keys()
    with pytest.raises(InputError, match="changes no layer"):
        LTXPipeline.lora_state_dict({"diffusion_model.proj_out.diff_b": torch.ones(8)})


def test_a_repository_is_read_from_the_cache(tmp_path: Path) -> None:
    """Without a network; what is downloaded lies in the cache in this form."""
    snapshot = tmp_path / "models--someone--style" / "snapshots" / ("0" * 40)
    path, expected = saved(snapshot)
    references = tmp_path / "models--someone--style" / "refs"
    references.mkdir()
    (references / "main").write_text("0" * 40)
    pipe = pipeline()
    pipe.load_lora_weights("someone/style", cache_dir=tmp_path)
    assert largest_error(output(pipe.transformer), expected) < ROUNDING
    assert read_lora(path).layers
    with pytest.raises(InputError, match="someone/other is not in the local cache"):
        pipe.load_lora_weights("someone/other", cache_dir=tmp_path)
    for missing in ("no such thing", "folder/style.safetensors", "some/where/else"):
        with pytest.raises(InputError, match=f"there is no file, folder or repository '{missing}'"):
            pipe.load_lora_weights(missing)
