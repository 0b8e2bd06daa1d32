"""`ltx-diffusers lora`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.loras import adapted_transformer, base_transformer, largest_error, output, pipeline, some_lora
from safetensors.torch import load_file, save_file

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.cli.app import main
from ltx_diffusers.conversion.lora.files import read_lora, write_lora


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer and a LoRA for it."""
    path = tmp_path_factory.mktemp("models")
    base_transformer().save_pretrained(path / "base")
    write_lora(some_lora("patterns"), path / "lora.safetensors")
    return path


def test_every_format_is_converted_into(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for format, name in (
        ("comfy", "c.safetensors"),
        ("kohya", "k.safetensors"),
        ("peft", "p"),
        ("diffusers", "d"),
    ):
        assert (
            main(["lora", "convert", str(folder / "lora.safetensors"), str(tmp_path / name), "--to", format])
            == 0
        )
        assert f"27 layers as {format}, read as diffusers" in capsys.readouterr().out
        pipe = pipeline()
        pipe.load_lora_weights(tmp_path / name)
        assert largest_error(output(pipe.transformer), output(adapted_transformer("patterns"))) < 5e-6


def test_converting_can_change_the_dtype(folder: Path, tmp_path: Path) -> None:
    command = [
        "lora",
        "convert",
        str(folder / "lora.safetensors"),
        str(tmp_path / "x.safetensors"),
        "--to",
        "comfy",
    ]
    assert main([*command, "--dtype", "bfloat16"]) == 0
    assert read_lora(tmp_path / "x.safetensors").dtypes == [torch.bfloat16]


def test_info_shows_ranks_scales_norms_and_what_is_not_used(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {
        **load_file(folder / "lora.safetensors"),
        "transformer.nothing.lora_A.weight": torch.ones(2, 2),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    assert main(["lora", "info", str(tmp_path / "x.safetensors"), "--checkpoint", str(folder / "base")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "diffusers, 27 layers" in shown
    assert "rank 2 (24 layers), 3 (2 layers), 4 (1 layer)" in shown
    assert "transformer_blocks.1" in shown
    assert "relative to the weights" in shown
    assert "not used: transformer.nothing.lora_A.weight: an LTX-Video transformer has no such layer" in shown


def test_info_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["lora", "info", str(folder / "lora.safetensors"), "--json"]
    assert main([*command, "--checkpoint", str(folder / "base")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "diffusers"
    assert len(report["matched"]) == 54
    assert report["norms"].keys() == report["relative"].keys()
    assert report["norm"] == pytest.approx(sum(norm**2 for norm in report["norms"].values()) ** 0.5)


def test_merge_and_extract(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora, base, merged, found = (
        str(path)
        for path in (folder / "lora.safetensors", folder / "base", tmp_path / "merged", tmp_path / "found")
    )
    assert main(["lora", "merge", base, merged, lora, lora, "--weight", "0.75", "--weight", "0.25"]) == 0
    shown = capsys.readouterr().out
    assert "at weight 0.75: 54 keys used, 0 not" in shown
    assert "27 tensors changed" in shown
    model = LTXTransformer3DModel.from_pretrained(merged).eval()
    assert largest_error(output(model), output(adapted_transformer("patterns"))) < 5e-6

    command = ["lora", "extract", base, merged, found, "--rank", "4", "--to", "peft", "--dtype", "float32"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "transformer_blocks.0: error 0.00%" in shown
    assert "27 layers of rank 4 or less" in shown
    assert "lacks 0.00% of a difference of norm" in shown
    pipe = pipeline()
    pipe.load_lora_weights(found)
    assert largest_error(output(pipe.transformer), output(model)) < 2e-5


def test_the_embedded_model_is_a_checkpoint_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {"proj_out.lora_A.weight": torch.ones(1, 9), "proj_out.lora_B.weight": torch.ones(9, 1)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert main(["lora", "info", str(tmp_path / "x.safetensors"), "--checkpoint", "embedded"]) == 2
    captured = capsys.readouterr()
    assert "made for a weight of shape (9, 9), the model's is" in " ".join(captured.err.split())
    assert "alpha / rank" not in captured.out and "norm of the change" not in captured.out  # there is none


def test_what_is_left_out_is_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = base_transformer()
    model.proj_in.weight.data += 1
    model.proj_in.bias.data += 1
    model.save_pretrained(tmp_path / "tuned")
    command = [
        "lora",
        "extract",
        str(folder / "base"),
        str(tmp_path / "tuned"),
        str(tmp_path / "x.safetensors"),
    ]
    assert main(command) == 0
    assert "left out: 1 parameter beside" in capsys.readouterr().out
    assert main([*command, "--to", "comfy", "--differences"]) == 0
    assert "left out" not in capsys.readouterr().out
    assert load_file(tmp_path / "x.safetensors")["diffusion_model.patchify_proj.diff_b"].shape == (16,)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("convert {lora} {new} --to onnx", "unknown LoRA format"),
        ("convert {lora} {new} --to comfy --dtype int8", "unknown dtype"),
        ("convert {lora} {new}.bin --to comfy", "written as a .safetensors file"),
        ("convert none.safetensors {new} --to comfy", "there is no file"),
        ("info {base}", "no LoRA of an LTX-Video transformer"),
        (
            "merge {base} {new} {lora} --weight 1 --weight 2",
            "the weights don't fit the LoRAs; got 2; expected 1",
        ),
        ("merge {base} {new} {lora} --weight 0", "other than 0"),
        ("merge {lora} {new}.safetensors {lora}", "no LTX-Video checkpoint"),
        ("extract {base} {base} {new}", "don't differ"),
        ("extract {base} {base} {new} --differences", "can't hold full differences"),
        ("extract {base} {base} {new} --rank 0", "rank must be positive"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    command: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"lora": folder / "lora.safetensors", "base": folder / "base", "new": tmp_path / "new"}
    assert main(["lora", *(word.format(**names) for word in command.split())]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_lora_without_effect_is_shown_and_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {"proj_in.lora_A.weight": torch.ones(2, 8), "proj_in.lora_B.weight": torch.zeros(16, 2)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert main(["lora", "info", str(tmp_path / "x.safetensors")]) == 2
    shown = capsys.readouterr()
    assert "1 layer," in shown.out
    assert "every update is zero" in shown.err


def test_wrong_choices_are_answered_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys; from ltx_diffusers.cli.app import main\n"
        "assert main(['lora', 'convert', 'a', 'b', '--to', 'onnx']) == 2\n"
        "assert main(['lora', '--help']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
