"""The column `conditions`: what rows may say, what is read of it, and what is said where it can't be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from helpers.media_sets import slanted_clip, write_tar

from ltx_diffusers.data.checking import check_set
from ltx_diffusers.data.clip_stream import ClipStream
from ltx_diffusers.data.hf_clips import list_dataset
from ltx_diffusers.data.list_clips import ListClips, read_list
from ltx_diffusers.data.packing import pack, plan_shards
from ltx_diffusers.data.row_conditions import RowCondition, conditions_in, placed
from ltx_diffusers.data.tar_clips import TarClips
from ltx_diffusers.data.tars import index_shard
from ltx_diffusers.data.video import write_image, write_video
from ltx_diffusers.errors import MediaError

WANTED = [{"frame": 0}, {"frame": -1}, {"frame": 8, "frames": 9}]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, None),
        ("", None),
        (" ", None),
        ([], ()),
        ("[]", ()),
        (WANTED, (RowCondition(0), RowCondition(-1), RowCondition(8, 9))),
        (json.dumps(WANTED), (RowCondition(0), RowCondition(-1), RowCondition(8, 9))),
        ({"frame": 3}, (RowCondition(3),)),
        ([{"frame": -9, "frames": 9, "file": None}], (RowCondition(-9, 9),)),
        ([{"frame": 4, "file": "a.png"}], (RowCondition(4, 1, Path("root/a.png")),)),
        ([{"frame": 20}, {"frame": -5}], (RowCondition(20), RowCondition(-5))),
    ],
)
def test_rows_say_what_is_given(said: object, expected: object) -> None:
    assert conditions_in({"conditions": said}, Path("root")) == expected
    assert conditions_in({}) is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("first", "no JSON.*first"),
        ("[" * 10**5, "no JSON"),
        (3, "no list of objects but '3'"),
        ([0], "'0' is no object like"),
        ([{"frames": 9}], "doesn't say its frame"),
        ([{"frame_index": 0}], "'frame_index'; did you mean frame?"),
        ([{"frame": 0, "strength": 1}], "'strength'; there are frame, frames, file"),
        ([{"frame": 1.5}], "frame is no whole number: '1.5'"),
        ([{"frame": True}], "no whole number"),
        ([{"frame": 8, "frames": 8}], "frames are 8; use 1 or 9"),
        ([{"frame": 8, "frames": 0}], "frames are 0; use 1"),
        ([{"frame": 12, "frames": 9}], "inside a latent; use frame 8 or 16"),
        ([{"frame": -12, "frames": 9}], "inside a latent; use frame -17 or -9"),
        ([{"frame": -1, "frames": 9}], "beyond the clip's end; frame -9 is its last"),
        ([{"frame": 0, "frames": 9}, {"frame": 8}], "give the same frame"),
        ([{"frame": -1}, {"frame": -9, "frames": 9}], "give the same frame"),
        ([{"frame": 0, "file": "a.txt"}], "'a.txt' is neither a picture nor a video"),
        ([{"frame": 0, "frames": 9, "file": "a.png"}], "from a picture, which gives one frame"),
    ],
)
def test_what_a_row_cannot_say_is_refused(said: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        conditions_in({"conditions": said}, Path("root"))
    if isinstance(said, list) and "root" not in words:
        with pytest.raises(ValueError, match="names a file"):
            conditions_in({"conditions": [{"frame": 0, "file": "a.png"}]})


def test_conditions_lie_in_a_clip_in_order_of_their_frames() -> None:
    conditions = (RowCondition(-1), RowCondition(0), RowCondition(8, 9))
    assert [(begin, one.frames) for begin, one in placed(conditions, 25)] == [(0, 1), (8, 9), (24, 1)]
    assert placed(conditions, 1) == []
    for one, frames, words in (
        (RowCondition(17), 17, "1 frame from 17 on isn't inside its 17 frames"),
        (RowCondition(16, 9), 17, "9 frames from 16 on isn't inside"),
        (RowCondition(-25, 9), 17, "from -25 on isn't inside"),
        (RowCondition(-17, 17), 17, "leaves nothing of its 17 frames"),
    ):
        with pytest.raises(MediaError, match=words):
            placed([one], frames)
    with pytest.raises(MediaError, match="give the same frame"):
        placed(conditions, 17)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 40 frames whose gray tells frame and column, its negative and a short one, and a picture."""
    root = tmp_path_factory.mktemp("media")
    video = slanted_clip()
    write_video(root / "clip.mp4", video, 24)
    write_video(root / "negative.mp4", 255 - video, 24)
    write_video(root / "short.mp4", video[:12], 24)
    write_image(root / "picture.png", np.full((32, 96, 3), 77, np.uint8))
    return root


def write_rows(media: Path, *rows: dict) -> Path:
    path = media / "list.json"
    path.write_text(json.dumps([{"path": "clip.mp4", "split": "train"} | row for row in rows]))
    return path


def reader_of(media: Path, *rows: dict, **settings: object) -> ListClips:
    return ListClips(
        **{"num_frames": 17, "height": 32, "width": 32} | settings, path=write_rows(media, *rows)
    )


