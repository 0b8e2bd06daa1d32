"""`ltx-diffusers data`: what it prints, writes and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.media_sets import write_clips
from PIL import Image

from ltx_diffusers.cli import app


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three clips below the working folder."""
    monkeypatch.chdir(tmp_path)
    return write_clips(tmp_path / "clips", 3)


def run(*arguments: object) -> int:
    return app.main(["data", *map(str, arguments)])


def test_check_describes_a_set_and_fails_if_something_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("check", "clips") == 0
    out, err = capsys.readouterr()
    assert "3 videos" in out and "24 (3)" in out and "64x48 (3)" in out and "captions: 3 of 3" in out
    assert "nothing is wrong" in out and err == ""
    (folder / "bad.mp4").write_bytes(b"bad")
    (folder / "twin.mp4").write_bytes((folder / "clip0.mp4").read_bytes())
    assert run("check", "clips", "--quick", "--workers", 2) == 1
    out, _ = capsys.readouterr()
    assert "broken: 1" in out and "bad.mp4: it can't be read" in out and "clip0.mp4 = twin.mp4" in out
    assert run("check", "clips", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["videos"] == 4 and found["broken"][0]["name"] == "bad.mp4"


def test_pack_check_and_preview_follow_each_other(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "bad.mp4").write_bytes(b"bad")
    assert run("pack", "clips", "tars", "--samples", 2, "--size", "2M") == 1
    out, err = capsys.readouterr()
    assert "3 samples packed, 2 tars in all" in out and "bad.mp4" in err
    assert run("pack", "clips", "tars") == 2
    assert "isn't empty" in capsys.readouterr().err
    assert run("check", "tars") == 0
    size = ("--set", "height=32", "--set", "width=64")
    assert run("preview", "tars", "-o", "sheet.png", "--count", 3, "--set", "num_frames=9", *size) == 0
    out, _ = capsys.readouterr()
    assert "3 clips of 9 frames, 64x32" in out
    sheet = Image.open("sheet.png")
    assert sheet.width > 8 * 64 and sheet.height > 3 * 32


def test_preview_shows_what_a_config_trains_on(folder: Path, capsys: pytest.CaptureFixture) -> None:
    Path("run.yaml").write_text(
        "output: runs/x\ndata:\n  reader: folder\n  height: 32\n  width: 32\n  num_frames: 9\n"
        "  options: {path: clips, frame_rate: 8}\n"
    )
    assert run("preview", "--config", "run.yaml", "-o", "a.png", "--count", 2) == 2
    assert "in a row could be used" in capsys.readouterr().err  # a second has 8 frames at this rate
    assert run("preview", "--config", "run.yaml", "-o", "a.png", "--set", "options.frame_rate=12") == 0
    assert run("preview", "moving-shapes", "-o", "b.png", "--count", 1, "--held-out") == 0
    assert "1 clip of 17 frames, 96x96" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "none"), "nothing at none"),
        (("pack", "clips", "tars", "--size", "big"), "no size in bytes"),
        (("pack", "clips", "clips"), "isn't empty"),
        (("preview", "-o", "x.png"), "either a set or --config"),
        (("preview", "clips", "-o", "x.jpg"), "png"),
        (("preview", "clips", "-o", "x.png", "--set", "options.strid=2"), "stride"),
        (("preview", "clips", "-o", "x.png", "--set", "num_frames=8"), "8k"),
        (("preview", "clips", "-o", "x.png", "--set", "framerate=8"), "frame_rate"),
        (("preview", "clips", "-o", "x.png", "--set", "reader=list"), "lists end in another way"),
        (("preview", "--config", "none.yaml", "-o", "x.png"), "config"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture, arguments: tuple, message: str
) -> None:
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not Path("x.png").exists() and not Path("tars").exists()
