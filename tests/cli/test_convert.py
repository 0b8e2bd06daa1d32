"""The command `convert`."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.checkpoints import save_checkpoint
from safetensors.torch import load_file

from ltx_diffusers.cli import app
from ltx_diffusers.cli import convert as command
from ltx_diffusers.conversion import verify


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "source.safetensors", "0.9.1")
    return tmp_path / "source.safetensors"


def run(*arguments: object) -> int:
    return app.main(["convert", *map(str, arguments)])


def test_a_conversion_says_what_it_wrote(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, tmp_path / "out", "--to", "diffusers", "--shard-size", "1MB", "--verify") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("transformer: 65 tensors, 0.05 M parameters, float32, 0.2 MB")
    assert sum("sha256" in line for line in lines) == 2
    assert lines[-1].startswith(f"{tmp_path / 'out'}: diffusers of 0.9.1, 0.01 GB written in ")
    assert (tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors.index.json").is_file()


def test_dtypes_have_short_names(source: Path, tmp_path: Path) -> None:
    assert run(source, tmp_path / "out.safetensors", "--to", "official", "--dtype", "bf16") == 0
    dtypes = {str(tensor.dtype) for name, tensor in load_file(tmp_path / "out.safetensors").items()}
    assert dtypes == {"torch.bfloat16", "torch.float32"}  # the unused statistics stay


def test_the_embedded_model_can_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embedded", tmp_path / "out.safetensors", "--to", "official") == 0
    assert "left out: text encoder\nleft out: tokenizer\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source_name", "options", "message"),
    [
        ("source.safetensors", ["--to", "onnx"], "unknown layout; got 'onnx'"),
        ("source.safetensors", ["--to", "diffusers", "--dtype", "int4"], "unknown dtype; got 'int4'"),
        ("source.safetensors", ["--to", "diffusers", "--version", "1.0"], "unknown release '1.0'"),
        ("source.safetensors", ["--to", "diffusers", "--version", "0.9.5"], "isn't 0.9.5"),
        ("absent.safetensors", ["--to", "diffusers"], "there is no file or folder"),
        ("someone/model", ["--to", "diffusers"], "ltx-diffusers pull"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    source: Path,
    tmp_path: Path,
    source_name: str,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(source_name, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_difference_is_exit_code_2(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify.PartReport, "ok", False)
    assert run(source, tmp_path / "out", "--to", "diffusers", "--verify") == 2
    captured = capsys.readouterr()
    assert "verified transformer: DIFFERS" in captured.out
    assert "differs from" in captured.err


def test_a_terminal_sees_bars(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with command._progress() as progress:
        progress("writing", 500_000, 1_000_000)
        progress("writing", 1_000_000, 1_000_000)
        progress("verifying", 10, 20)
    error = capsys.readouterr().err
    assert "writing" in error and "verifying" in error and "1.0" in error and "MB" in error
