"""Parts of files: rows of a list that name a stretch of a video, or a part of the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.media_sets import grey_clip, grey_of, picture_bytes, write_clips

from ltx_diffusers.data.checking import check_set
from ltx_diffusers.data.cutting import Cut
from ltx_diffusers.data.decoding import Window, decode_clip, walk_video
from ltx_diffusers.data.list_clips import ListClips, read_list
from ltx_diffusers.data.media_clips import split_entries
from ltx_diffusers.data.media_entries import MediaEntry, Part, part_in
from ltx_diffusers.data.media_sets import find_entries
from ltx_diffusers.data.packing import pack, plan_shards
from ltx_diffusers.data.tar_clips import TarClips
from ltx_diffusers.data.video import write_video
from ltx_diffusers.errors import MediaError

SIZE = {"num_frames": 5, "height": 32, "width": 32}


def write_list(folder: Path, *rows: dict) -> Path:
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos of 48 frames, two seconds; frame i of the first is grey 20 + 3 i, of the second 50 + 3 i."""
    return write_clips(tmp_path, 2, num_frames=48, captions=False)


def first_values(reader, count: int = 40) -> set[int]:
    return {grey_of(reader[number].frames)[0] for number in range(count)}


def test_clips_come_from_the_stretch_alone_and_reach_both_its_ends(folder: Path) -> None:
    rows = [
        {"path": "clip0.mp4", "start": 0.5, "end": 1.0, "split": "train"},  # frames 12 to 23, grey 56 to 89
        {"path": "clip1.mp4", "split": "held-out"},
    ]
    reader = ListClips(**SIZE, path=write_list(folder, *rows))
    seen = {value for number in range(60) for value in grey_of(reader[number].frames)}
    assert min(seen) in (55, 56, 57) and max(seen) in (88, 89, 90)
    assert not reader.skipped
    late = ListClips(**SIZE, path=write_list(folder, rows[0], rows[1] | {"start": "1.5"}), split="held-out")
    values = grey_of(late[0].frames)  # the middle of frames 36 to 47
    np.testing.assert_allclose(values, 50 + 3 * (39.5 + np.arange(5)), atol=3)
    at_rate = ListClips(**SIZE, path=write_list(folder, *rows), frame_rate=8)
    with pytest.raises(MediaError, match="too short"):
        at_rate[0]


def test_a_window_takes_no_frame_from_behind_its_end(folder: Path) -> None:
    video = folder / "clip0.mp4"
    for end, count in ((0.5, 12), (0.51, 12), (10.0, 48)):
        frames, _ = decode_clip(video, Window(count, end=end))
        assert len(frames) == count and frames[0, 0, 0, 0] == pytest.approx(20, abs=2)
    with pytest.raises(MediaError, match="too short"):
        decode_clip(video, Window(13, end=0.5))
    with pytest.raises(MediaError, match="too short"):
        decode_clip(video, Window(1, start=3.0))
    walked = list(walk_video(video, 0.25, 0.75))
    assert [round(time * 24) for time, _ in walked] == list(range(6, 18))
    assert len(list(walk_video(video))) == 48


def test_what_a_row_says_of_its_length_passes_over_short_parts(folder: Path) -> None:
    fps = {"fps": 24, "duration": 2}
    rows = [
        {"path": "clip0.mp4", "start": 1.9, **fps},  # two frames
        {"path": "clip0.mp4", "end": 0.1, "fps": 24},
        {"path": "clip1.mp4", "start": 1, **fps},
    ]
    entries, problems = read_list(write_list(folder, *rows))
    assert not problems and [entry.part for entry in entries] == [Part(1.9), Part(0, 0.1), Part(1.0)]
    assert [Cut().takes(entry, 5) for entry in entries] == [False, False, True]
    assert [Cut().takes(entry, 2) for entry in entries] == [True, True, True]


