"""Clips with references and masks: outlines of moving-shapes, and the columns of a list."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.media_sets import slanted_clip

from ltx_diffusers.data.checking import check_set
from ltx_diffusers.data.list_clips import ListClips, read_list
from ltx_diffusers.data.moving_shapes import COLORS, SHAPES, render, render_outline, sample_spec
from ltx_diffusers.data.shape_clips import ShapeClips
from ltx_diffusers.data.video import write_image, write_video
from ltx_diffusers.errors import InputError


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_runs_where_the_shape_ends(shape: str) -> None:
    rng = np.random.default_rng(3)
    spec = replace(sample_spec(rng), shape=shape, motion="grow", background="black", color="yellow")
    size = (5, 128, 128)
    line = render_outline(spec, *size)
    assert line.shape == (*size, 3) and line.dtype == np.float32
    assert np.ptp(line, axis=3).max() == 0 and line.max() == 1 and (line == 0).mean() > 0.8
    cover = render(spec, *size)[..., 0] / COLORS["yellow"][0]
    inside, outside = cover > 0.99, cover < 0.03
    assert (line[..., 0][outside].mean() < 0.02) and (line[..., 0][inside].mean() < 0.5)
    # The line's middle is where the shape covers half, and nothing of it lies far from there (corners stick out).
    on_edge = (cover > 0.35) & (cover < 0.65)
    assert line[..., 0][on_edge].min() > 0.9
    drawn = line[..., 0] > 0
    near = np.zeros_like(drawn)
    for down in range(-5, 6):
        for right in range(-5, 6):
            near |= np.roll(on_edge, (down, right), (1, 2))
    assert not (drawn & ~near).any()
    per_frame = drawn.sum(axis=(1, 2))
    assert (np.diff(per_frame) > 0).all()  # it grows


def test_shape_clips_have_the_outline_that_was_asked_for() -> None:
    plain, given = ShapeClips(9, 32, 64), ShapeClips(9, 32, 64, reference="outline")
    assert plain[3].references == () and repr(plain) != repr(given)
    np.testing.assert_array_equal(plain[3].frames, given[3].frames)
    (outline,) = given[3].references
    np.testing.assert_array_equal(outline, render_outline(given[3].spec, 9, 32, 64))
    assert given.with_size(1)[3].references[0].shape == (1, 32, 64, 3)
    with pytest.raises(InputError, match=r"no such reference.*'edges'.*outline"):
        ShapeClips(reference="edges")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose gray tells frame and column, negatives of it, and masks: half of a picture, half of the time."""
    root = tmp_path_factory.mktemp("media")
    video = slanted_clip()
    write_video(root / "clip.mp4", video, 24)
    write_video(root / "negative.mp4", 255 - video, 24)
    write_video(root / "slow.mp4", 255 - video[::2], 12)
    write_video(root / "small.mp4", 255 - video[:, ::2, ::2], 24)
    write_video(root / "short.mp4", 255 - video[:12], 24)
    write_image(root / "picture.png", video[5])
    half = np.where(np.arange(96)[:, None] < 48, 255, 0)
    write_image(root / "mask.png", np.broadcast_to(half, (32, 96, 3)).astype(np.uint8))
    bright = np.where(np.arange(40)[:, None, None, None] < 20, 255, 0)
    write_video(root / "times.mp4", np.broadcast_to(bright, video.shape).astype(np.uint8), 24)
    return root


