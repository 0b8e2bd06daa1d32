"""`ltx-diffusers evaluate shapes`: its table, its files, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.shape_pipelines import SIZE, DrawnPipeline, wrong_everything
from PIL import Image
from tiny import tiny_components

from ltx_diffusers import LTXPipeline
from ltx_diffusers.cli import app, evaluate
from ltx_diffusers.data.moving_shapes import MOTIONS, NEW_MOTIONS
from ltx_diffusers.evaluation import shapes
from ltx_diffusers.evaluation.shapes import PARTS, draw_cases


@pytest.fixture
def pipelines(monkeypatch: pytest.MonkeyPatch):
    """Puts drawing pipelines in place of the model."""

    def install(motions=MOTIONS, **settings):
        cases = draw_cases(6, motions=motions)
        monkeypatch.setattr(evaluate, "_load", lambda model, device, loras: DrawnPipeline(cases, **settings))
        monkeypatch.setattr(
            shapes, "_image_pipeline", lambda pipeline: DrawnPipeline(cases, image=True, **settings)
        )

    return install


def test_the_table_the_report_and_the_sheets(
    pipelines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipelines()
    folder = tmp_path / "new" / "out"
    assert app.main(["evaluate", "shapes", "--prompts", "6", "-o", str(folder)]) == 0
    report = json.loads((folder / "shapes.json").read_text())
    assert report["settings"]["num_prompts"] == 6
    assert report["settings"]["model"] == "embedded"
    assert {figure["part"] for figure in report["figures"]} == set(PARTS)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["shapes.json", *(f"{part}.png" for part in PARTS)]
    )
    for part in PARTS:
        with Image.open(folder / f"{part}.png") as sheet:
            assert sheet.width > 8 * 64
            assert sheet.height > 6 * 64
    captured = capsys.readouterr()
    for text in ("text-to-video", "100.0 %", "6/6", "dB", "SSIM"):
        assert text in captured.out
    assert "what went wrong" not in captured.out
    assert "6/6" in captured.err  # the progress bars


def test_wrong_clips_are_listed(pipelines, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipelines(change=wrong_everything)
    arguments = ["evaluate", "shapes", "--prompts", "6", "--only", "t2v", "-o", str(tmp_path)]
    assert app.main(arguments) == 0
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["shapes.json", "text-to-video.png"]
    shown = capsys.readouterr().out
    assert "0/6" in shown
    assert "what went wrong" in shown
    assert len(json.loads((tmp_path / "shapes.json").read_text())["failures"]) == 6


def test_motions_can_be_chosen(pipelines, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipelines(motions=NEW_MOTIONS)
    arguments = ["evaluate", "shapes", "--prompts", "6", "--only", "t2v", "-o", str(tmp_path)]
    assert app.main([*arguments, "--motion", "diagonal"]) == 0
    assert "6/6" in capsys.readouterr().out
    assert json.loads((tmp_path / "shapes.json").read_text())["settings"]["motions"] == ["diagonal"]
    assert app.main([*arguments, "--motion", "sideways"]) == 2
    assert "sideways" in capsys.readouterr().err


def test_sizes_can_be_chosen(pipelines, tmp_path: Path) -> None:
    pipelines()
    arguments = ["evaluate", "shapes", "--prompts", "2", "--only", "t2v", "-o", str(tmp_path)]
    for given, size in (
        (["--size", "128x96", "--frames", "9"], {"frames": 9, "height": 96, "width": 128}),
        (
            ["--frames", "25"],
            {"frames": 25, "height": SIZE["default_height"], "width": SIZE["default_width"]},
        ),
    ):
        assert app.main([*arguments, *given]) == 0
        assert json.loads((tmp_path / "shapes.json").read_text())["settings"]["size"] == size


def test_parts_can_be_chosen(pipelines, tmp_path: Path) -> None:
    pipelines()
    arguments = [
        "evaluate",
        "shapes",
        "--prompts",
        "2",
        "--only",
        "vae",
        "--only",
        "i2v",
        "-o",
        str(tmp_path),
    ]
    assert app.main(arguments) == 0
    assert set(json.loads((tmp_path / "shapes.json").read_text())["seconds"]) == {"vae", "image-to-video"}


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["--model", "embeded"], "embedded"),
        (["--prompts", "0"], "--prompts"),
        (["--only", "audio"], "t2v"),
        (["--size", "96"], "WIDTHxHEIGHT"),
        (["--device", "nonsense"], "nonsense"),
        (["--device", "cpu"], "can't be loaded"),
        (["--device", "cpu", "--model", "lone"], "single component"),
        (["-o", "taken"], "output folder"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bad_input_writes_nothing(
    arguments: list[str],
    mentioned: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    parts = {
        "transformer": "LTXVideoTransformer3DModel",
        "vae": "AutoencoderKLLTXVideo",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    index = {"_class_name": "LTXPipeline"} | {name: ["diffusers", kind] for name, kind in parts.items()}
    (model / "model_index.json").write_text(json.dumps(index))  # and no such components
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "config.json").write_text("{}")
    (tmp_path / "taken").write_text("a file")
    before = sorted(tmp_path.iterdir())
    if "--model" not in arguments:
        arguments = ["--model", "model", *arguments]
    assert app.main(["evaluate", "shapes", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert mentioned in error
    assert sorted(tmp_path.iterdir()) == before


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        evaluate._replace(tmp_path / "report", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert (tmp_path / "report").read_text() == "old"


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from ltx_diffusers.cli import app; app.main(['evaluate', 'shapes', '--help']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--prompts" in done.stdout


def test_a_saved_model_is_measured(tmp_path: Path) -> None:
    components = tiny_components(timestep_conditioning=True, causal=True)
    components["transformer"].register_to_config(default_num_frames=9, default_height=64, default_width=64)
    components["scheduler"].register_to_config(default_num_inference_steps=2)
    LTXPipeline(**components).save_pretrained(tmp_path / "model")
    arguments = [
        "evaluate",
        "shapes",
        "--model",
        str(tmp_path / "model"),
        "--prompts",
        "3",
        "--batch-size",
        "2",
    ]
    reports = []
    for name in ("one", "two"):
        assert app.main([*arguments, "-o", str(tmp_path / name)]) == 0
        reports.append(json.loads((tmp_path / name / "shapes.json").read_text()))
    settings = reports[0]["settings"]
    assert settings["size"] == {"frames": 9, "height": 64, "width": 64}
    assert settings["pipeline"] == "LTXPipeline"
    assert {figure["part"] for figure in reports[0]["figures"]} == set(PARTS)
    assert {figure["count"] for figure in reports[0]["figures"]} == {3}
    assert reports[0]["figures"] == reports[1]["figures"]