def test_a_crop_is_all_that_is_seen_of_pictures_and_videos(tmp_path: Path) -> None:
    frames = grey_clip(50, 9, 64, 96, step=0)
    frames[:, :, :32] = 200
    write_video(tmp_path / "a.mp4", frames, 24)
    (tmp_path / "b.png").write_bytes(picture_bytes(80, 64, 96))
    rows = [
        {"path": "a.mp4", "crop": [34, 0, 40, 64], "split": "train"},
        {"path": "b.png", "crop": "0, 0, 90, 60", "split": "train"},
        {"path": "a.mp4", "crop": [60, 0, 40, 64], "split": "val"},
    ]
    path = write_list(tmp_path, *rows)
    videos = ListClips(**SIZE, path=path)
    assert all(abs(clip.frames - 50 / 255).max() < 0.02 for clip in map(videos.__getitem__, range(8)))
    pictures = ListClips(1, 48, 80, path=path, stills="pictures")
    assert pictures[0].frames.shape == (1, 48, 80, 3) and not pictures.skipped
    with pytest.raises(MediaError, match="stands over"):
        ListClips(**SIZE, path=path, split="held-out")[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start": "soon"}, "start is 'soon', no number of seconds"),
        ({"start": -1}, "no number of seconds"),
        ({"end": float("inf")}, "no number of seconds"),
        ({"start": 2, "end": 2}, "ends at 2 s, not after its start"),
        ({"crop": [0, 0, 5]}, "not left, top, width and height"),
        ({"crop": [0, 0, 5, 0]}, "crop"),
        ({"crop": "0 0 5 x"}, "crop"),
        ({"crop": [0, 0, 5.5, 6]}, "crop"),
        ({"crop": 7}, "crop"),
    ],
)
def test_fields_that_name_no_part_are_problems_of_their_row(folder: Path, fields: dict, message: str) -> None:
    path = write_list(folder, {"path": "clip0.mp4", **fields}, {"path": "clip1.mp4"})
    entries, problems = read_list(path)
    assert [entry.name for entry in entries] == ["clip1.mp4"]
    assert problems[0].name == "list.jsonl, line 1" and message in problems[0].reason


def test_empty_fields_name_no_part() -> None:
    assert part_in({"start": "", "end": None, "crop": ""}) is None
    assert part_in({"start": "0", "crop": "4,2,10,20"}) == Part(0.0, None, (4, 2, 10, 20))


def test_parts_of_one_file_are_held_out_together() -> None:
    entries = [
        MediaEntry(f"{key}.mp4", key, Path("x"), part=Part(float(second)))
        for key in ("a", "b")
        for second in range(5)
    ]
    held, trained = (split_entries(entries, split, 1e-9) for split in ("held-out", "train"))
    assert len(held) == len(trained) == 5
    assert not {entry.key for entry in held} & {entry.key for entry in trained}
    assert not split_entries(entries[:5], "held-out", 1e-9)


def test_checking_knows_parts_from_copies(folder: Path) -> None:
    rows = [{"path": "clip0.mp4", "start": start, "end": start + 0.5} for start in (0, 0.5, 1)]
    path = write_list(folder, *rows, {"path": "clip1.mp4", "start": 3}, {"path": "clip1.mp4"})
    report = check_set(*find_entries(path))
    assert not report.duplicates and not report.broken
    assert [str(problem) for problem in report.wrong] == [
        "clip1.mp4: it begins at 3 s, but the video lasts 2 s"
    ]
    assert report.seconds == pytest.approx(3 * 0.5 + 2, abs=0.05)
    assert report.num_frames == [12, 12, 12, 0, 48]


def test_parts_survive_packing_and_stay_together(folder: Path) -> None:
    rows = [
        {"path": "clip0.mp4", "start": 0.25 * n, "end": 0.25 * n + 0.25, "crop": [0, 0, 40, 40]}
        for n in range(4)
    ]
    entries, _ = find_entries(write_list(folder, *rows, {"path": "clip1.mp4"}))
    pack(plan_shards(entries, samples=9, max_bytes=10**9, seed=None), folder / "tars")
    packed, problems = find_entries(folder / "tars")
    assert not problems
    assert [entry.part for entry in packed] == [entry.part for entry in entries]
    assert [entry.key for entry in packed] == [entry.key for entry in entries]
    reader = TarClips(**SIZE, path=folder / "tars", held_out_share=1e-9)
    assert len({reader.name(number) for number in range(8)}) in (1, 4)  # one file's parts, or the other file
    bad = {"key": "clip1", "start": "x"}
    (folder / "tars" / "000000.meta.jsonl").write_text(json.dumps(bad))
    packed, problems = find_entries(folder / "tars")
    assert len(packed) == 4 and "number of seconds" in problems[0].reason
