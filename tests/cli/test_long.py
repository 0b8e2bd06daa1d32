"""`ltx-diffusers long`: what it makes, how it goes on after an interruption, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.saved_models import DEFAULTS, GUIDANCE, STEPS, save_tiny_pipeline
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image

from ltx_diffusers import LTXLongVideoPipeline
from ltx_diffusers.cli import app
from ltx_diffusers.cli.long import read_prompts
from ltx_diffusers.cli.records import read_settings
from ltx_diffusers.data.video import read_metadata, read_video, write_video
from ltx_diffusers.errors import InputError, MediaError

PROMPT, OTHER = "a red circle moves left", "a green square moves right"
# The tiny model makes 9 frames at once, at 12 frames a second; 33 are 4 windows that share a frame.
LONG = ["--frames", 33, "--prompt-at", f"1.4:{OTHER}"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random pipeline."""
    return str(save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run where nothing else lies."""
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> int:
    return app.main(["long", *map(str, arguments)])


def files() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_makes_the_video_that_the_pipeline_makes(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seed", 5, "--format", "frames", "--overlap", 1, "--anchor", 0.5, "--drift-control", 0.3]
    assert run(PROMPT, *LONG, *options, "--model", model) == 0
    pipeline = LTXLongVideoPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        [(0, PROMPT), (1.4, OTHER)],
        33,
        overlap_frames=1,
        anchor_strength=0.5,
        drift_control=0.3,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).frames[0]
    frames, fps = read_video("out")
    assert np.abs(frames - 255 * expected).max() <= 0.51
    assert frames.shape == (33, DEFAULTS["height"], DEFAULTS["width"], 3) and fps == DEFAULTS["frame_rate"]
    out, err = capsys.readouterr()
    assert err == ""
    for text in ("33 frames (2.8 s) of 96x64 at 12 fps, 4 windows of 3 steps, seed 5", "load", "make", "GB"):
        assert text in out
    assert files() == ["out", "out.json"]


def test_the_record_makes_the_video_again(model: str) -> None:
    assert run(PROMPT, *LONG, "--model", model, "-o", "a.mp4") == 0
    record = json.loads(Path("a.json").read_text())
    assert read_metadata("a.mp4") == record
    assert isinstance(record.pop("seed"), int) and record.pop("versions")
    assert record == {
        "prompt": PROMPT,
        "prompts": [[0, PROMPT], [1.4, OTHER]],
        "model": model,
        **DEFAULTS,
        "command": "long",
        "num_frames": 33,
        "window_frames": 9,
        "overlap_strength": 1.0,
        "drift_control": 0.0,
        "anchor_strength": 0.0,
        "preset": "none",
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "decode_timestep": 0.05,
        "decode_noise_scale": 0.025,
        "dtype": "float32",
    }
    for name, source in (("b.mp4", "a.mp4"), ("c.mp4", "a.json")):
        assert run("--from-json", source, "-o", name) == 0
        assert Path(name).read_bytes() == Path("a.mp4").read_bytes()
    assert run("--from-json", "a.json", "--seconds", 1, "-o", "d.mp4", "a red circle") == 0
    with pytest.raises(InputError, match="made by ltx-diffusers long"):
        read_settings("a.json")
    changed = json.loads(Path("d.json").read_text())
    assert (changed["num_frames"], changed["prompts"]) == (9, [[0.0, "a red circle"]])


def test_an_interrupted_video_is_gone_on_with(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same file as without the interruption; without --seed the first run's is taken."""
    made = []
    plain = LTXLongVideoPipeline._window_latents

    def two_windows(self, *arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return plain(self, *arguments)

    command = [PROMPT, *LONG, "--model", model, "-o", "a.mp4"]
    monkeypatch.setattr(LTXLongVideoPipeline, "_window_latents", two_windows)
    assert run(*command) == 130
    assert "a.mp4.windows; the same command goes on" in capsys.readouterr().err
    assert files() == ["a.mp4.windows"]
    made.clear()
    assert run(*command, "--steps", 2) == 2
    assert "another video" in capsys.readouterr().err
    assert run(*command) == 0
    assert len(made) == 2 and files() == ["a.json", "a.mp4"]
    made.clear()
    monkeypatch.setattr(LTXLongVideoPipeline, "_window_latents", plain)
    assert run(*command[:-1], "b.mp4", "--seed", json.loads(Path("a.json").read_text())["seed"]) == 0
    assert Path("b.mp4").read_bytes() == Path("a.mp4").read_bytes()


def test_windows_can_be_thrown_away(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.mp4.windows").mkdir()
    Path("a.mp4.windows/long_video.json").write_text("{}")
    Path("a.mp4.windows/window_00000.safetensors").write_text("")
    command = [PROMPT, "--frames", 17, "--model", model, "-o", "a.mp4"]
    assert run(*command) == 2
    assert run(*command, "--anew") == 0
    assert files() == ["a.json", "a.mp4"]
    Path("b.mp4.windows").mkdir()
    Path("b.mp4.windows/notes.txt").write_text("mine")
    assert run(*command[:-1], "b.mp4", "--anew") == 2
    assert Path("b.mp4.windows/notes.txt").read_text() == "mine"


def test_pictures_and_videos_are_given(model: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (33, 64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save("a.png")
    write_video("clip.webm", pixels, 12)
    options = ["--frames", 25, "--model", model, "--seed", 1, "--format", "frames"]
    made = []
    for name, given in {
        "plain": [],
        "image": ["--image", "a.png", "--image", "a.png@20:0.7"],
        "extend": ["--extend", "clip.webm"],
        "from": ["--from-video", "clip.webm"],
    }.items():
        assert run(PROMPT, *options, *given, "-o", name) == 0
        made.append(read_video(name)[0].astype(int))
    assert all(np.abs(made[0] - other).mean() > 1 for other in made[1:])
    timed = ["--seconds", 1, "--from-video", "clip.webm", "--model", model, "-o", "timed.gif"]
    assert run(PROMPT, *timed) == 0
    assert json.loads(Path("timed.json").read_text())["num_frames"] == 9
    record = json.loads(Path("image.json").read_text())
    assert [entry.get("frame", 0) for entry in record["images"]] == [0, 20]
    assert all(len(entry["sha256"]) == 64 for entry in record["images"])


def test_loras_are_used_and_belong_to_the_windows(model: str) -> None:
    pipeline = LTXLongVideoPipeline.from_pretrained(model)
    settings = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipeline.transformer.add_adapter(settings, adapter_name="lora_0")
    layers = get_peft_model_state_dict(pipeline.transformer, adapter_name="lora_0")
    pipeline.save_lora_weights("lora", transformer_lora_layers=layers)
    options = ["--frames", 17, "--model", model, "--seed", 1, "--format", "frames"]
    made = []
    for name, given in {"plain": [], "full": ["--lora", "lora"], "half": ["--lora", "lora:0.5"]}.items():
        assert run(PROMPT, *options, *given, "-o", name) == 0
        made.append(read_video(name)[0].astype(int))
    assert np.abs(made[0] - made[1]).mean() > 1 and np.abs(made[1] - made[2]).mean() > 1
    assert json.loads(Path("half.json").read_text())["loras"] == ["lora:0.5"]
    next(pipeline.stream(PROMPT, 17, generator=torch.Generator().manual_seed(0), resume_folder="w").latents())
    pipeline.set_adapters(["lora_0"], [0.5])
    with pytest.raises(InputError, match="another video"):
        pipeline.stream(PROMPT, 17, generator=torch.Generator().manual_seed(0), resume_folder="w")


def test_prompts_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(f"# a story\n\n4.5: {OTHER}: slowly\n0:{PROMPT}\n")
    assert read_prompts(None, [], file) == [(0, PROMPT), (4.5, f"{OTHER}: slowly")]
    assert read_prompts(PROMPT, ["2:b", ".5:a"], None) == [(0, PROMPT), (0.5, "a"), (2, "b")]
    assert read_prompts(None, [], None) == []
    for arguments in (
        (PROMPT, [], file),
        (None, ["1:a"], None),
        (PROMPT, ["1:a", "1.0:b"], None),
        (PROMPT, ["a"], None),
        (PROMPT, ["-1:a"], None),
        (PROMPT, ["3:"], None),
    ):
        with pytest.raises(InputError):
            read_prompts(*arguments)
    file.write_text("# nothing")
    with pytest.raises(InputError, match="no prompts"):
        read_prompts(None, [], file)
    with pytest.raises(MediaError):
        read_prompts(None, [], tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a prompt is needed"),
        ([PROMPT], "--seconds or --frames"),
        ([PROMPT, "--frames", 33, "--seconds", 3], "twice"),
        ([PROMPT, "--frames", 34], "8k"),
        ([PROMPT, "--seconds", -1], "--seconds"),
        ([PROMPT, "--frames", 33, "--prompt-at", "3"], "SECONDS:PROMPT"),
        ([PROMPT, "--frames", 33, "--size", "100x96"], "100"),
        ([PROMPT, "--frames", 33, "-o", "out.avi"], ".avi"),
        ([PROMPT, "--frames", 33, "--image", "none.png"], "none.png"),
        ([PROMPT, "--frames", 33, "--model", "embeded"], "embeded"),
    ],
)
def test_bad_input_is_answered_without_a_model(
    arguments: list, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltx_diffusers.cli.loading.load_pipeline", None)
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert files() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt-at", "9:late"], "can't begin"),
        (["--overlap", 9], "overlap_frames"),
        (["--window", 12], "window"),
        (["--overlap-strength", 0], "overlap_strength"),
        (["--sampler", "eulr"], "euler"),
    ],
)
def test_what_the_model_decides_leaves_nothing_either(
    model: str, arguments: list, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(PROMPT, "--frames", 33, "--model", model, *arguments) == 2
    assert message in capsys.readouterr().err
    assert files() == []
