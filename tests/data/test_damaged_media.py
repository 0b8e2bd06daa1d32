"""Files damaged at random places: reading them fails in the one way that readers expect, or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from helpers.media_sets import grey_clip, picture_bytes, write_clips, write_tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ltx_diffusers.data.cutting import Cut
from ltx_diffusers.data.decoding import MediaFacts, Window, count_frames, decode_clip, probe_video
from ltx_diffusers.data.tars import index_shard
from ltx_diffusers.data.video import write_video
from ltx_diffusers.errors import InputError, MediaError

DAMAGE = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=30)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def damaged(content: bytes, places: list[tuple[float, int]], length: float) -> bytes:
    """Some bytes changed, and the end cut off."""
    changed = bytearray(content)
    for place, value in places:
        changed[int(place * len(changed))] = value
    return bytes(changed[: int(length * len(changed)) + 1])


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A tar of two videos with captions and metadata, one of its videos as mp4 and as webm, and a picture."""
    folder = write_clips(tmp_path_factory.mktemp("clips"), 2, num_frames=12)
    members = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    write_video(folder / "other.webm", grey_clip(20, 12), 24)
    members += [("x.json", b'{"caption": "x"}'), ("x.png", picture_bytes())]
    return {
        "tar": write_tar(folder / "0.tar", members).read_bytes(),
        "mp4": members[0][1],
        "webm": (folder / "other.webm").read_bytes(),
        "png": picture_bytes(),
    }


@QUICK
@given(kind=st.sampled_from(["mp4", "webm", "png"]), places=DAMAGE, length=st.floats(0.01, 1))
def test_a_damaged_file_is_read_or_refused(contents: dict, kind: str, places: list, length: float) -> None:
    file = damaged(contents[kind], places, length)
    try:
        frames, _ = Cut(upscale=True).clip(
            io.BytesIO(file), kind == "png", (1 if kind == "png" else 5, 16, 16), 0.4
        )
    except MediaError:
        return
    assert frames.shape[1:] == (16, 16, 3) and frames.dtype == np.uint8


@QUICK
@given(places=DAMAGE, length=st.floats(0.01, 1))
def test_a_damaged_tar_gives_whole_samples_or_problems(
    contents: dict, tmp_path: Path, places: list, length: float
) -> None:
    shard = tmp_path / "0.tar"
    shard.write_bytes(damaged(contents["tar"], places, length))
    entries, problems = index_shard(shard)
    assert entries or problems
    for entry in entries:
        assert len(entry.open().read()) == entry.span[1] <= shard.stat().st_size


# decoding of whole files: the frames are known


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames at 24 a second whose grey is 20 + 5 i."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_video(path, grey_clip(20, 40, step=5), 24)
    return path


@pytest.mark.parametrize("place", [0.0, 0.31, 1.0])
@pytest.mark.parametrize(
    ("window", "step"),
    [
        ({}, 1),
        ({"stride": 3}, 3),
        ({"frame_rate": 8}, 3),
        ({"frame_rate": 48}, 0.5),
        ({"frame_rate": 24, "stride": 2}, 2),
    ],
)
def test_windows_hold_the_frames_of_their_time(video: Path, place: float, window: dict, step: float) -> None:
    first = place * (39 - 8 * step)
    expected = np.floor(first + step * np.arange(9) + 1e-6)
    if "frame_rate" not in window:
        expected = np.ceil(first - 0.1) + step * np.arange(9)
    read, rate = decode_clip(video, Window(9, place, **window))
    np.testing.assert_allclose((read.mean((1, 2, 3)) - 20) / 5, expected, atol=0.5)
    assert rate == pytest.approx(24 / step)


def test_a_video_is_used_up_to_its_last_frame_and_no_further(video: Path) -> None:
    assert decode_clip(video, Window(40))[0].shape == (40, 48, 64, 3)
    with pytest.raises(MediaError, match="too short"):
        decode_clip(video, Window(41))
    with pytest.raises(MediaError, match="too short"):
        decode_clip(video, Window(15, frame_rate=8))
    assert decode_clip(video, Window(14, 1.0, frame_rate=8))[0].shape[0] == 14


def test_headers_and_frames_are_counted(video: Path, contents: dict) -> None:
    expected = MediaFacts(64, 48, 40, 24.0, pytest.approx(40 / 24, abs=1e-3))
    assert probe_video(video) == count_frames(video) == expected
    # A webm file doesn't say how many frames it has; its duration does.
    assert probe_video(io.BytesIO(contents["webm"])).num_frames == 12
    whole = video.read_bytes()
    with pytest.raises(MediaError, match="fewer frames|damaged|can't be read"):
        count_frames(io.BytesIO(whole[: len(whole) - 300]))


def test_settings_of_a_window_are_checked() -> None:
    for settings_ in ({"num_frames": 0}, {"stride": 0}, {"frame_rate": 0.0}, {"frame_rate": float("nan")}):
        with pytest.raises(InputError):
            Window(**{"num_frames": 1} | settings_)
