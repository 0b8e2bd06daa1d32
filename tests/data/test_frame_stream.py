"""Writing a video that comes piece by piece; the oracle is writing the array."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ltx_diffusers.data.frame_stream import FrameStream
from ltx_diffusers.data.video import FORMATS, read_metadata, read_video, write_video
from ltx_diffusers.errors import InputError

CLIP = np.random.default_rng(0).integers(0, 255, (7, 16, 32, 3), dtype=np.uint8)


def pieces() -> Iterator[np.ndarray]:
    yield from (CLIP[:3], CLIP[3:3], CLIP[3:4], CLIP[4:])


def contents(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


@pytest.mark.parametrize(("format", "ending"), FORMATS.items())
def test_pieces_give_the_file_of_the_whole(tmp_path: Path, format: str, ending: str) -> None:
    whole, streamed = tmp_path / f"whole{ending}", tmp_path / f"streamed{ending}"
    write_video(whole, CLIP, 8, {"seed": 1}, format)
    write_video(streamed, FrameStream(pieces(), *CLIP.shape[:3]), 8, {"seed": 1}, format)
    assert contents(streamed) == contents(whole)
    assert read_metadata(streamed) == {"seed": 1}
    assert len(read_video(streamed)[0]) == 7


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([CLIP[:3]], "number of frames"),
        ([CLIP, CLIP[:1]], "number of frames"),
        ([CLIP[:, :8]], "kind or size"),
        ([CLIP.astype(np.float32)], "kind or size"),
        ([[[0]]], "kind or size"),
    ],
)
def test_what_does_not_fit_leaves_nothing(tmp_path: Path, broken: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_video(tmp_path / "clip.mp4", FrameStream(broken, *CLIP.shape[:3]), 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_what_makes_the_frames_may_fail(tmp_path: Path, error: BaseException) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield CLIP[:3]
        raise error

    with pytest.raises(type(error)):
        write_video(tmp_path / "clip.webm", FrameStream(failing(), *CLIP.shape[:3]), 8)
    assert list(tmp_path.iterdir()) == []


def test_a_stream_says_its_size_and_is_gone_through_lazily() -> None:
    stream = FrameStream(pieces(), *CLIP.shape[:3])
    assert (stream.shape, stream.size, len(stream)) == (CLIP.shape, CLIP.size, 7)
    assert np.array_equal(np.stack(list(stream)), CLIP)
    with pytest.raises(InputError, match="shape"):
        FrameStream([], 0, 16, 32)
