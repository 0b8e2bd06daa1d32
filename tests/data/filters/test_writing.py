"""Lists of scenes, which the reader of lists reads, and reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.scenes import detailed, letterboxed, pan, write_montage
from PIL import Image

from ltx_diffusers.data.checking import check_set
from ltx_diffusers.data.filters.measuring import MeasuredScene, Measuring
from ltx_diffusers.data.filters.reporting import (
    describe_scores,
    describe_verdicts,
    examples_kept,
    examples_left_out,
    examples_of_scores,
    report_data,
    score_table,
    write_sheet,
)
from ltx_diffusers.data.filters.rules import Verdict, decide, parse_rule
from ltx_diffusers.data.filters.running import measure_set
from ltx_diffusers.data.filters.writing import check_list_writable, write_list
from ltx_diffusers.data.list_clips import ListClips, read_list
from ltx_diffusers.data.media_entries import MediaEntry, Part
from ltx_diffusers.data.media_sets import find_entries
from ltx_diffusers.data.row_conditions import RowCondition
from ltx_diffusers.data.video import write_image
from ltx_diffusers.errors import InputError, MediaError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shots, the second with bars and little motion, in one video; a captioned one; a picture."""
    root = tmp_path_factory.mktemp("set")
    moving, calm = pan(detailed(0, 48), 24, 2.0, 64), pan(detailed(1, 48), 24, 0.1, 64)
    write_montage(root / "a.mp4", letterboxed(moving, 12, 12), letterboxed(calm, 12, 12))
    write_montage(root / "b.mp4", pan(detailed(2, 72), 24, 1.0, 64))
    (root / "b.txt").write_text("a wall")
    write_image(root / "c.png", detailed(3, 72, 64))
    return root


@pytest.fixture(scope="module")
def scenes(folder: Path) -> list[MeasuredScene]:
    return measure_set(find_entries(folder)[0])[0]


def verdicts_of(scenes: list[MeasuredScene], *rules: str) -> list[Verdict]:
    return decide(scenes, [parse_rule(rule, Measuring().scores()) for rule in rules])


def test_the_reader_of_lists_gives_clips_of_the_scenes_alone(
    scenes: list[MeasuredScene], folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "list.jsonl"
    path.parent.mkdir()
    write_list(path, verdicts_of(scenes))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["path"].rpartition("/")[2] for row in rows] == ["a.mp4", "a.mp4", "b.mp4", "c.png"]
    assert all((path.parent / row["path"]).resolve().exists() for row in rows)
    assert rows[0]["crop"] == [0, 14, 64, 44] and rows[0]["end"] == rows[1]["start"] == pytest.approx(1.0)
    assert "start" not in rows[2] and "crop" not in rows[2] and rows[2]["caption"] == "a wall"
    assert rows[2]["fps"] == 24 and rows[2]["duration"] == pytest.approx(1.0) and "fps" not in rows[3]
    entries, problems = read_list(path)
    assert not problems and [entry.part for entry in entries] == [scene.part for scene in scenes]
    assert check_set(entries).is_clean
    # Measured again as they are listed, they are whole scenes without bars.
    again = measure_set(entries)[0]
    assert [scene.part for scene in again] == [scene.part for scene in scenes]
    assert [scene.scores["bars"] for scene in again] == [0, 0, 0, 0]

    reader = ListClips(9, 40, 56, path=path, held_out_share=1e-9)
    for number in range(12):
        clip = reader[number]
        assert clip.frames.shape == (9, 40, 56, 3) and not reader.skipped
        assert clip.frames.min(axis=(0, 2, 3)).max() > 0.05
        steps = np.abs(np.diff(clip.frames, axis=0)).mean(axis=(1, 2, 3))
        assert steps.max() < 0.1  # no cut


