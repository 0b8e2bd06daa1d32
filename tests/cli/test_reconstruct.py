"""`ltx-diffusers reconstruct`: what it writes and measures, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.saved_models import save_tiny_pipeline
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from ltx_diffusers import AutoencoderKLLTX
from ltx_diffusers.cli import app, loading
from ltx_diffusers.cli.reconstruct import through_vae
from ltx_diffusers.data.video import read_image, read_video, write_video


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random pipeline."""
    return str(save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run where nothing else lies."""
    monkeypatch.chdir(tmp_path)


def clip(frames: int, height: int, width: int) -> np.ndarray:
    """A smooth moving clip, (F, H, W, 3)."""
    f, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    return np.stack([x + 5 * f, y + 3 * f, 255 - x], axis=-1).astype(np.uint8)


def run(*arguments: object) -> int:
    return app.main(["reconstruct", *map(str, arguments)])


def figures(out: str) -> list[float]:
    """PSNR, worst PSNR, SSIM, worst SSIM as printed."""
    line = next(line for line in out.splitlines() if line.startswith("PSNR"))
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


def test_figures_are_those_of_the_frames_written(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders of frames lose nothing, so that the figures can be computed again from the files."""
    original = clip(20, 70, 100)
    write_video("in", original, 12)
    assert run("in", "-o", "copy", "--model", model) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "17 of 20 frames are used" in out and "100x70 is cut to 96x64" in out
    copy, fps = read_video("copy")
    used = original[:17, 3:67, 2:98]
    assert copy.shape == used.shape and fps == 12
    expected = [peak_signal_noise_ratio(a, b) for a, b in zip(used, copy, strict=True)]
    assert figures(out)[:2] == pytest.approx([np.mean(expected), np.min(expected)], abs=0.006)

    assert run("in", "-o", "both", "--model", model, "--side-by-side") == 0
    both, _ = read_video("both")
    assert np.array_equal(both[:, :, :96], used)
    assert np.array_equal(both[:, :, 96:], copy)


def test_the_vae_is_used_as_it_is_given(model: str) -> None:
    """Encoding and decoding by hand, without noise in the latents, gives the same frames."""
    vae = AutoencoderKLLTX.from_pretrained(model, subfolder="vae")
    vae.register_to_config(default_decode_noise_scale=0.0, default_decode_timestep=0.1)
    frames = clip(9, 64, 64)
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()
        decoded = vae.decode(latents, torch.tensor([0.1])).sample[0]
    expected = ((decoded + 1) / 2).clamp(0, 1).permute(1, 2, 3, 0).numpy() * 255
    assert np.abs(through_vae(vae, frames) - expected).max() <= 0.51


def test_sizes_frames_and_tiles(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_video("in.mp4", clip(12, 64, 96), 24)
    arguments = ["in.mp4", "--model", f"{model}/vae", "--size", "32x64", "--frames", "9", "--tiles"]
    assert run(*arguments, "-o", "out.gif") == 0
    assert "96x64 is resized and cut to 32x64" in capsys.readouterr().out
    assert read_video("out.gif")[0].shape == (9, 64, 32, 3)


def test_a_picture(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(clip(1, 64, 64)[0]).save("in.png")
    assert run("in.png", "-o", "out.png", "--model", model, "--side-by-side") == 0
    assert "1 frame of 64x64" in capsys.readouterr().out
    assert np.array_equal(read_image("out.png")[:, :64], clip(1, 64, 64)[0])
    assert sorted(path.name for path in Path().iterdir()) == ["in.png", "out.png"]


BAD = {
    "missing": (["none.mp4", "-o", "out.mp4"], "no such video"),
    "near": (["inn.mp4", "-o", "out.mp4"], "did you mean in.mp4?"),
    "unreadable video": (["text.mp4", "-o", "out.mp4"], "text.mp4"),
    "unreadable picture": (["text.png", "-o", "out.png"], "text.png"),
    "too small": (["small.png", "-o", "out.png"], "too small", "--size"),
    "size": (["in.mp4", "-o", "out.mp4", "--size", "100x64"], "96 or 128"),
    "frames": (["in.mp4", "-o", "out.mp4", "--frames", "10"], "9 or 17"),
    "too few frames": (["in.mp4", "-o", "out.mp4", "--frames", "17"], "too few frames"),
    "output ending": (["in.mp4", "-o", "out.avi"], ".avi"),
    "picture of a video": (["in.mp4", "-o", "out.png"], ".png"),
    "output folder": (["in.mp4", "-o", "none/out.mp4"], "doesn't exist"),
    "picture output folder": (["small.png", "-o", "none/out.png"], "doesn't exist"),
    "same file": (["in.mp4", "-o", "in.mp4"], "is the input"),
    "no output": (["in.mp4"], "output"),
    "model": (["in.mp4", "-o", "out.mp4", "--model", "embeded"], "did you mean embedded?"),
    "no vae": (["in.mp4", "-o", "out.mp4", "--model", "index"], "no VAE"),
    "repository": (["in.mp4", "-o", "out.mp4", "--model", "Lightricks/LTX-Vidoe"], "Lightricks/LTX-Video"),
    "device": (["in.mp4", "-o", "out.mp4", "--device", "gpu"], "'gpu'"),
    "dtype": (["in.mp4", "-o", "out.mp4", "--dtype", "int8"], "int8"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    case: str, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "pick_device", lambda name: pytest.fail("this came to loading"))
    write_video("in.mp4", clip(9, 64, 64), 24)
    Path("text.mp4").write_text("no video")
    Path("text.png").write_text("no picture")
    Image.new("RGB", (40, 20)).save("small.png")
    Path("index").mkdir()
    Path("index/model_index.json").write_text("{}")
    before = {path.name: path.stat().st_mtime_ns for path in Path().rglob("*")}
    options, *texts = BAD[case]
    given = [] if "--model" in options else ["--model", model]
    assert run(*options, *given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for text in texts:
        assert text in err
    assert {path.name: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
