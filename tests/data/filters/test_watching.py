"""Videos watched: scenes, what is kept of them, and parts of files."""

from __future__ import annotations

import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers.scenes import detailed, letterboxed, pan, write_montage

from ltx_diffusers.data.decoding import Window, decode_clip
from ltx_diffusers.data.filters.scene import Scene
from ltx_diffusers.data.filters.watching import Watching, watch
from ltx_diffusers.data.media_entries import MediaEntry, Part
from ltx_diffusers.data.video import write_image, write_video
from ltx_diffusers.errors import InputError, MediaError

LENGTHS = (30, 21, 45)


@pytest.fixture(scope="module")
def montage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shots at 24 frames a second, 128x96."""
    shots = [pan(detailed(seed), length, 0.7) for seed, length in enumerate(LENGTHS)]
    return write_montage(tmp_path_factory.mktemp("montage") / "a.mp4", *shots)


def entry_of(path: Path, **fields: object) -> MediaEntry:
    return MediaEntry(path.name, path.stem, path, **fields)


def scenes_of(path: Path, settings: Watching | None = None, **fields: object) -> list[Scene]:
    return watch(entry_of(path, **fields), settings or Watching())[1]


def test_a_video_is_divided_at_its_cuts(montage: Path) -> None:
    facts, scenes = watch(entry_of(montage, caption="shots"), Watching())
    assert (facts.width, facts.height, facts.num_frames, facts.frame_rate) == (128, 96, 96, 24.0)
    np.testing.assert_allclose([scene.start * 24 for scene in scenes], [0, 30, 51], atol=1e-3)
    np.testing.assert_allclose([scene.end * 24 for scene in scenes], [30, 51, 96], atol=1e-3)
    assert [scene.num_frames for scene in scenes] == list(LENGTHS)
    assert {(scene.width, scene.height, scene.frame_rate, scene.caption) for scene in scenes} == {
        (128, 96, 24.0, "shots")
    }
    for scene in scenes:
        assert scene.thumbnails.dtype == np.uint8 and scene.thumbnails.shape[1:] == (96, 128, 3)
        assert (scene.times >= scene.start).all() and (scene.times < scene.end).all()
        assert len(scene.times) == pytest.approx(8 * scene.seconds, abs=1)
        np.testing.assert_allclose(np.diff(scene.times), 1 / 8, atol=1e-3)
        assert len(scene.stills) == len(scene.still_times) >= 1
        assert all(still.shape == (96, 128) and still.dtype == np.uint8 for still in scene.stills)


def test_a_clip_cut_from_a_scene_shows_nothing_of_the_next(montage: Path) -> None:
    for seed, scene in enumerate(scenes_of(montage)):
        for place in (0.0, 0.37, 1.0):
            window = Window(9, place, start=round(scene.start, 6), end=round(scene.end, 6))
            frames, _ = decode_clip(montage, window)
            # Near the shot's own first view, far from that of any other.
            views = [pan(detailed(other), 1, 0).astype(float) for other in range(3)]
            distances = [np.abs(frames - view).mean(axis=(1, 2, 3)) for view in views]
            assert (np.argmin(distances, axis=0) == seed).all()


def test_without_cuts_and_in_pieces(montage: Path) -> None:
    (whole,) = scenes_of(montage, Watching(cuts="none"))
    assert (whole.start, whole.end, whole.num_frames) == (0, 4.0, 96)
    pieces = scenes_of(montage, Watching(cuts="none", max_seconds=1.5))
    # 1.5 s that must be let go, then the rest evenly.
    assert sum(piece.num_frames for piece in pieces) == 96
    np.testing.assert_allclose([piece.seconds for piece in pieces], 4 / 3, atol=0.2)
    assert pieces[0].start == 0 and pieces[-1].end == pytest.approx(4)
    assert all(a.end == b.start for a, b in pairwise(pieces))
    assert all(len(piece.thumbnails) >= 9 and piece.stills for piece in pieces)


def test_a_long_scene_keeps_few_stills_and_bounded_memory(tmp_path: Path) -> None:
    frames = pan(detailed(0, 32, 200), 200, 0.3, 64)
    path = write_video(tmp_path / "long.mp4", frames, 5)  # 40 s
    (scene,) = scenes_of(path)
    assert scene.num_frames == 200 and 8 <= len(scene.stills) <= 17
    assert np.diff(scene.still_times).max() <= 4.1
    pieces = scenes_of(path, Watching(max_seconds=4))
    assert (
        all(piece.seconds <= 4.001 for piece in pieces) and sum(piece.num_frames for piece in pieces) == 200
    )


def test_a_part_of_a_file_is_all_that_is_watched(montage: Path) -> None:
    part = Part(1.0, 2.0, (10, 20, 60, 40))
    first, second = scenes_of(montage, part=part)
    assert (first.start, first.end) == (1.0, pytest.approx(30 / 24)) and second.end == 2.0
    assert first.num_frames + second.num_frames == 24
    assert (first.width, first.height) == (60, 40) and first.stills[0].shape == (40, 60)
    assert first.thumbnails.shape[1:] == (40, 60, 3)
    with pytest.raises(MediaError, match="stands over"):
        scenes_of(montage, part=Part(crop=(100, 0, 60, 40)))
    with pytest.raises(MediaError, match="no frames"):
        scenes_of(montage, part=Part(9.0))


def test_pictures_and_members_of_tars(tmp_path: Path, montage: Path) -> None:
    picture = detailed(1, 200, 300)
    write_image(tmp_path / "p.png", picture)
    (scene,) = scenes_of(tmp_path / "p.png", caption="a picture")
    assert scene.is_picture and scene.seconds == 0 and (scene.width, scene.height) == (300, 200)
    assert scene.thumbnails.shape == (1, 85, 128, 3) and scene.stills[0].shape == (200, 300)
    np.testing.assert_allclose(scene.thumbnails[0].mean(), picture.mean(), atol=1)
    (part,) = scenes_of(tmp_path / "p.png", part=Part(crop=(0, 0, 150, 100)))
    assert part.stills[0].shape == (100, 150)

    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(montage, "a.mp4")
    with tarfile.open(tmp_path / "x.tar") as tar:
        member = tar.getmember("a.mp4")
    inside = MediaEntry("x.tar/a.mp4", "a", tmp_path / "x.tar", span=(member.offset_data, member.size))
    assert [scene.num_frames for scene in watch(inside, Watching())[1]] == list(LENGTHS)


def test_black_is_black_and_white_is_white_in_stills(tmp_path: Path) -> None:
    frames = letterboxed(np.full((12, 48, 64, 3), 255, np.uint8), 8, 8)
    (scene,) = scenes_of(write_video(tmp_path / "a.mp4", frames, 12))
    assert scene.stills[0].min() <= 2 and scene.stills[0].max() >= 253


def test_rotated_videos_are_seen_upright(tmp_path: Path, montage: Path) -> None:
    import av

    path = tmp_path / "r.mp4"
    with av.open(str(montage)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = bytearray(path.read_bytes())
    # The matrix of the track's header: identity becomes a quarter turn.
    identity = np.array([65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30], ">i4").tobytes()
    turned = np.array([0, 65536, 0, -65536, 0, 0, 96 << 16, 0, 1 << 30], ">i4").tobytes()
    place = content.index(identity, content.index(b"tkhd"))
    content[place : place + len(turned)] = turned
    path.write_bytes(content)
    scene = scenes_of(path)[0]
    assert (scene.width, scene.height) == (96, 128)
    assert scene.stills[0].shape == (128, 96) and scene.thumbnails.shape[1:3] == (128, 96)
    window, _ = decode_clip(path, Window(1))
    np.testing.assert_allclose(scene.stills[0].mean(), window.mean(), atol=12)
    upright = scene.thumbnails[0].astype(float)
    assert np.abs(upright - window[0]).mean() < 4


@pytest.mark.parametrize("damage", ["cut", "text", "gone", "empty"])
def test_what_cannot_be_read_is_an_error_of_that_file(tmp_path: Path, montage: Path, damage: str) -> None:
    path = tmp_path / "bad.mp4"
    whole = montage.read_bytes()
    content = {"cut": whole[: len(whole) // 2], "text": b"no video", "empty": b""}
    if damage != "gone":
        path.write_bytes(content[damage])
    with pytest.raises(MediaError):
        scenes_of(path)
    with pytest.raises(MediaError):
        watch(MediaEntry("x", "x", path, span=(0, 10**6)), Watching())


@pytest.mark.parametrize("settings", [{"cuts": "maybe"}, {"max_seconds": 0.5}, {"cut_threshold": -1.0}])
def test_bad_settings(settings: dict) -> None:
    with pytest.raises(InputError):
        Watching(**settings)
