"""`ltx-diffusers generate`: what it makes, how it is made again, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.saved_models import DEFAULTS, GUIDANCE, STEPS, save_tiny_pipeline
from PIL import Image

from ltx_diffusers import (
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    VideoCondition,
)
from ltx_diffusers.cli import app, loading
from ltx_diffusers.cli.conditions import file_hash
from ltx_diffusers.conversion.convert import convert
from ltx_diffusers.data import video
from ltx_diffusers.data.video import read_metadata, read_video
from ltx_diffusers.errors import MediaError

PROMPT = "a red circle moves left"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random pipeline."""
    return str(save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run where nothing else lies."""
    monkeypatch.chdir(tmp_path)


def picture(path: str, width: int = 192, height: int = 64) -> str:
    """A file of three vertical stripes: red, green, blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    third = width // 3
    for channel in range(3):
        pixels[:, channel * third : (channel + 1) * third, channel] = 255
    Image.fromarray(pixels).save(path)
    return path


def run(*arguments: object) -> int:
    return app.main(["generate", *map(str, arguments)])


def test_makes_the_video_that_the_pipeline_makes(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: one call of the pipeline with the same seed; the folder of frames loses nothing."""
    assert run(PROMPT, "--model", model, "--seed", 5, "--format", "frames", "--negative", "blue") == 0
    frames, fps = read_video("out")
    pipeline = LTXPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    expected = pipeline(PROMPT, "blue", generator=generator, output_type="np").frames[0]
    assert np.abs(frames - 255 * expected).max() <= 0.51
    assert frames.shape == (DEFAULTS["num_frames"], DEFAULTS["height"], DEFAULTS["width"], 3)
    assert fps == DEFAULTS["frame_rate"]
    out, err = capsys.readouterr()
    assert err == ""
    for text in ("out: 9 frames of 96x64 at 12 fps, 3 steps, seed 5", "out.json", "load", "text", "denoise"):
        assert text in out
    for text in ("decode", "write", "peak memory", "GB"):
        assert text in out


def test_the_record_holds_everything_and_lies_in_the_video_too(model: str) -> None:
    assert run(PROMPT, "--model", model, "-o", "clip.mp4") == 0
    record = json.loads(Path("clip.json").read_text())
    assert read_metadata("clip.mp4") == record
    assert isinstance(record.pop("seed"), int)
    versions = record.pop("versions")
    assert set(versions) == {"ltx-diffusers", "torch", "diffusers", "transformers", "python"}
    assert record == {
        "prompt": PROMPT,
        "model": model,
        **DEFAULTS,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "decode_timestep": 0.05,
        "decode_noise_scale": 0.025,
        "dtype": "float32",
        "preset": "none",
    }
    assert sorted(path.name for path in Path().iterdir()) == ["clip.json", "clip.mp4"]


def test_a_speed_is_said_recorded_and_made_again(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With steps enough for some to be foretold, so that the videos differ."""
    options = ["--model", model, "--seed", 5, "--steps", 24, "--format", "frames"]
    for speed in ("exact", "fastest"):
        assert run(PROMPT, *options, "-o", speed, "--speed", speed) == 0
        said = capsys.readouterr().out
        assert f"speed {speed}: " in said
        assert ("steps were)" in said) == (speed == "fastest")
        assert json.loads(Path(f"{speed}.json").read_text())["speed"] == speed
    exact, fastest = read_video("exact")[0], read_video("fastest")[0]
    assert 0 < np.abs(exact.astype(float) - fastest).mean() < 10
    assert run("--from-json", "fastest.json", "-o", "again", "--format", "frames") == 0
    assert np.array_equal(read_video("again")[0], fastest)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "clip"])
def test_formats_by_the_ending(model: str, name: str) -> None:
    extra = ["--format", "frames"] if name == "clip" else []
    assert run(PROMPT, "--model", model, "-o", name, "--fps", 10, *extra) == 0
    frames, fps = read_video(name)
    assert len(frames) == 9 and fps == pytest.approx(10)
    assert read_metadata(name) == json.loads(Path("clip.json").read_text())


