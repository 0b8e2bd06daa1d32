"""Sets checked: what they hold, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.media_sets import grey_clip, picture_bytes, write_clips, write_pictures

from ltx_diffusers.data.checking import check_set
from ltx_diffusers.data.media_sets import find_entries, reader_of
from ltx_diffusers.data.video import write_video
from ltx_diffusers.errors import MediaError


def test_a_whole_set_is_counted(tmp_path: Path) -> None:
    write_clips(tmp_path, 2)
    write_video(tmp_path / "other.webm", grey_clip(0, 10, 32, 96), 12.5)
    write_pictures(tmp_path / "stills")
    ticks = []
    report = check_set(*find_entries(tmp_path), workers=2, advance=lambda: ticks.append(1))
    assert report.is_clean and len(ticks) == 5
    assert (report.pictures, report.videos, report.without_caption) == (2, 3, 3)
    assert report.sizes == {"64x48": 4, "96x32": 1}
    assert report.frame_rates == {24.0: 2, 12.5: 1}
    assert sorted(report.num_frames) == [10, 24, 24]
    assert report.seconds == pytest.approx(2 + 0.8, abs=0.01)
    assert report.bytes == sum(file.stat().st_size for file in tmp_path.rglob("*.*") if file.suffix != ".txt")
    quick = check_set(*find_entries(tmp_path), quick=True)
    assert quick.sizes == report.sizes and sorted(quick.num_frames) == [10, 24, 24]
    json.dumps(report.to_json())


def test_broken_files_and_duplicates_are_found(tmp_path: Path) -> None:
    write_clips(tmp_path, 2, num_frames=60)
    whole = (tmp_path / "clip0.mp4").read_bytes()
    (tmp_path / "copy.mp4").write_bytes(whole)
    (tmp_path / "cut.mp4").write_bytes(whole[:-1500])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"no picture")
    (tmp_path / "clip1.txt").write_bytes(b"\xff\xff")
    report = check_set(*find_entries(tmp_path))
    assert {problem.name for problem in report.broken} == {"cut.mp4", "empty.mp4", "empty.png", "text.jpg"}
    assert report.duplicates == [["clip0.mp4", "copy.mp4"]]  # two empty files are not the same video
    assert [problem.name for problem in report.wrong] == ["clip1.txt"]
    assert not report.is_clean and report.videos == 3
    quick = check_set(*find_entries(tmp_path), quick=True)
    assert "cut.mp4" not in {problem.name for problem in quick.broken}  # its header is whole


def test_a_list_that_says_something_else_than_its_files(tmp_path: Path) -> None:
    write_clips(tmp_path, 3)
    rows = [
        {"path": "clip0.mp4", "fps": 24, "duration": 1.01, "width": 64, "height": 48},
        {"path": "clip1.mp4", "fps": 30, "duration": 1},
        {"path": "clip2.mp4", "width": 640, "duration": 9},
        {"path": "gone.mp4"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    report = check_set(*find_entries(tmp_path / "list.json"))
    assert [(problem.name, problem.reason.split()[1]) for problem in report.wrong] == [
        ("clip1.mp4", "fps"),
        ("clip2.mp4", "size"),
        ("clip2.mp4", "duration"),
    ]
    assert [problem.name for problem in report.broken] == ["gone.mp4"]


def test_a_path_tells_its_reader(tmp_path: Path) -> None:
    (tmp_path / "list.CSV").write_text("path\n")
    (tmp_path / "x.png").write_bytes(picture_bytes())
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "0.tar").write_bytes(b"")
    assert reader_of(tmp_path) == "folder" and reader_of(tmp_path / "list.CSV") == "list"
    assert reader_of(tmp_path / "tars") == reader_of(tmp_path / "tars" / "0.tar") == "webdataset"
    assert reader_of("shards/{000..009}.tar") == "webdataset"
    for path in (tmp_path / "nothing", tmp_path / "x.png"):
        with pytest.raises(MediaError, match="nothing at|no set"):
            reader_of(path)
