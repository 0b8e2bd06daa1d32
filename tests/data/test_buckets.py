"""Which sizes clips get, and where they are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.media_sets import grey_clip, grey_of
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_diffusers.data.buckets import (
    Shown,
    fitting_sizes,
    kept_share,
    nearest_size,
    parse_clip_size,
    places,
)
from ltx_diffusers.data.cutting import Cut
from ltx_diffusers.data.video import write_video
from ltx_diffusers.errors import InputError
from ltx_diffusers.geometry import VideoSize

WIDE, WIDE_LONG, TALL, SQUARE = (
    VideoSize(49, 512, 768),
    VideoSize(97, 384, 576),
    VideoSize(49, 768, 512),
    VideoSize(1, 512, 512),
)
SIZES = (WIDE, WIDE_LONG, TALL, SQUARE)


def size_of(shown: Shown, **cut: object) -> VideoSize:
    return nearest_size(shown, fitting_sizes(shown, SIZES, Cut(**cut)))


@pytest.mark.parametrize(
    ("shown", "size"),
    [
        (Shown(1920, 1080, 10, 24), WIDE_LONG),
        (Shown(1920, 1080, 3, 24), WIDE),  # too short for the long one
        (Shown(1080, 1920, 10, 24), TALL),
        (Shown(1920, 1080), SQUARE),
        (Shown(700, 500, 10, 24), WIDE_LONG),  # too small for the large one
    ],
)
def test_each_clip_gets_the_size_that_shows_most_of_it(shown: Shown, size: VideoSize) -> None:
    assert size_of(shown) == size


def test_what_fits_nothing_says_why() -> None:
    for shown, cut, words in (
        (Shown(1920, 1080, 1.9, 24), {}, "too short"),
        (Shown(1920, 1080, 4, 24), {"frame_rate": 12}, "at least 49 frames at 12"),
        (Shown(500, 300, 10, 24), {}, "too small"),
    ):
        with pytest.raises(InputError, match=words):
            size_of(shown, **cut)
    assert size_of(Shown(500, 300, 10, 24), upscale=True) == WIDE_LONG
    with pytest.raises(InputError, match="for pictures"):
        fitting_sizes(Shown(999, 999), (WIDE,), Cut())
    assert fitting_sizes(Shown(999, 999, 1, 24), (SQUARE,), Cut()) == [
        SQUARE
    ]  # frames of videos, as asked for


@given(st.integers(32, 4000), st.integers(32, 4000))
@settings(max_examples=30, deadline=None)
def test_the_kept_share_is_that_of_the_pixels_seen(width: int, height: int) -> None:
    size = VideoSize(9, 512, 768)
    scale = max(size.height / height, size.width / width)
    seen = (size.width / scale) * (size.height / scale)
    assert kept_share(width, height, size) == pytest.approx(seen / (width * height))


def test_clips_lie_evenly_and_do_not_overlap(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", grey_clip(10, 40, step=5), 24)
    shown, size = Shown(64, 48, 40 / 24, 24.0), VideoSize(9, 32, 32)
    starts = {}
    for count in (1, 3, None):
        starts[count] = []
        for place in places(shown, size, Cut(), count):
            frames, _ = Cut().clip(video, False, size, place)
            starts[count].append(round((grey_of(frames[:1].astype(np.float32) / 255)[0] - 10) / 5))
    assert starts == {1: [16], 3: [0, 16, 31], None: [0, 11, 21, 31]}
    assert places(Shown(64, 48), size, Cut(), None) == [0.5]
    assert len(places(shown, size, Cut(frame_rate=12), None)) == 2


def test_sizes_are_read_and_checked() -> None:
    assert parse_clip_size("768x512x49") == WIDE and parse_clip_size(" 512X512 ") == SQUARE
    for text, words in (("768", "WIDTHxHEIGHT"), ("770x512x49", "768 or 800"), ("768x512x50", "49 or 57")):
        with pytest.raises(InputError, match=words):
            parse_clip_size(text)