def test_nothing_that_a_list_said_gets_lost(tmp_path: Path, scenes: list[MeasuredScene]) -> None:
    from dataclasses import replace

    folder = tmp_path / "media"
    entry = MediaEntry(
        "a.mp4", "a", folder / "a.mp4", "two\nlines ü", split="held-out",
        references=(folder / "r.mp4",), mask=folder / "m.png",
        conditions=(RowCondition(-9, 9), RowCondition(3, 1, folder / "k.png")),
    )  # fmt: skip
    path = tmp_path / "out.jsonl"
    scene = replace(scenes[0], entry=entry, part=Part(0.0, 1.5))
    write_list(path, [Verdict(scene, (("motion >= 2", "motion is 1"),))])
    row = json.loads(path.read_text())
    assert row["path"] == "media/a.mp4" and row["reasons"] == ["motion >= 2: motion is 1"]
    (back,), _ = read_list(path)
    assert (back.path, back.references, back.mask, back.split, back.conditions) == (
        entry.path,
        entry.references,
        entry.mask,
        "held-out",
        entry.conditions,
    )
    assert back.caption == "two lines ü" and back.part == Part(0.0, 1.5)


def test_where_a_list_cannot_be_written(tmp_path: Path) -> None:
    entry = MediaEntry("t.tar/a.mp4", "a", tmp_path / "t.tar", span=(512, 9))
    source = tmp_path / "in.jsonl"
    source.write_text("")
    with pytest.raises(InputError, match="within a tar|lies in a tar"):
        check_list_writable(tmp_path / "x.jsonl", source, [entry])
    for path, message in (
        (tmp_path / "x.csv", "jsonl"),
        (tmp_path / "none" / "x.jsonl", "doesn't exist"),
        (source, "written over"),
    ):
        with pytest.raises(InputError, match=message):
            check_list_writable(path, source, [])
    write_list(source, [])
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(MediaError):
        write_list(tmp_path / "folder.jsonl", [])
    assert not list(tmp_path.glob(".*.part"))


def test_the_report_counts_and_explains(scenes: list[MeasuredScene], folder: Path) -> None:
    verdicts = verdicts_of(scenes, "motion >= 5", "seconds >= 0.5")
    assert list(describe_verdicts(verdicts)) == [
        "kept: 2 scenes, 2.0 s and 1 picture from 3 files",
        "left out: 1 scene, 1.0 s from 1 file",
        "  1 not motion >= 5",
    ]
    table = score_table(scenes)
    values = sorted(scene.scores["motion"] for scene in scenes if "motion" in scene.scores)
    assert [table["motion"][name] for name in ("lowest", "median", "highest")] == pytest.approx(values)
    lines = list(describe_scores(scenes, Measuring().scores()))
    assert lines[0].split()[:2] == ["lowest", "5"] and any(line.startswith("motion: ") for line in lines)
    assert not list(describe_scores([], {}))
    data = json.loads(json.dumps(report_data(scenes, [], Measuring().scores(), folder, verdicts)))
    assert (data["kept"], data["left_out"], data["reasons"]) == (3, 1, {"motion >= 5": 1})
    assert [bool(row["reasons"]) for row in data["scenes"]] == [False, True, False, False]
    assert "reasons" not in report_data(scenes, [], {}, folder)


def test_sheets_show_examples(scenes: list[MeasuredScene], tmp_path: Path) -> None:
    verdicts = verdicts_of(scenes, "motion >= 5", "width >= 1000")
    examples = examples_left_out(verdicts)
    assert [title for _, title in examples][:1] == [
        f"not motion >= 5 (motion is {scenes[1].scores['motion']:g}): {scenes[1].name}"
    ]
    assert len(examples) == 5 and len(examples_kept(verdicts_of(scenes))) == 4 and not examples_kept(verdicts)
    extremes = examples_of_scores(scenes, ["motion", "bars", "frame_rate"])
    assert [title.split()[0] for _, title in extremes] == ["motion"] * 3 + ["bars"] * 4
    ticks: list[int] = []
    assert write_sheet(tmp_path / "s.png", extremes, lambda: ticks.append(1))
    sheet = Image.open(tmp_path / "s.png")
    assert len(ticks) == 7 and sheet.height > 7 * 90 and sheet.width > 5 * 80
    assert not write_sheet(tmp_path / "none.png", []) and not (tmp_path / "none.png").exists()