def test_clips_have_the_frames_that_their_row_says(media: Path) -> None:
    files = [{"frame": 4, "file": "picture.png"}, {"frame": -9, "frames": 9, "file": "negative.mp4"}]
    reader = reader_of(media, {"conditions": [{"frame": -1}, {"frame": 0}]}, {"conditions": files}, {})
    seen = {}
    for number in range(6):
        clip = reader[number]
        seen[None if clip.conditions is None else clip.conditions[0].frame] = clip
    assert set(seen) == {None, 0, 4}
    first, last = seen[0].conditions
    assert (first.frame, last.frame) == (0, 16) and first.frames.dtype == np.float32
    np.testing.assert_array_equal(first.frames, seen[0].frames[:1])
    np.testing.assert_array_equal(last.frames, seen[0].frames[-1:])
    picture, negative = seen[4].conditions
    assert (picture.frame, negative.frame) == (4, 8) and picture.frames.shape == (1, 32, 32, 3)
    assert np.abs(picture.frames * 255 - 77).max() <= 1
    # The negative's own moments and place: those of the clip.
    assert np.abs(1 - negative.frames - seen[4].frames[8:]).mean() < 3 / 255
    # A single frame is given nothing, whatever the row says.
    assert {reader.with_size(1)[number].conditions for number in range(6)} == {None, ()}
    assert not reader.skipped


def test_what_does_not_fit_is_left_out_and_a_check_finds_it(media: Path) -> None:
    bad = {
        "outside": [{"frame": 40}],
        "longer": [{"frame": 24, "frames": 9}],
        "gone": [{"frame": 0, "file": "none.png"}],
        "ends": [{"frame": 30, "file": "short.mp4"}],
    }
    rows = [{"caption": name, "conditions": value} for name, value in bad.items()]
    rows += [{"conditions": [{"frames": 1}]}, {"caption": "fine"}]
    rows += [{"path": "picture.png", "conditions": [{"frame": 0}]}]
    reader = reader_of(media, *rows, num_frames=33)
    assert {reader[number].caption for number in range(8)} <= {"fine", "longer"}
    reasons = " ".join(problem.reason for problem in reader.skipped)
    for words in ("from 40 on isn't inside its 33", "none.png, can't", "short.mp4, ends", "say its frame"):
        assert words in reasons
    report = check_set(*read_list(media / "list.json"), quick=True)
    (broken,) = report.broken
    assert broken.name == "clip.mp4" and "none.png" in broken.reason
    unsaid, outside, picture = (problem.reason for problem in report.wrong)
    assert "doesn't say its frame" in unsaid
    assert "from 40 on isn't inside its 40 frames" in outside
    assert "a picture, which is given nothing" in picture


def test_csv_tars_and_datasets_have_the_column_too(media: Path, tmp_path: Path) -> None:
    (media / "list.csv").write_text(
        'path,conditions\nclip.mp4,"[{""frame"": 0}, {""frame"": -9, ""frames"": 9}]"\nclip.mp4,\nclip.mp4,[]\n'
    )
    conditions = (RowCondition(0), RowCondition(-9, 9))
    entries, problems = read_list(media / "list.csv")
    assert [entry.conditions for entry in entries] == [conditions, None, ()] and not problems

    report = pack(plan_shards(entries, samples=9, max_bytes=10**9, seed=None), tmp_path / "tars")
    again, problems = index_shard(report.shards[0])
    assert [entry.conditions for entry in again] == [conditions, None, ()] and not problems
    stream = ClipStream(tmp_path / "tars", 17, 32, 32, held_out_share=0.001)
    readers = [TarClips(17, 32, 32, split, path=tmp_path / "tars") for split in ("train", "held-out")]
    streamed = [next(iter(stream)) for _ in range(9)]
    for clips in (streamed, [reader[number] for reader in readers for number in range(9)]):
        given = {clip.conditions and tuple(each.frame for each in clip.conditions) for clip in clips}
        assert given == {None, (), (0, 8)}
    beside = [{"conditions": [{"frame": 0, "file": "picture.png"}]}]
    beside += [{"reference": "short.mp4"}, {"mask": "picture.png"}]
    report = pack(
        plan_shards(read_list(write_rows(media, *beside))[0], samples=9, max_bytes=10**9), tmp_path / "none"
    )
    reasons = [problem.reason for problem in report.left_out]
    assert len(reasons) == 3 and all("a tar has no place" in reason for reason in reasons)
    content = (media / "clip.mp4").read_bytes()
    text = b'{"conditions": [{"frame": 0, "file": "picture.png"}]}'
    shard = write_tar(tmp_path / "1.tar", [("1.mp4", content), ("1.json", text), ("2.mp4", content)])
    entries, problems = index_shard(shard)
    assert len(entries) == 1 and "a tar has no place" in problems[0].reason

    said = [
        [{"frame": 0, "file": None}, {"frame": 4, "file": "picture.png"}],
        None,
        [{"frame": -40, "file": ""}],
    ]
    Dataset.from_dict({"path": ["clip.mp4"] * 3, "conditions": said}).save_to_disk(str(tmp_path / "dataset"))
    entries, problems = list_dataset(tmp_path / "dataset", media)
    assert [entry.conditions for entry in entries] == [
        (RowCondition(0), RowCondition(4, 1, media / "picture.png")),
        None,
    ]
    assert len(problems) == 1 and "neither a picture" in problems[0].reason


def test_other_conditions_are_another_set(media: Path) -> None:
    said = ({}, {"conditions": []}, {"conditions": [{"frame": 0}]}, {"conditions": [{"frame": -1}]})
    assert len({repr(reader_of(media, row)) for row in said}) == len(said)
