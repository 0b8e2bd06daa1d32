"""LoRA files of every format: what they mean is what PEFT computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.loras import (
    KINDS,
    adapted_transformer,
    base_transformer,
    largest_error,
    output,
    pipeline,
    some_lora,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from ltx_diffusers.conversion.lora.adapter_config import AdapterConfig, peft_settings
from ltx_diffusers.conversion.lora.files import read_lora, write_lora
from ltx_diffusers.conversion.lora.formats import FORMATS, from_tensors, to_tensors
from ltx_diffusers.conversion.lora.layers import Lora
from ltx_diffusers.conversion.lora.peft_model import extract_adapter
from ltx_diffusers.errors import CheckpointError, InputError, UnknownNameError

ROUNDING = 2e-6


def loaded(path: Path) -> torch.Tensor:
    """What a transformer gives with the LoRA of a file."""
    pipe = pipeline()
    pipe.load_lora_weights(path)
    return output(pipe.transformer)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_keeps_what_an_adapter_computes(kind: str, format: str, tmp_path: Path) -> None:
    model = adapted_transformer(kind)
    expected = output(model)
    assert largest_error(output(base_transformer()), expected) > 0.1
    path = write_lora(extract_adapter(model), tmp_path / "lora", format)
    assert largest_error(loaded(path), expected) < ROUNDING


def through(lora: Lora, format: str) -> Lora:
    """What is read of what is written."""
    config = AdapterConfig(peft_settings(lora), "it") if format in ("diffusers", "peft") else None
    return from_tensors(to_tensors(lora, format), config)


@pytest.mark.parametrize("kind", KINDS)
def test_formats_convert_into_each_other_and_back(kind: str) -> None:
    lora = some_lora(kind)
    for first in FORMATS:
        for second in FORMATS:
            there = through(through(lora, first), second)
            assert there.format == second
            assert there.layers.keys() == lora.layers.keys()
            for name, layer in there.layers.items():
                original = lora.layers[name]
                assert torch.equal(layer.down, original.down)
                assert torch.equal(layer.up, original.up)
                assert layer.scale == pytest.approx(original.scale, rel=1e-7)
                assert (layer.magnitude is None) == (original.magnitude is None)
                if layer.magnitude is not None:
                    assert torch.equal(layer.magnitude, original.magnitude)
                if original.bias is not None:
                    torch.testing.assert_close(layer.bias_update(), original.bias_update())


@pytest.mark.parametrize("kind", KINDS)
def test_folders_of_peft_are_read_and_peft_reads_ours(kind: str, tmp_path: Path) -> None:
    settings_ = {"target_modules": ["to_q", "proj_in", "linear_2"], "init_lora_weights": False, **KINDS[kind]}
    theirs = get_peft_model(base_transformer(), LoraConfig(**settings_))
    theirs.save_pretrained(tmp_path / "peft")
    expected = output(theirs)
    assert largest_error(loaded(tmp_path / "peft"), expected) < ROUNDING

    write_lora(read_lora(tmp_path / "peft"), tmp_path / "ours", "peft")
    again = PeftModel.from_pretrained(base_transformer(), str(tmp_path / "ours"))
    assert largest_error(output(again), expected) < ROUNDING


def test_names_are_those_of_comfyui_and_kohya() -> None:
    lora = some_lora("dora")
    comfy, kohya = to_tensors(lora, "comfy"), to_tensors(lora, "kohya")
    for path in (
        "patchify_proj",
        "adaln_single.emb.timestep_embedder.linear_1",
        "transformer_blocks.1.attn1.to_out.0",
    ):
        for end in ("lora_A.weight", "lora_B.weight", "alpha", "dora_scale"):
            assert f"diffusion_model.{path}.{end}" in comfy
        for end in ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale"):
            assert f"lora_unet_{path.replace('.', '_')}.{end}" in kohya
    assert not any(word in key for key in [*comfy, *kohya] for word in ("proj_in.", "time_embed", "proj_in_"))
    assert float(comfy["diffusion_model.patchify_proj.alpha"]) == 8
    assert comfy["diffusion_model.patchify_proj.dora_scale"].shape == (16, 1)


PREFIXED = [
    f"{prefix}{name}"
    for name in ("proj_in", "patchify_proj")
    for prefix in (
        "transformer.", "base_model.model.", "diffusion_model.", "model.diffusion_model.", "",
        "lora_unet_", "lora_transformer_", "lycoris_",
    )
]  # fmt: skip


@pytest.mark.parametrize("path", PREFIXED)
@pytest.mark.parametrize(
    "ends", ["A.weight B.weight", "down.weight up.weight", "A B", "A.default.weight B.default.weight"]
)
def test_any_prefix_goes_with_any_spelling(path: str, ends: str) -> None:
    keys = [f"{path}.lora_{end}" for end in ends.split()]
    down, up = torch.randn(2, 8), torch.randn(16, 2)
    lora = from_tensors(dict(zip(keys, (down, up), strict=True)))
    assert list(lora.layers) == ["proj_in"]
    layer = lora.layers["proj_in"]
    assert torch.equal(layer.product(), up @ down)  # no alpha: not scaled


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("transformer_blocks_11_attn1_to_out_0", "transformer_blocks.11.attn1.to_out.0"),
        ("transformer_blocks_0_ff_net_0_proj", "transformer_blocks.0.ff.net.0.proj"),
        ("transformer_blocks_27_ff_net_2", "transformer_blocks.27.ff.net.2"),
        ("adaln_single_emb_timestep_embedder_linear_2", "time_embed.emb.timestep_embedder.linear_2"),
        ("adaln_single_linear", "time_embed.linear"),
        ("caption_projection_linear_1", "caption_projection.linear_1"),
        ("proj_out", "proj_out"),
    ],
)
def test_kohyas_underscores_are_told_from_dots(path: str, ours: str) -> None:
    lora = from_tensors(
        {
            f"lora_unet_{path}.lora_down.weight": torch.ones(1, 4),
            f"lora_unet_{path}.lora_up.weight": torch.ones(3, 1),
        }
    )
    assert list(lora.layers) == [ours]


GOOD = {
    "transformer.proj_in.lora_A.weight": torch.ones(2, 8),
    "transformer.proj_in.lora_B.weight": torch.ones(16, 2),
}


@pytest.mark.parametrize(
    ("key", "shape", "reason"),
    [
        ("text_encoder.shared.lora_A.weight", (2, 8), "text encoder"),
        ("lora_te_encoder_block_0.lora_down.weight", (2, 8), "text encoder"),
        ("transformer.transformer_blocks.0.audio_attn1.to_q.lora_A.weight", (2, 8), "LTX-2"),
        ("transformer.transformer_blocks.0.attn3.to_q.lora_A.weight", (2, 8), "no such layer"),
        ("transformer.transformer_blocks.00.attn1.to_q.lora_A.weight", (2, 8), "no such layer"),
        ("transformer.proj_out.lora_A.weight", (2, 8), "other matrix (lora_B) is missing"),
        ("transformer.proj_out.lora_B.weight", (2, 8), "other matrix (lora_A) is missing"),
        ("diffusion_model.proj_out.lokr_w1", (2, 8), "LoKr"),
        ("diffusion_model.proj_out.hada_w1_a", (2, 8), "LoHa"),
        ("base_model.model.proj_out.weight", (8, 16), "copy of the model's own parameter"),
        ("transformer.proj_out.something", (1,), "unknown kind"),
        ("transformer.transformer_blocks.0.nonsense.diff", (1,), "no such layer"),
    ],
)
def test_what_cant_be_used_is_listed_with_the_reason(key: str, shape: tuple[int, ...], reason: str) -> None:
    lora = from_tensors({**GOOD, key: torch.ones(shape)})
    assert list(lora.layers) == ["proj_in"]
    assert reason in lora.unmatched[key]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lora_A.weight": torch.ones(3, 8)}, "have no product"),
        ({"lora_A.weight": torch.ones(2, 8, 1, 1)}, "have no product"),
        ({"lora_A.weight": torch.ones(0, 8), "lora_B.weight": torch.ones(16, 0)}, "have no product"),
        ({"lora_A.weight": torch.ones(2, 8, dtype=torch.int8)}, "aren't floating-point"),
        ({"alpha": torch.ones(2)}, "alpha isn't one number"),
        ({"dora_scale": torch.ones(1, 8)}, "isn't one number per output"),
        ({"lora_B.bias": torch.ones(3)}, "isn't one number per output"),
        ({"lora_B.bias": torch.ones(16), "dora_scale": torch.ones(16)}, "isn't defined"),
    ],
)
def test_a_layer_whose_tensors_dont_fit_is_listed_whole(changes: dict, reason: str) -> None:
    other = {key.replace("proj_in", "proj_out"): tensor for key, tensor in GOOD.items()}
    bad = {**GOOD, **{f"transformer.proj_in.{end}": tensor for end, tensor in changes.items()}}
    lora = from_tensors({**bad, **other})
    assert list(lora.layers) == ["proj_out"]
    assert lora.unmatched.keys() == bad.keys()
    assert all(reason in text for text in lora.unmatched.values())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "no LoRA of an LTX-Video transformer; got no tensors"),
        ({"unet.down.lora_A.weight": torch.ones(2, 8)}, "no LoRA of an LTX-Video transformer"),
        (
            {**GOOD, "diffusion_model.patchify_proj.lora_A.weight": torch.ones(2, 8)},
            "two tensors for one part of proj_in",
        ),
        ({**GOOD, "transformer.proj_in.lora_A.weight": torch.full((2, 8), torch.nan)}, "NaN"),
        ({**GOOD, "transformer.proj_in.lora_B.weight": torch.full((16, 2), torch.inf)}, "infinite"),
        (
            {"proj_in.lora_A.one.weight": torch.ones(2, 8), "proj_in.lora_A.two.weight": torch.ones(2, 8)},
            "several adapters; got one, two",
        ),
    ],
)
def test_files_without_a_meaning_are_refused(tensors: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        from_tensors(tensors)


def test_alpha_in_the_file_goes_before_that_of_a_description() -> None:
    config = AdapterConfig({"r": 2, "lora_alpha": 6}, "a description")
    assert from_tensors(GOOD, config).layers["proj_in"].scale == 3
    for one in (torch.tensor(1.0), torch.tensor([1]), torch.tensor(1, dtype=torch.bfloat16)):
        stated = {**GOOD, "transformer.proj_in.alpha": one}
        assert from_tensors(stated, config).layers["proj_in"].scale == 0.5


def test_full_differences_are_kept_for_comfyui_and_refused_for_peft() -> None:
    tensors = {
        "diffusion_model.transformer_blocks.1.attn2.q_norm.diff": torch.randn(16),
        "diffusion_model.transformer_blocks.1.scale_shift_table.diff": torch.randn(6, 16),
        "diffusion_model.scale_shift_table.diff": torch.randn(2, 16),
        "diffusion_model.proj_out.diff": torch.randn(8, 16),
        "diffusion_model.proj_out.diff_b": torch.randn(8),
    }
    lora = from_tensors(tensors)
    assert set(lora.differences) == {
        "transformer_blocks.1.attn2.norm_q.weight",
        "transformer_blocks.1.scale_shift_table",
        "scale_shift_table",
        "proj_out.weight",
        "proj_out.bias",
    }
    written = to_tensors(lora, "comfy")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[key], tensors[key]) for key in tensors)
    assert to_tensors(from_tensors(to_tensors(lora, "kohya")), "comfy").keys() == tensors.keys()
    for format in ("diffusers", "peft"):
        with pytest.raises(InputError, match="full differences"):
            to_tensors(lora, format)


def test_dora_on_a_part_of_the_layers_is_refused_for_peft() -> None:
    lora = some_lora("dora")
    layers = {**lora.layers, "proj_in": replace(lora.layers["proj_in"], magnitude=None)}
    with pytest.raises(InputError, match="on all layers or on none; got none on proj_in"):
        to_tensors(replace(lora, layers=layers), "diffusers")
    assert len(to_tensors(replace(lora, layers=layers), "comfy")) == 4 * len(layers) - 1


def test_8_bit_matrices_are_widened_without_loss() -> None:
    small = {key: tensor.mul(1.25).to(torch.float8_e4m3fn) for key, tensor in GOOD.items()}
    layer = from_tensors(small).layers["proj_in"]
    assert layer.down.dtype == torch.bfloat16
    assert torch.equal(layer.product(), torch.full((16, 8), 2 * 1.25**2))


def test_an_unknown_format_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="one of diffusers, peft, comfy, kohya"):
        write_lora(some_lora(), tmp_path / "x.safetensors", "lycoris")
    assert not list(tmp_path.iterdir())


PIECES = st.sampled_from(
    [
        "transformer",
        "base_model.model",
        "diffusion_model",
        "lora_unet_proj_in",
        "proj_in",
        "proj_out",
        "lora_A",
        "lora_B",
        "weight",
        "bias",
        "alpha",
        "diff",
        "diff_b",
        "dora_scale",
        "transformer_blocks.0.attn1.to_q",
        "default",
        "é",
    ]
)
KEYS = st.lists(PIECES, min_size=1, max_size=5).map(".".join)
TENSORS = st.lists(st.integers(0, 3), max_size=3).map(torch.ones)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, TENSORS, max_size=6))
def test_any_keys_and_shapes_are_read_or_refused(tensors: dict[str, torch.Tensor]) -> None:
    try:
        lora = from_tensors(tensors)
    except CheckpointError:
        return
    for format in ("comfy", "kohya"):
        again = from_tensors(to_tensors(lora, format))
        assert again.layers.keys() == lora.layers.keys()
        assert again.differences.keys() == lora.differences.keys()


def test_a_dtype_can_be_chosen(tmp_path: Path) -> None:
    path = write_lora(some_lora(), tmp_path / "x.safetensors", "comfy", torch.bfloat16)
    tensors = load_file(path)
    assert {tensor.dtype for key, tensor in tensors.items() if not key.endswith("alpha")} == {torch.bfloat16}
    save_file(tensors, path)
    assert read_lora(path).dtypes == [torch.bfloat16]
