"""`ltx-diffusers evaluate reconstruction|latents|compare`: their tables, their files, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
import yaml
from helpers.media_sets import write_clips
from PIL import Image
from safetensors.torch import save_file
from tiny import vae_config

from ltx_diffusers import AutoencoderKLLTX
from ltx_diffusers.cli import app
from ltx_diffusers.data.video import read_video
from ltx_diffusers.evaluation import vae_plots

SHAPES = ["moving-shapes", "--size", "64x64", "--frames", "9", "--clips", "2"]


def tiny_vae(seed: int = 0, conditioned: bool = True) -> AutoencoderKLLTX:
    torch.manual_seed(seed)
    return AutoencoderKLLTX(**vae_config(conditioned, "0.9.5")).eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `ours`, `other` (a class of Diffusers), and `run`, of a training run with two checkpoints."""
    folder = tmp_path_factory.mktemp("models")
    tiny_vae().save_pretrained(folder / "ours")
    torch.manual_seed(0)
    diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).save_pretrained(folder / "other")
    config = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vae_config(True, "0.9.5").items()
    }
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump({"model": config}))
    for step in (5, 10):
        checkpoint = folder / "run" / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        weights = {f"vae.{name}": value.contiguous() for name, value in tiny_vae(step).state_dict().items()}
        save_file(weights, checkpoint / "model.safetensors")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_reconstruction(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "evaluate",
        "reconstruction",
        str(models / "ours"),
        *SHAPES,
        "--levels",
        "0,0.1",
        "--show",
        "1",
    ]
    for name in ("one", "two"):
        assert app.main([*arguments, "-o", str(tmp_path / name)]) == 0
    assert names(tmp_path / "one") == ["reconstruction.json", "reconstruction.png", "worst.mp4", "worst.png"]
    reports = [json.loads((tmp_path / name / "reconstruction.json").read_text()) for name in ("one", "two")]
    for part in ("model", "figures", "by_frame", "data", "left_out"):
        assert reports[0][part] == reports[1][part]
    assert list(reports[0]["figures"]) == ["default", "0", "0.1"]
    assert reports[0]["data"]["size"] == {"frames": 9, "height": 64, "width": 64}
    frames, _ = read_video(tmp_path / "one" / "worst.mp4")
    assert frames.shape == (9, 64, 128, 3)
    shown = capsys.readouterr().out
    for text in (
        "PSNR",
        "SSIM",
        "flicker",
        "megapixels/s",
        "peak memory",
        "LPIPS is left out",
        "AutoencoderKLLTX",
    ):
        assert text in shown


def test_latents(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "evaluate",
        "latents",
        str(models / "ours"),
        *SHAPES,
        "-o",
        str(tmp_path),
        "--noise",
        "0,0.5",
    ]
    assert app.main(arguments) == 0
    assert names(tmp_path) == ["channels.png", "latents.json", "noise.png", "spectrum.png"]
    (report,) = json.loads((tmp_path / "latents.json").read_text())["models"]
    assert len(report["latents"]["correlation"]) == report["model"]["latent_channels"] == 8
    assert report["noise"]["levels"] == [0, 0.5]
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width > 300
    shown = capsys.readouterr().out
    for text in (
        "effective rank",
        "low frequencies",
        "local correlation",
        "with noise 0.5",
        "16 latent pixels for 8 channels",
    ):
        assert text in shown


def test_latents_over_the_checkpoints_of_a_run(models: Path, tmp_path: Path) -> None:
    arguments = [
        "evaluate",
        "latents",
        str(models / "run"),
        *SHAPES,
        "-o",
        str(tmp_path / "all"),
        "--noise",
        "",
    ]
    assert app.main(arguments) == 0
    assert names(tmp_path / "all") == ["channels.png", "latents.json", "spectrum.png", "training.png"]
    reports = json.loads((tmp_path / "all" / "latents.json").read_text())["models"]
    assert [report["model"]["name"] for report in reports] == ["step 5", "step 10"]
    assert reports[0]["latents"] != reports[1]["latents"]
    single = str(models / "run" / "checkpoints" / "step-00000010")
    arguments = ["evaluate", "latents", single, *SHAPES, "-o", str(tmp_path / "one"), "--noise", ""]
    assert app.main(arguments) == 0
    assert json.loads((tmp_path / "one" / "latents.json").read_text())["models"] == reports[1:]


