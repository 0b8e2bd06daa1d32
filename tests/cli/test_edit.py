"""`ltx-diffusers edit`: what it makes and records, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.saved_models import GUIDANCE, save_tiny_pipeline

from ltx_diffusers import LTXEditPipeline
from ltx_diffusers.cli import app, loading
from ltx_diffusers.cli.stages import Stages
from ltx_diffusers.data.video import read_metadata, read_video, write_video
from ltx_diffusers.denoising.editing import FlowEdit

SOURCE = np.random.default_rng(0).integers(0, 256, (10, 70, 100, 3), dtype=np.uint8)
PROMPTS = ("--prompt", "a red circle moves left", "--source-prompt", "a blue circle moves left")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random pipeline."""
    return str(save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def in_a_folder_with_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run beside a folder of ten frames, which loses nothing."""
    monkeypatch.chdir(tmp_path)
    write_video("in", SOURCE, 12, format="frames")


def run(*arguments: object) -> int:
    return app.main(["edit", *map(str, arguments)])


def test_makes_the_video_that_the_pipeline_makes(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: one call of the pipeline on the frames cut by hand."""
    timed = []
    monkeypatch.setattr(Stages, "wait_for", lambda stages, device: timed.append(device))
    chosen = ("--set", "strength=0.99", "--set", "averages=2", "--negative", "a wall")
    assert run("in", *PROMPTS, "-o", "out", "--model", model, "--seed", 5, *chosen) == 0
    pipe = LTXEditPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        SOURCE[:9, 3:67, 2:98],
        PROMPTS[1],
        source_prompt=PROMPTS[3],
        negative_prompt="a wall",
        editor=FlowEdit(0.99, averages=2),
        frame_rate=12.0,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).frames[0]
    made, fps = read_video("out")
    assert fps == 12
    np.testing.assert_array_equal(made, (expected * 255).round().astype(np.uint8))
    told = capsys.readouterr().out
    assert "9 of 10 frames are used" in told
    assert "100x70 is cut to 96x64" in told
    assert "seed 5 (settings in out.json)" in told
    assert timed == [torch.device("cuda" if torch.cuda.is_available() else "cpu")]


def test_the_settings_are_recorded_beside_the_video_and_in_it(model: str) -> None:
    method = ("--method", "rf-inversion", "--set", "eta=0.7")
    assert run("in", "--prompt", "a wall", "-o", "out.mp4", "--model", model, "--steps", 2, *method) == 0
    record = json.loads(Path("out.json").read_text())
    assert read_metadata("out.mp4") == record
    assert record["method"] == "rf-inversion"
    assert record["method_settings"] == {"gamma": 0.5, "eta": 0.7, "start": 1.0, "stop": 0.9}
    assert record["num_inference_steps"] == 2
    assert record["model"] == model
    assert isinstance(record["seed"], int)
    assert app.main(["generate", "--from-json", "out.json"]) == 2  # it is no generated video


def test_a_speed_is_set_said_and_recorded(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = []
    set_speed = LTXEditPipeline.set_speed

    def watched(self, speed):
        chosen.append(speed)
        return set_speed(self, speed)

    monkeypatch.setattr(LTXEditPipeline, "set_speed", watched)
    options = ("--model", model, "--set", "strength=0.99", "--speed", "fast")
    assert run("in", *PROMPTS, "-o", "out.mp4", *options) == 0
    assert chosen == ["fast"]
    assert "speed fast: this pipeline computes every step" in capsys.readouterr().out
    assert json.loads(Path("out.json").read_text())["speed"] == "fast"


def test_guidance_and_size_reach_the_pipeline(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    call = LTXEditPipeline.__call__

    def watched(self, video, **arguments):
        seen.update(arguments, shape=video.shape)
        return call(self, video, **arguments)

    monkeypatch.setattr(LTXEditPipeline, "__call__", watched)
    sized = ("--size", "64x32", "--frames", 1, "--guidance", 3.5, "--source-guidance", 2)
    assert run("in", *PROMPTS, "-o", "out.mp4", "--model", model, *sized) == 0
    assert seen["shape"] == (1, 32, 64, 3)
    assert (seen["guidance_scale"], seen["source_guidance_scale"]) == (3.5, 2)
    assert GUIDANCE != 3.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.mp4",), "no such video"),
        (("in", "-o", "out.avi"), "no video format"),
        (("in", "-o", "in"), "in"),
        (("in", "--size", "100x64"), "32"),
        (("in", "--frames", "8"), "8"),
        (("in", "--frames", "17"), "too few frames"),
        (("in", "--device", "tpu"), "unknown device"),
        (("in", "--dtype", "int8"), "unknown dtype"),
        (("in", "--speed", "quick"), "exact, fast, fastest"),
        (("in", "--method", "flowedit"), "flow-edit"),
        (("in", "--set", "depth=3"), "strength, refinement, averages"),
        (("in", "--set", "strength"), "NAME=VALUE"),
        (("in", "--set", "strength=much"), "got much"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple,
    message: str,
) -> None:
    def fail(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_pipeline", fail)
    before = sorted(Path().rglob("*"))
    assert run(*arguments, *PROMPTS, "--model", model) == 2
    assert message in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_a_prompt_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("in") == 2
    assert "--prompt" in capsys.readouterr().err


def test_another_json_file_is_not_replaced(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.json").write_text("{}")
    assert run("in", *PROMPTS, "-o", "out.mp4", "--model", model) == 2
    assert "isn't a video's record" in capsys.readouterr().err
