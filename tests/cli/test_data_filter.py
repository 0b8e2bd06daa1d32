"""`ltx-diffusers data filter` and `data check --report`: what they print, write and return."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.scenes import detailed, letterboxed, pan, write_montage
from PIL import Image

from ltx_diffusers.cli import app
from ltx_diffusers.data.list_clips import ListClips


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two shots in one video, a slow one with bars and a caption, a copy of that, and a frozen one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "clips"
    folder.mkdir()
    shots = [pan(detailed(seed, 48), 30, speed, 64) for seed, speed in enumerate((2.0, 1.0, 0.3, 0.0))]
    write_montage(folder / "a.mp4", shots[0], shots[1])
    write_montage(folder / "b.mp4", letterboxed(shots[2], 12, 12))
    (folder / "b.txt").write_text("a slow wall")
    write_montage(folder / "copy.webm", letterboxed(shots[2], 12, 12))
    write_montage(folder / "still.webm", shots[3])
    return folder


def run(*arguments: object) -> int:
    return app.main(["data", *map(str, arguments)])


def rows(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_filter_writes_a_list_that_training_reads(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("filter", "clips", "out.jsonl", "--report", "report") == 0
    out, err = capsys.readouterr()
    assert err == "" and "kept: 3 scenes, 3.8 s from 2 files" in out
    assert "1 not still_share <= 0.8" in out and "1 there twice" in out
    assert [Path(row["path"]).name for row in rows("out.jsonl")] == ["a.mp4", "a.mp4", "b.mp4"]
    dropped = rows("out.dropped.jsonl")
    assert [row["reasons"][0].split(":")[0] for row in dropped] == ["there twice", "still_share <= 0.8"]
    report = json.loads(Path("report/report.json").read_text())
    assert (report["kept"], report["left_out"]) == (3, 2) and Path("report/report.txt").read_text() in out
    assert Image.open("report/left_out.png").height > 2 * 90
    assert Image.open("report/kept.png").height > 3 * 90
    reader = ListClips(17, 32, 48, path="out.jsonl")
    assert reader[0].frames.shape == (17, 32, 48, 3)
    assert run("check", "out.jsonl") == 0


def test_other_limits_need_no_new_measuring(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("filter", "clips", "out.jsonl") == 0
    from ltx_diffusers.data.filters import running

    monkeypatch.setattr(running, "measure", None)
    keep = ("--keep", "motion >= 20", "--keep", "still_share <= 1")
    assert run("filter", "clips", "out.jsonl", *keep) == 0
    assert len(rows("out.jsonl")) == 2
    assert (
        run(
            "filter",
            "clips",
            "all.jsonl",
            "--no-defaults",
            "--duplicates",
            "--measured",
            "out.measured.jsonl",
        )
        == 0
    )
    assert len(rows("all.jsonl")) == 5 and not rows("all.dropped.jsonl")
    assert run("filter", "clips", "out.jsonl", "--captions") == 0
    assert [row["caption"] for row in rows("out.jsonl")] == ["a slow wall"]
    capsys.readouterr()
    assert (
        run("filter", "clips", "out.jsonl", "--cuts", "none") == 1
    )  # other settings are measured, which fails here
    assert "NoneType" in capsys.readouterr().err


def test_settings_of_the_scenes(folder: Path) -> None:
    settings = ("--cuts", "none", "--no-crop", "--max-seconds", 1.5, "--duplicates", "--no-defaults")
    assert run("filter", "clips", "out.jsonl", *settings) == 0
    found = rows("out.jsonl")
    assert len(found) == 2 + 3 and not any("crop" in row for row in found)
    assert found[0]["end"] == found[1]["start"] == pytest.approx(1.25)


def test_broken_files_are_listed_and_the_rest_is_written(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "bad.mp4").write_bytes(b"bad")
    (folder / "empty.png").write_bytes(b"")
    assert run("filter", "clips", "out.jsonl", "--workers", 2) == 1
    out = capsys.readouterr().out
    assert "broken or wrong: 2" in out and "bad.mp4: it can't be read" in out and "empty.png" in out
    assert len(rows("out.jsonl")) == 3


def test_check_reports_scenes(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "bad.mp4").write_bytes(b"bad")
    assert run("check", "clips", "--quick", "--report", "report") == 1
    out = capsys.readouterr().out
    assert "bad.mp4: it can't be read" in out and "5 scenes, 6.2 s from 4 files" in out
    assert "motion: apparent speed" in out
    report = json.loads(Path("report/report.json").read_text())
    assert report["set"]["videos"] == 4 and len(report["scenes"]) == 5 and "kept" not in report
    assert report["scores"]["motion"]["lowest"] < 0.01 and report["problems"][0]["name"] == "bad.mp4"
    assert Image.open("report/scores.png").height > 10 * 90
    assert Path("report/report.txt").read_text() == out
    # What was measured for the report needn't be measured for the list.
    size = Path("report/measured.jsonl").stat().st_size
    assert run("filter", "clips", "out.jsonl", "--measured", "report/measured.jsonl") == 1
    assert Path("report/measured.jsonl").stat().st_size == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("clips", "out.csv"), "jsonl"),
        (("clips", "none/out.jsonl"), "doesn't exist"),
        (("none", "out.jsonl"), "nothing at none"),
        (("clips", "out.jsonl", "--keep", "motoin >= 1"), "expected motion"),
        (("clips", "out.jsonl", "--keep", "motion"), "no rule"),
        (("clips", "out.jsonl", "--cuts", "best"), "unknown detector"),
        (("clips", "out.jsonl", "--max-seconds", "0"), "at least a second"),
        (("clips", "out.jsonl", "--report", "clips/b.txt"), "output folder"),
        (("clips", "out.jsonl", "--measured", "clips/b.txt"), "no measurements"),
        (("tars", "out.jsonl"), "lies in a tar"),
        (("list.jsonl", "list.jsonl"), "written over"),
        (("kept.dropped.jsonl", "kept.jsonl"), "written over"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture, arguments: tuple, message: str
) -> None:
    for name in ("list.jsonl", "kept.dropped.jsonl"):
        Path(name).write_text('{"path": "clips/a.mp4"}\n')
    if arguments[0] == "tars":
        assert run("pack", "clips", "tars") == 0
    assert run("filter", *arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not any(Path(name).exists() for name in ("out.jsonl", "out.measured.jsonl", "kept.jsonl"))