def test_comparing_ours_with_one_of_diffusers_on_files(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = write_clips(tmp_path / "clips", 3, height=64, width=64)
    (clips / "clip1.mp4").write_bytes(b"broken")
    arguments = [str(models / "ours"), str(models / "other"), str(clips), "--size", "64x64", "--frames", "9"]
    assert app.main(["evaluate", "compare", *arguments, "-o", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert report["clips"] == 2
    assert len(report["left_out"]) == 1
    assert [entry["model"]["class"] for entry in report["models"]] == ["AutoencoderKLLTX", "AutoencoderKLWan"]
    assert [entry["model"]["latent_size"]["frames"] for entry in report["models"]] == [2, 3]
    assert all(list(entry["figures"]) == ["default"] for entry in report["models"])
    shown = capsys.readouterr().out
    for text in ("ours", "other", "compression", "PSNR", "effective rank", "left out: 1", "clip1.mp4"):
        assert text in shown


def test_without_matplotlib_there_are_no_plots_and_a_note(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vae_plots, "can_plot", lambda: False)
    arguments = ["evaluate", "latents", str(models / "ours"), *SHAPES, "-o", str(tmp_path), "--noise", ""]
    assert app.main(arguments) == 0
    assert names(tmp_path) == ["latents.json"]
    assert "matplotlib" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["reconstruction", "embedded", "moving-shape"], "moving-shapes"),
        (["reconstruction", "nothing", "moving-shapes"], "unknown model 'nothing'"),
        (["reconstruction", "OURS", "moving-shapes", "--size", "40x64"], "use 32 or 64"),
        (["reconstruction", "OURS", "moving-shapes", "--frames", "10"], "use 9 or 17"),
        (["reconstruction", "OURS", "moving-shapes", "--size", "big"], "WIDTHxHEIGHT"),
        (["reconstruction", "OURS", "moving-shapes", "--levels", "0,x"], "levels"),
        (["reconstruction", "OURS", "moving-shapes", "--device", "gpu"], "unknown device"),
        (["reconstruction", "OURS", "moving-shapes", "--dtype", "float8"], "float8"),
        (["reconstruction", "OURS", "moving-shapes", "--set", "nothing=1"], "nothing"),
        (["reconstruction", "OTHER", *SHAPES, "--levels", "0.1"], "takes no noise level"),
        (["latents", "OURS", "moving-shapes", "--noise", "-1"], "negative"),
        (["compare", "moving-shapes"], "MODEL... DATA"),
    ],
)
def test_bad_input_ends_in_one_line(
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    mentioned: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"OURS": str(models / "ours"), "OTHER": str(models / "other")}
    given = [places.get(word, word) for word in arguments]
    assert app.main(["evaluate", *given, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert mentioned in error
    assert not (tmp_path / "out").exists()


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from ltx_diffusers.cli import app; app.main(['evaluate', 'latents', '--help']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--noise" in done.stdout


def test_many_models_are_rows_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from ltx_diffusers.cli.vae_tables import print_latents
    from ltx_diffusers.evaluation.latent_report import measure_latents

    latents = measure_latents(torch.randn(4, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    facts = {
        "class": "X",
        "latent_channels": 3,
        "latent_size": {"frames": 3, "height": 4, "width": 4},
        "compression": 8.0,
    }
    for count in (2, 6):
        reports = [{"model": {"name": f"step {step}", **facts}, "latents": latents} for step in range(count)]
        print_latents(Console(width=160), reports)
        lines = capsys.readouterr().out.splitlines()
        assert any("step 0" in line and "step 1" in line for line in lines) == (count == 2)
        assert any("3 of 3" in line for line in lines)
