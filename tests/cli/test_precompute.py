"""`ltx-diffusers precompute`: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.media_sets import write_clips
from PIL import Image
from tiny import tiny_components

from ltx_diffusers import LTXPipeline
from ltx_diffusers.cli import app
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.training.latent_store import LatentStore


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline's folder."""
    folder = tmp_path_factory.mktemp("model")
    LTXPipeline(**tiny_components(causal=True, statistics=True)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three clips below the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return write_clips(tmp_path / "clips", 3)


def run(*arguments: object) -> int:
    return app.main(["precompute", *map(str, arguments)])


def test_a_folder_becomes_samples_and_a_contact_sheet(
    folder: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "bad.mp4").write_bytes(b"bad")
    (folder / "twin.mp4").write_bytes((folder / "clip0.mp4").read_bytes())
    common = ("clips", "-o", "out", "--model", model, "--size", "64x32x9", "--text-length", 8)
    more = ("--caption-prefix", "a red", "--prompt", "the wall", "--check", 2)
    assert run(*common, *more) == 0
    out, err = capsys.readouterr()
    assert "4 samples, 3 latents encoded now; 64x32x9 (4)" in out
    assert "out/check.png: 2 samples decoded, PSNR" in out
    assert "left out: 1\n  bad.mp4: it can't be read" in err
    assert "without a caption: 1\n  twin.mp4" in err and "clip0.mp4 = twin.mp4" in err
    assert Image.open("out/check.png").height > 4 * 32
    store = LatentStore.open("out")
    assert store.buckets == {VideoSize(9, 32, 64): [0, 1, 2, 3]}
    assert store.caption(0) == "a red grey number 0" and len(store.text("the wall")[0]) == 3
    # Again: nothing to encode. A part of the set, by two processes, without texts.
    assert run(*common, "--drop-duplicates", "--prune", "--half", "--no-text") == 0
    out, err = capsys.readouterr()
    assert "3 samples, 3 latents encoded now" in out and "dropped as duplicates: 1" in err
    assert "removed what nothing used" in err
    assert run(*common, "--no-text", "--rank", 0, "--world-size", 2) == 0
    assert "process 0 of 2 is finished" in capsys.readouterr().out
    assert run(*common, "--no-text", "--rank", 1, "--world-size", 2, "--clips", "all") == 0
    assert "process 1 of 2 is finished" in capsys.readouterr().out  # not the same run as process 0's
    assert run(*common, "--no-text", "--rank", 1, "--world-size", 2) == 0
    assert "4 samples" in capsys.readouterr().out
    assert not LatentStore.open("out").has_text


def test_the_launcher_says_which_process_it_is(
    folder: Path, model: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("clips", "-o", "out", "--model", model, "--size", "64x32x9", "--no-text", "--split", "train")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, words in (("1", "process 1 of 2"), ("0", "2 samples")):
        monkeypatch.setenv("RANK", rank)
        assert run(*common) == 0
        assert words in capsys.readouterr().out
    assert json.loads(Path("out/report.json").read_text())["samples"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--size", "64x33x9"), "height must be a positive multiple"),
        (("--size", "wide"), "WIDTHxHEIGHT"),
        (("--size", "64x32x9", "--clips", "some"), "--clips"),
        (("--size", "64x32x9", "--reference-scale", "2"), "height must be a positive multiple"),
        (("--size", "64x32x9", "--no-text", "--prompt", "a"), "--prompt needs"),
        (("--size", "64x32x9", "--rank", "0"), "go together"),
        (("--size", "64x32x9", "--rank", "2", "--world-size", "2"), "below"),
        (("--size", "64x32x9", "--held-out-share", "2"), "held_out_share"),
        (("--size", "64x32x9", "--frame-rate", "-1"), "frame_rate"),
        (("--size", "64x32x9", "--model", "nowhere"), "unknown model"),
        (("--size", "64x32x9", "--device", "gpu"), "unknown device"),
        (("--size", "64x32x9", "--piece", "last"), "no piece of a clip"),
        (("--size", "64x32x65"), "gives no sample"),
        ((), "size"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, model: Path, arguments: tuple, words: str, capsys: pytest.CaptureFixture
) -> None:
    given = () if "--model" in arguments else ("--model", model)
    assert run("clips", "-o", "out", *given, *arguments) == 2
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and not out