def test_a_random_seed_is_drawn_each_time_and_options_are_used(model: str) -> None:
    options = ["--steps", 2, "--guidance", 1, "--size", "64x32", "--frames", 17, "--dtype", "bf16"]
    for name in ("a", "b"):
        assert run(PROMPT, "--model", model, "--format", "frames", "-o", name, *options) == 0
    first, second = (json.loads(Path(f"{name}.json").read_text()) for name in ("a", "b"))
    assert first.pop("seed") != second.pop("seed")
    assert first == second
    assert (first["num_inference_steps"], first["guidance_scale"], first["dtype"]) == (2, 1, "bfloat16")
    (frames, _), (others, _) = read_video("a"), read_video("b")
    assert frames.shape == (17, 32, 64, 3)
    assert not np.array_equal(frames, others)


@pytest.mark.parametrize("source", ["a.json", "a.mp4"])
def test_a_video_can_be_made_again(model: str, source: str) -> None:
    assert run(PROMPT, "--model", model, "-o", "a.mp4", "--steps", 2, "--size", "64x64") == 0
    assert run("--from-json", source, "-o", "b.mp4") == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    assert run("a green square", "--from-json", source, "-o", "c.mp4") == 0
    changed = json.loads(Path("a.json").read_text()) | {"prompt": "a green square"}
    assert json.loads(Path("c.json").read_text()) == changed
    assert Path("a.mp4").read_bytes() != Path("c.mp4").read_bytes()


