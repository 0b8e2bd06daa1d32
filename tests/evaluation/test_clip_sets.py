"""Which clips a measurement is made on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.media_sets import grey_of, write_clips, write_pictures

from ltx_diffusers.errors import InputError, MediaError, UnknownNameError
from ltx_diffusers.evaluation.clip_sets import (
    count_clips,
    distinct_clips,
    left_out,
    open_clip_set,
)

SIZE = {"num_frames": 5, "height": 32, "width": 32}


def test_all_files_of_a_folder_are_taken_once_from_their_middle(tmp_path: Path):
    folder = write_clips(tmp_path / "clips", 3)
    reader = open_clip_set(folder, **SIZE)
    assert count_clips(reader, 10) == 3
    read = list(distinct_clips(reader, 10))
    assert sorted(clip.name for clip in read) == ["clip0.mp4", "clip1.mp4", "clip2.mp4"]
    by_name = {clip.name: clip for clip in read}
    # 24 frames: the middle 5 begin at frame 9 or 10, three grey levels a frame.
    assert abs(grey_of(by_name["clip0.mp4"].frames)[0] - (20 + 3 * 9.5)) < 4
    again = list(distinct_clips(open_clip_set(folder, **SIZE), 10))
    for one, two in zip(read, again, strict=True):
        np.testing.assert_array_equal(one.frames, two.frames)
    assert len(list(distinct_clips(reader, 2))) == 2


def test_broken_files_are_left_out_and_nothing_comes_twice(tmp_path: Path):
    folder = write_clips(tmp_path / "clips", 4)
    (folder / "clip2.mp4").write_bytes(b"broken")
    reader = open_clip_set(folder, **SIZE)
    names = [clip.name for clip in distinct_clips(reader, 10)]
    assert sorted(names) == ["clip0.mp4", "clip1.mp4", "clip3.mp4"]
    assert len(left_out(reader)) == 1
    assert "clip2.mp4" in left_out(reader)[0]


def test_a_single_file_and_pictures(tmp_path: Path):
    folder = write_clips(tmp_path / "clips", 1)
    (clip,) = distinct_clips(open_clip_set(folder / "clip0.mp4", **SIZE), 3)
    assert clip.frames.shape == (5, 32, 32, 3)
    pictures = write_pictures(tmp_path / "stills", 2)
    read = list(distinct_clips(open_clip_set(pictures, num_frames=1, height=32, width=32), 5))
    assert [clip.frames.shape for clip in read] == [(1, 32, 32, 3)] * 2


def test_splits_are_those_of_training(tmp_path: Path):
    folder = write_clips(tmp_path / "clips", 6)
    names = {
        split: {clip.name for clip in distinct_clips(open_clip_set(folder, **SIZE, split=split), 10)}
        for split in ("all", "train", "held-out")
    }
    assert len(names["all"]) == 6
    assert names["train"] | names["held-out"] == names["all"]
    assert not names["train"] & names["held-out"]


def test_a_reader_without_files_gives_held_out_clips_of_any_size():
    reader = open_clip_set("moving-shapes", num_frames=4, height=40, width=24, seed=3)
    assert (reader.split, reader.seed) == ("held-out", 3)
    read = list(distinct_clips(reader, 3))
    assert [clip.frames.shape for clip in read] == [(4, 40, 24, 3)] * 3
    assert count_clips(reader, 3) == 3
    assert open_clip_set("moving-shapes", split="train").split == "train"
    weighed = open_clip_set("moving-shapes", options={"shape_weights": {"cross": 3.0}})
    assert weighed.shape_weights == {"cross": 3.0}


def test_bad_input_is_refused(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="nothing at moving-shape, .*moving-shapes"):
        open_clip_set("moving-shape")
    with pytest.raises(InputError, match="strid"):
        open_clip_set(write_clips(tmp_path / "clips", 1), **SIZE, options={"strid": 2})
    with pytest.raises(InputError, match="unknown config key"):
        open_clip_set("moving-shapes", options={"nothing": 2})
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="no pictures or videos"):
        open_clip_set(tmp_path / "empty")
    with pytest.raises(InputError, match="positive"):
        list(distinct_clips(open_clip_set("moving-shapes"), 0))