def reader_of(media: Path, *rows: dict, **settings: object) -> ListClips:
    path = media / "list.json"
    path.write_text(json.dumps([{"path": "clip.mp4", "split": "train"} | row for row in rows]))
    return ListClips(**{"num_frames": 9, "height": 32, "width": 32} | settings, path=path)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("negative.mp4", {}),
        ("negative.mp4", {"stride": 2}),
        ("negative.mp4", {"frame_rate": 12.0}),
        ("negative.mp4", {"resize": "none"}),
        ("negative.mp4", {"num_frames": 1}),
        ("slow.mp4", {"stride": 2}),
        ("slow.mp4", {}),
        ("small.mp4", {}),
    ],
)
def test_references_are_read_at_the_moments_and_place_of_their_clip(
    media: Path, file: str, settings: dict
) -> None:
    reader = reader_of(media, {"reference": file}, **settings)
    starts = set()
    for number in range(6):
        clip = reader[number]
        (negative,) = clip.references
        assert negative.shape == clip.frames.shape and negative.dtype == np.float32
        # One frame is 4 of 255, of a slower video two are alike; so it is the same frame, and the same column.
        slack = (8 if file == "slow.mp4" else 3) / 255
        assert np.abs(1 - negative - clip.frames).mean() < slack
        starts.add(round(float(clip.frames[0].mean()), 2))
    assert len(starts) > 3 and not reader.skipped


def test_a_picture_goes_with_all_moments_and_a_part_is_the_same_part(media: Path) -> None:
    part = {"start": 0.5, "end": 1.25, "crop": [32, 0, 64, 32]}
    reader = reader_of(media, {"references": ["picture.png", "negative.mp4"], **part}, width=64)
    clip = reader[0]
    picture, negative = clip.references
    assert picture.shape == (1, 32, 64, 3) and negative.shape == clip.frames.shape
    assert np.abs(1 - negative - clip.frames).mean() < 3 / 255
    assert abs(picture[0, :, 0].mean() - (20 + 16) / 255) < 3 / 255
    assert clip.frames[0, :, 0].mean() * 255 > 4 * 12 + 16 - 4


def test_masks_say_what_is_made_anew(media: Path) -> None:
    still, moving = (reader_of(media, {"mask": file}, width=96)[3] for file in ("mask.png", "times.mp4"))
    assert still.mask.shape == (9, 32, 96) and still.mask.dtype == bool
    assert still.mask[..., :44].all() and not still.mask[..., 52:].any()
    first = (moving.frames[:, 0, 0, 0] * 255 / 4).round()
    np.testing.assert_array_equal(moving.mask.all(axis=(1, 2)), first < 20)
    assert reader_of(media, {})[0].mask is None and reader_of(media, {})[0].references == ()


def test_what_does_not_go_with_its_clip_is_left_out_and_named(media: Path) -> None:
    (media / "broken.mp4").write_bytes(b"no video")
    wrong = {
        "missing.mp4": "missing.mp4, can't be used",
        "broken.mp4": "broken.mp4, can't be used",
        "short.mp4": "short.mp4, ends before the clip does",
    }
    rows = [{"reference": file, "caption": file} for file in wrong]
    rows += [{"mask": "none.png"}, {"path": "picture.png", "reference": "negative.mp4"}, {"caption": "fine"}]
    reader = reader_of(media, *rows)
    assert {reader[number].caption for number in range(10)} <= {"fine", "short.mp4"}  # short: early clips fit
    reasons = " ".join(problem.reason for problem in reader.skipped)
    for words in (*wrong.values(), "none.png, can't be used"):
        assert words in reasons
    small = reader_of(media, {"reference": "small.mp4"}, {"caption": "fine"}, resize="none")
    assert {small[number].caption for number in range(4)} == {"fine"}
    assert "small.mp4, has another size" in small.skipped[0].reason
    picture = reader_of(media, {"path": "picture.png", "reference": "negative.mp4"}, {}, num_frames=1)
    assert {picture[number].name for number in range(4)} == {"clip.mp4"}
    assert "is a video, and it is a picture" in picture.skipped[0].reason


def test_other_references_are_another_set_and_a_check_finds_broken_ones(media: Path) -> None:
    assert repr(reader_of(media, {"reference": "slow.mp4"})) != repr(
        reader_of(media, {"reference": "small.mp4"})
    )
    reader_of(
        media, {"reference": "negative.mp4"}, {"mask": "none.png"}, {"reference": ["mask.png", "missing.mp4"]}
    )
    report = check_set(*read_list(media / "list.json"), quick=True)
    assert report.videos == 1 and len(report.broken) == 2
    assert "none.png, can't be used" in report.broken[0].reason
    assert "missing.mp4, can't be used" in report.broken[1].reason