def test_a_checkpoint_file_with_a_text_encoder_from_elsewhere(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle: the folder that the file was made from."""
    convert(model, "tiny.safetensors", "official")
    call = (PROMPT, "--seed", 3, "--steps", 2, "--size", "64x64", "--frames", 9, "--guidance", 2, "--fps", 12)
    assert run(*call, "--model", model, "-o", "a.gif") == 0
    from_file = ("--model", "tiny.safetensors", "--text-encoder", model)
    assert run(*call, *from_file, "-o", "b.gif") == 0
    assert (read_video("a.gif")[0] == read_video("b.gif")[0]).all()
    assert run("--from-json", "b.json", "-o", "c.gif") == 0
    assert Path("b.gif").read_bytes() == Path("c.gif").read_bytes()
    capsys.readouterr()

    for arguments, message in (
        (("--model", "tiny.safetensors"), "has no text encoder"),
        (("--model", "missing.safetensors"), "there is no file"),
        (("--model", model, "--text-encoder", model), "goes with a checkpoint file"),
        ((*from_file, "--version", "0.9.99"), "unknown release"),
        (("--model", "tiny.safetensors", "--text-encoder", "nowhere"), "no text encoder found"),
    ):
        assert run(*call, *arguments, "-o", "d.gif") == 2
        assert message in capsys.readouterr().err
    assert not Path("d.gif").exists()


def test_the_first_frame_covers_the_size_and_is_cut(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the pipeline given what is to be seen; the middle third of the stripes is green."""
    arguments = [PROMPT, "--model", model, "--image", picture("first.png"), "--size", "64x64", "--seed", 5]
    assert run(*arguments, "--format", "frames") == 0
    pipeline = LTXConditionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    green = VideoCondition(image=np.full((64, 64, 3), (0, 255, 0), np.uint8))
    generator = torch.Generator().manual_seed(5)
    call = {"prompt": PROMPT, "height": 64, "width": 64, "generator": generator, "output_type": "np"}
    expected = pipeline([green], **call).frames[0]
    assert np.abs(read_video("out")[0] - 255 * expected).max() <= 0.51

    assert run(*arguments, "-o", "a.mp4") == 0
    record = json.loads(Path("a.json").read_text())
    (given,) = record["images"]
    assert set(given) == {"file", "sha256"} and given["file"] == "first.png" and len(given["sha256"]) == 64
    assert record["condition_noise"] == 0.15
    assert run("--from-json", "a.json", "-o", "b.mp4") == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    capsys.readouterr()
    picture("first.png", width=96)
    assert run("--from-json", "a.json", "-o", "c.mp4") == 2
    assert "isn't the file" in capsys.readouterr().err
    assert run("--from-json", "a.json", "-o", "c.mp4", "--image", "first.png") == 0


@pytest.mark.parametrize("with_image", [False, True])
def test_a_record_from_before_there_were_presets(model: str, with_image: bool) -> None:
    """Oracle: the pipeline that made such videos."""
    record = {"prompt": PROMPT, "seed": 7, "model": model, "dtype": "float32", **DEFAULTS}
    record |= {"num_inference_steps": 2, "guidance_scale": 2.0, "versions": {"ltx-diffusers": "0.1.0"}}
    call = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np"}
    call |= {"generator": torch.Generator().manual_seed(7), "prompt": PROMPT, **DEFAULTS}
    kind = LTXPipeline
    if with_image:
        kind = LTXImageToVideoPipeline
        record |= {"image": picture("first.png", 96, 64)}
        record["image_sha256"] = file_hash("first.png")
        call["image"] = Image.open("first.png")
    Path("old.json").write_text(json.dumps(record))
    assert run("--from-json", "old.json", "--format", "frames") == 0
    pipeline = kind.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(**call).frames[0]
    assert np.abs(read_video("out")[0] - 255 * expected).max() <= 0.51


BAD = {
    "width": (["--size", "100x64"], "100", "96 or 128"),
    "height": (["--size", "64x10"], "10", "use 32"),
    "size": (["--size", "64"], "'64'", "WIDTHxHEIGHT"),
    "frames": (["--frames", "10"], "10", "9 or 17"),
    "frames 0": (["--frames", "0"], "0"),
    "steps": (["--steps", "0"], "--steps"),
    "steps text": (["--steps", "many"], "--steps"),
    "guidance": (["--guidance", "-1"], "--guidance"),
    "guidance nan": (["--guidance", "nan"], "--guidance"),
    "fps": (["--fps", "0"], "--fps"),
    "seed": (["--seed", "-1"], "seed"),
    "format": (["--format", "mp5"], "mp5", "'mp4'"),
    "ending": (["-o", "out.avi"], ".avi", ".webm"),
    "format and ending": (["-o", "out.mp4", "--format", "gif"], "gif"),
    "no output folder": (["-o", "none/out.mp4"], "doesn't exist"),
    "output is a folder": (["-o", "folder.mp4"], "is a folder"),
    "record is a folder": (["-o", "taken.mp4"], "taken.json is a folder"),
    "frames exist": (["-o", "full", "--format", "frames"], "exists already"),
    "image missing": (["--image", "frist.png"], "no such image", "first.png"),
    "image unreadable": (["--image", "broken.png"], "broken.png"),
    "image is a folder": (["--image", "full"], "is a folder"),
    "model": (["--model", "embeded"], "embeded", "did you mean embedded?"),
    "model near": (["--model", "models/tinny"], "models/tiny"),
    "model folder": (["--model", "full"], "no model"),
    "model component": (["--model", "alone"], "single component"),
    "repository": (["--model", "Lightricks/LTX-Vidoe"], "Lightricks/LTX-Video"),
    "a video as an image": (["--image", "first.mp4@8"], "--video"),
    "mask alone": (["--image", "first.png", "--mask", "first.png"], "--source"),
    "source alone": (["--source", "first.png"], "--mask, --retake or --outpaint"),
    "frame": (["--image", "first.png@x"], "'x'", "last"),
    "strength": (["--image", "first.png:2"], "'2'", "0 to 1"),
    "last with a frame": (["--last", "first.png@3"], "'@3'"),
    "span": (["--source", "first.png", "--retake", "3-2"], "empty"),
    "overlap": (["--extend", "first.png", "--overlap", "10"], "9 or 17"),
    "join": (["--join"], "--extend"),
    "two stages": (["--two-stage"], "--upsampler"),
    "upsampler alone": (["--upsampler", "full"], "--two-stage"),
    "upsampler": (["--two-stage", "--upsampler", "full"], "no model"),
    "outpaint": (["--source", "first.png", "--outpaint"], "--size"),
    "fit": (["--fit", "squeeze"], "squeeze", "crop"),
    "crf": (["--crf", "52"], "52"),
    "lora weight": (["--lora", "first.png:x"], "LORA[:WEIGHT]"),
    "prompts and a prompt": (["--prompts-file", "none.txt"], "'a red circle'"),
    "device": (["--device", "gpu"], "'gpu'", "cuda"),
    "dtype": (["--dtype", "int8"], "int8", "bfloat16"),
    "speed": (["--speed", "quick"], "'quick'", "exact, fast, fastest"),
    "option": (["--nonsense"], "--nonsense"),
    "record missing": (["--from-json", "none.json"], "none.json"),
    "record empty": (["--from-json", "empty.json"], "no settings"),
    "record broken": (["--from-json", "broken.json"], "JSON"),
    "record with bad values": (["--from-json", "odd.json"], "10.5"),
    "video without record": (["--from-json", "first.png"], ""),
}


@pytest.fixture
def surroundings(model: str) -> None:
    """Files that the bad inputs name."""
    picture("first.png")
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    Path("folder.mp4").mkdir()
    Path("taken.json").mkdir()
    Path("full").mkdir()
    Path("full/file").touch()
    Path("alone").mkdir()
    Path("alone/config.json").write_text("{}")
    Path("models").mkdir()
    Path("models/tiny").symlink_to(model)
    Path("empty.json").write_text("{}")
    Path("broken.json").write_text("{")
    Path("odd.json").write_text(json.dumps({"prompt": "x", "num_frames": 10.5}))


def files() -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path().rglob("*")}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    case: str,
    model: str,
    surroundings: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "pick_device", lambda name: pytest.fail("this came to loading"))
    before = files()
    options, *texts = BAD[case]
    given = [] if "--model" in options else ["--model", model]
    assert run("a red circle", *given, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for text in texts:
        assert text in err
    assert files() == before


def test_a_prompt_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "a prompt is needed" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(PROMPT, "--model", model, "--device", "cuda") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "no GPU cuda" in err and "--device cpu" in err
    assert list(Path().iterdir()) == []


def test_a_broken_model_is_one_line(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(model, "broken")
    weights = next(Path("broken/vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    assert run(PROMPT, "--model", "broken") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "the model broken can't be loaded" in err
    assert [path.name for path in Path().iterdir()] == ["broken"]


def test_nothing_is_left_when_writing_fails(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise MediaError("the disk is full")

    monkeypatch.setattr(video, "write_video", fail)
    assert run(PROMPT, "--model", model) == 2
    assert capsys.readouterr().err == "error: the disk is full\n"
    assert list(Path().iterdir()) == []


def test_bad_input_is_answered_before_torch_is_imported(surroundings: None, model: str) -> None:
    cases = [
        ["--size", "100x64"],
        ["--frames", "10"],
        ["--image", "broken.png"],
        ["--model", "embeded"],
        ["-o", "none/out.mp4"],
        ["--device", "gpu"],
    ]
    code = (
        "import sys\n"
        "from ltx_diffusers.cli.app import main\n"
        f"for case in {cases!r}:\n"
        f"    given = [] if '--model' in case else ['--model', {model!r}]\n"
        "    code = main(['generate', 'a red circle', *given, *case])\n"
        "    assert code == 2, (case, code)\n"
        "    heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "    assert not heavy, (case, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == len(cases)
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_record_is_not_replaced(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.json").write_text('{"mine": 1}')
    assert run(PROMPT, "--model", model, "--seed", 5) == 2
    assert "isn't a video's record" in capsys.readouterr().err
    assert json.loads(Path("out.json").read_text()) == {"mine": 1} and not Path("out.mp4").exists()
    Path("out.json").unlink()
    assert run(PROMPT, "--model", model, "--seed", 5) == 0
    assert run(PROMPT, "--model", model, "--seed", 5) == 0  # its own record it replaces
