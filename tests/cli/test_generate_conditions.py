"""`generate` with conditions, presets, samplers and two stages; oracle: single calls of the pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.loras import some_lora
from helpers.saved_models import DEFAULTS, save_tiny_pipeline
from PIL import Image

from ltx_diffusers import (
    LTXConditionPipeline,
    LTXLatentUpsampler,
    RegionOfVideo,
    VideoCondition,
)
from ltx_diffusers.cli import app
from ltx_diffusers.conversion.lora.files import write_lora
from ltx_diffusers.data.video import read_video, write_video
from ltx_diffusers.pipelines.two_stage import generate_in_two_stages

PROMPT = "a red circle moves left"
HEIGHT, WIDTH, FRAMES, RATE = (DEFAULTS[name] for name in ("height", "width", "num_frames", "frame_rate"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random pipeline."""
    return str(save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def pipeline(model: str) -> LTXConditionPipeline:
    loaded = LTXConditionPipeline.from_pretrained(model)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run where nothing else lies."""
    monkeypatch.chdir(tmp_path)


def noise(frames: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def clip(name: str, frames: np.ndarray) -> np.ndarray:
    """Write a clip, losslessly as a folder of frames."""
    write_video(name, frames, RATE, format="frames")
    return frames


def picture(name: str, seed: int) -> np.ndarray:
    pixels = noise(1, seed)[0]
    Image.fromarray(pixels).save(name)
    return pixels


def run(*arguments: object) -> int:
    return app.main(["generate", PROMPT, "--seed", "5", *map(str, arguments)])


def made(*arguments: object, name: str = "out") -> np.ndarray:
    assert run(*arguments, "--format", "frames", "-o", name) == 0
    return read_video(name)[0]


def expected(pipeline: LTXConditionPipeline, conditions: list | None = None, **call: object) -> np.ndarray:
    call |= {"generator": torch.Generator().manual_seed(5), "prompt": PROMPT, "output_type": "np"}
    return (pipeline(conditions, **call).frames[0] * 255).round()


def assert_same(frames: np.ndarray, others: np.ndarray) -> None:
    assert frames.shape == others.shape
    assert np.abs(frames - others).max() <= 1


def test_pictures_and_clips_at_their_frames(model: str, pipeline: LTXConditionPipeline) -> None:
    first, last = picture("first.png", 1), picture("last.png", 2)
    begin = clip("begin", noise(9, 3))
    frames = made(
        "--model", model, "--image", "first.png@5:0.5", "--last", "last.png", "--video", "begin@8:0.75",
        "--frames", 25, "--condition-noise", 0, "--strength-rule", "proportional", "--crf", 29, "--steps", 2,
    )  # fmt: skip
    given = [
        VideoCondition(image=first, frame_index=5, strength=0.5, fit="crop", crf=29),
        VideoCondition(video=begin, frame_index=8, strength=0.75, fit="crop", crf=29),
        VideoCondition(image=last, frame_index=-1, fit="crop", crf=29),
    ]
    call = {"image_cond_noise_scale": 0.0, "strength_rule": "proportional", "num_inference_steps": 2}
    assert_same(frames, expected(pipeline, given, num_frames=25, **call))
    record = json.loads(Path("out.json").read_text())
    assert [entry["frame"] for entry in record["images"]] == [5, -1]
    assert record["videos"][0]["strength"] == 0.75
    app.main(["generate", "--from-json", "out.json", "-o", "again", "--format", "frames"])
    assert (read_video("again")[0] == frames).all()
    (Path("begin") / "frame_00000.png").unlink()
    assert app.main(["generate", "--from-json", "out.json", "-o", "c.mp4"]) == 2


def test_an_extended_video_is_written_with_its_source(model: str, pipeline: LTXConditionPipeline) -> None:
    before = clip("before", noise(12))
    frames = made("--model", model, "--extend", "before", "--join", "--frames", 17)
    new = expected(pipeline, [VideoCondition(video=before[-9:])], num_frames=17)
    assert (frames[:12] == before).all()
    assert_same(frames[12:], new[9:])
    frames = made("--model", model, "--extend-backward", "before", "--join", "--frames", 17, name="b")
    new = expected(pipeline, [VideoCondition(video=before[:9], frame_index=-1)], num_frames=17)
    assert_same(frames[:8], new[:8])
    assert (frames[8:] == before).all()


def test_a_part_of_a_video_is_made_anew(model: str, pipeline: LTXConditionPipeline) -> None:
    source = clip("source", noise(17))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save("mask.png")
    frames = made("--model", model, "--source", "source", "--mask", "mask.png", "--retake", "0.7-")
    keep = np.ones((17, HEIGHT, WIDTH), bool)
    keep[9:, :, 32:] = False
    assert_same(frames, expected(pipeline, [RegionOfVideo(source, keep)], num_frames=17))


def test_starts_from_a_video(model: str, pipeline: LTXConditionPipeline) -> None:
    source = clip("source", noise(10))
    frames = made("--model", model, "--from-video", "source", "--denoise-strength", 0.7, "--steps", 4)
    call = {"initial_video": source[:9], "denoise_strength": 0.7, "num_inference_steps": 4}
    assert_same(frames, expected(pipeline, **call))
    assert json.loads(Path("out.json").read_text())["denoise_strength"] == 0.7


def test_a_named_preset_and_a_sampler(model: str, pipeline: LTXConditionPipeline) -> None:
    frames = made("--model", model, "--preset", "2b-distilled-0.9.6", "--sampler", "stochastic")
    assert_same(frames, expected(pipeline, preset="2b-distilled-0.9.6", sampler="stochastic"))
    record = json.loads(Path("out.json").read_text())
    assert (record["preset"], record["sampler"]) == ("2b-distilled-0.9.6", "stochastic")
    assert "guidance_scale" not in record and "num_inference_steps" not in record
    assert app.main(["generate", "--from-json", "out.json", "-o", "again", "--format", "frames"]) == 0
    assert (read_video("again")[0] == frames).all()
    # What is given wins over the preset.
    frames = made("--model", model, "--preset", "2b-distilled-0.9.6", "--steps", 2, "--guidance", 3, name="b")
    assert_same(frames, expected(pipeline, num_inference_steps=2, guidance_scale=3.0))


def test_loras_with_their_weights(model: str, pipeline: LTXConditionPipeline) -> None:
    """Oracle: a pipeline of its own with the same adapters."""
    adapted = LTXConditionPipeline.from_pretrained(model)
    adapted.set_progress_bar_config(disable=True)
    for number in (1, 2):
        write_lora(some_lora(seed=number), Path(f"{number}.safetensors"), "comfy")
        adapted.load_lora_weights(f"{number}.safetensors", adapter_name=f"l{number}")
    adapted.set_adapters(["l1", "l2"], [0.5, 1.0])
    frames = made("--model", model, "--lora", "1.safetensors:0.5", "--lora", "2.safetensors", "--steps", 2)
    assert_same(frames, expected(adapted, num_inference_steps=2))
    assert np.abs(frames - expected(pipeline, num_inference_steps=2)).max() > 1
    assert json.loads(Path("out.json").read_text())["loras"] == ["1.safetensors:0.5", "2.safetensors"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "3b"], "unknown preset"),
        (["--sampler", "eulr"], "euler"),
        (["--strength-rule", "odd"], "official"),
        (["--image", "first.png@17"], "frame_index=17"),
        (["--image", "first.png", "--video", "clip"], "two conditions of full strength"),
        (["--video", "clip@4", "--frames", "17"], "multiple of 8"),
        (["--from-video", "clip", "--frames", "33"], "too short"),
        (["--source", "clip", "--retake", "9-"], "nothing of the source"),
        (["--reference", "clip", "--reference-scale", "2"], "another scale"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_model_runs(
    model: str,
    options: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture("first.png", 0)
    clip("clip", noise(9))
    monkeypatch.setattr(
        LTXConditionPipeline, "encode_prompt", lambda *args, **kwargs: pytest.fail("a model runs")
    )
    assert run("--model", model, *options) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err, err
    assert not Path("out.mp4").exists()


def test_a_file_that_is_given_is_not_written_over(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_video("kept.mp4", noise(9), 8)
    before = Path("kept.mp4").read_bytes()
    assert run("--model", model, "--extend", "kept.mp4", "--join", "-o", "kept.mp4") == 2
    long = ["long", PROMPT, "--model", model, "--frames", "33", "--extend", "kept.mp4", "-o", "kept.mp4"]
    assert app.main(long) == 2
    assert capsys.readouterr().err.count("made from") == 2
    assert Path("kept.mp4").read_bytes() == before


def test_steps_that_a_distilled_model_does_not_allow(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, "distilled")
    config = Path("distilled/scheduler/scheduler_config.json")
    allowed = {"allowed_inference_steps": [1.0, 0.75, 0.5, 0.25]}
    config.write_text(json.dumps(json.loads(config.read_text()) | allowed))
    monkeypatch.setattr(
        LTXConditionPipeline, "encode_prompt", lambda *args, **kwargs: pytest.fail("a model runs")
    )
    assert run("--model", "distilled", "--steps", 3) == 2
    assert "distilled for certain noise levels only" in capsys.readouterr().err


@pytest.fixture(scope="module")
def upsampler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random upsampler."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("upsampler")
    LTXLatentUpsampler(in_channels=8, mid_channels=32, num_blocks_per_stage=1).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("preset", ["none", "2b-distilled-0.9.8"])
def test_two_stages(model: str, upsampler: str, pipeline: LTXConditionPipeline, preset: str) -> None:
    first, begin = picture("first.png", 1), clip("begin", noise(9, 3, 70, 70))
    given = [
        VideoCondition(image=first, strength=0.5, fit="crop"),
        VideoCondition(video=begin, frame_index=-1, fit="crop"),
    ]
    frames = made(
        "--model", model, "--two-stage", "--upsampler", upsampler, "--preset", preset, "--size", "96x64",
        "--image", "first.png:0.5", "--video", "begin@last", "--frames", 17,
    )  # fmt: skip
    oracle = generate_in_two_stages(
        pipeline,
        LTXLatentUpsampler.from_pretrained(upsampler),
        preset=None if preset == "none" else preset,
        second={"denoise_strength": 0.4} if preset == "none" else {},
        conditions=given,
        prompt=PROMPT,
        width=96,
        height=64,
        num_frames=17,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    )
    assert_same(frames, (oracle.frames[0] * 255).round())
    record = json.loads(Path("out.json").read_text())
    assert record["two_stage"] and record["upsampler"] == upsampler
    assert record.get("refine_strength") == (0.4 if preset == "none" else None)


def test_settings_of_two_stages_win_over_the_preset(
    model: str, upsampler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", model, "--two-stage", "--upsampler", upsampler, "--preset", "2b-distilled-0.9.8"]
    assert run(*options, "--steps", 4, "--guidance", 2, "--refine-strength", 0.5, "--size", "96x64") == 0
    assert "6 steps of preset 2b-distilled-0.9.8" in capsys.readouterr().out
    record = json.loads(Path("out.json").read_text())
    assert (record["num_inference_steps"], record["guidance_scale"], record["refine_strength"]) == (4, 2, 0.5)


def test_an_upsampler_that_does_not_fit(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LTXLatentUpsampler(in_channels=16, mid_channels=32, num_blocks_per_stage=1).save_pretrained("up")
    assert run("--model", model, "--two-stage", "--upsampler", "up") == 2
    assert "one in space, of 8 channels" in capsys.readouterr().err
