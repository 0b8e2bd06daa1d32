"""Video and image files in and out, as uint8 arrays (F, H, W, 3) with red, green, blue in [0, 255].

FFmpeg (through PyAV) reads every container it knows. Four kinds are written: mp4 (H.264), webm (VP9), gif,
and a folder of PNG frames. A file is written under a temporary name in the same folder and renamed when it is
whole, so a failure leaves nothing behind. A JSON dictionary can be stored inside what is written
(`read_metadata`). No torch is imported here: the command line checks its input with this module before it
loads anything heavy.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import shutil
import uuid
from collections import deque
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import InputError, MediaError
from .encoders import PNG_METADATA_KEY, PNG_RATE_KEY, WRITERS
from .frame_stream import FrameStream

FORMATS = {"mp4": ".mp4", "webm": ".webm", "gif": ".gif", "frames": ""}
"""What `write_video` writes, with the ending of its file name; "frames" is a folder of PNG files."""


def video_format(path: str | os.PathLike, format: str | None = None) -> str:
    """The format to write `path` in: `format` itself, or what the file name's ending says (none: "frames").

    Raises:
        InputError: If the format is unknown, or contradicts the ending of the file name.
    """
    suffix = Path(path).suffix.lower()
    by_suffix = next((name for name, ending in FORMATS.items() if ending == suffix), None)
    if format is None:
        if by_suffix is None:
            raise InputError(f"no video format ends in {suffix!r}", got=path, expected=", ".join(_endings()))
        return by_suffix
    if format not in FORMATS:
        near = difflib.get_close_matches(str(format).lower(), FORMATS, n=1)
        expected = repr(near[0]) if near else f"one of {', '.join(FORMATS)}"
        raise InputError(f"unknown video format {format!r}", expected=expected)
    if format != "frames" and by_suffix != format:
        raise InputError(
            f"the format is {format} but the file name is {path}", fix=f"end it in {FORMATS[format]}"
        )
    if format == "frames" and by_suffix not in ("frames", None):
        raise InputError(f"the format is frames (a folder) but the name ends in {suffix}", got=path)
    return format


def check_writable(path: str | os.PathLike, format: str | None = None) -> str:
    """Check before any work that `write_video` can write `path`, without writing anything.

    Returns:
        The format, see `video_format`.

    Raises:
        InputError: As in `video_format`.
        MediaError: If the folder is missing or read-only, `path` is a folder where a file is to be written,
            or a folder of frames is to replace something that isn't an empty folder.
    """
    format = video_format(path, format)
    path = Path(path)
    _check_folder_of(path)
    if format == "frames" and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise MediaError(f"{path} exists already", expected="a new or empty folder for the frames")
    if format != "frames" and path.is_dir():
        raise MediaError(f"{path} is a folder", expected=f"the name of a {format} file")
    return format


def check_image_writable(path: str | os.PathLike) -> None:
    """Check before any work that `write_image` can write `path`, without writing anything.

    Raises:
        InputError: If the name doesn't end in .png.
        MediaError: If the folder is missing or read-only, or `path` is a folder.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError("pictures are written as PNG", got=path, expected="a name that ends in .png")
    _check_folder_of(path)
    if path.is_dir():
        raise MediaError(f"{path} is a folder", expected="the name of a png file")


def write_image(path: str | os.PathLike, picture: np.ndarray) -> Path:
    """Write a picture, uint8 (H, W, 3), as PNG, whole or not at all; an existing file is replaced.

    Returns:
        The path written.

    Raises:
        InputError: If the picture is unusable, or the name doesn't end in .png.
        MediaError: If the place can't be written.
    """
    from PIL import Image

    check_image_writable(path)
    picture = _checked_frames(picture[None])[0]
    path, temporary = Path(path), _temporary(path)
    try:
        Image.fromarray(np.ascontiguousarray(picture)).save(temporary, format="PNG")
        temporary.replace(path)
    except OSError as error:
        raise MediaError(f"{path} could not be written", got=_reason(error)) from error
    finally:
        _remove(temporary)
    return path


def write_video(
    path: str | os.PathLike,
    frames: np.ndarray | FrameStream,
    fps: float,
    metadata: dict[str, Any] | None = None,
    format: str | None = None,
) -> Path:
    """Write a video whole or not at all; an existing file is replaced.

    mp4 is H.264 in yuv420p at constant quality with the index in front (plays everywhere, needs even sizes),
    webm is VP9; both are tagged BT.709. A gif has one palette for all frames and delays in hundredths of a
    second whose sum follows the frame rate. "frames" is a folder of PNG files (`frame_00000.png`, ...): the
    only lossless one.

    Args:
        path: Where to; the ending gives the format.
        frames: uint8 (F, H, W, 3), or a `FrameStream` of such, which is written while it comes.
        fps: Frames per second.
        metadata: Stored in the file as JSON.
        format: "mp4", "webm", "gif" or "frames"; by default what the ending says.

    Returns:
        The path written.

    Raises:
        InputError: If the frames or the rate are unusable, or sizes are odd for mp4.
        MediaError: If the place can't be written, or the encoder fails.
    """
    from av.error import FFmpegError

    format = check_writable(path, format)
    frames = _checked_frames(frames)
    rate = _checked_rate(fps)
    if format == "mp4" and (frames.shape[1] % 2 or frames.shape[2] % 2):
        raise InputError(
            "H.264 (mp4) needs an even width and height",
            got=f"{frames.shape[2]}x{frames.shape[1]}",
            fix="crop by one pixel, or write webm, gif or frames",
        )
    try:
        comment = json.dumps(metadata, ensure_ascii=False) if metadata is not None else None
    except (TypeError, ValueError) as error:
        raise InputError("the metadata can't be stored as JSON", got=error) from error
    path, temporary = Path(path), _temporary(path)
    try:
        WRITERS[format](temporary, frames, rate, comment)
        if path.is_dir():
            path.rmdir()  # empty, as checked; a folder can't be renamed over another everywhere
        temporary.replace(path)
    except (OSError, FFmpegError) as error:
        raise MediaError(f"{path} could not be written", got=_reason(error)) from error
    finally:
        _remove(temporary)
    return path


def read_video(
    path: str | os.PathLike, max_frames: int | None = None, last_frames: int | None = None
) -> tuple[np.ndarray, float]:
    """Read the first video stream of a file, or a folder of PNG frames that `write_video` made.

    A rotation stored by the camera is applied; pixels that aren't square are not corrected; transparency is
    ignored.

    Args:
        path: The file or folder.
        max_frames: Stop after so many frames.
        last_frames: Of these, keep only so many, the last ones; the others take no memory.

    Returns:
        The frames, uint8 (F, H, W, 3), and the frames per second (the average if the rate varies).

    Raises:
        MediaError: If the file is missing, damaged, or has no video frames.
        InputError: If `max_frames` or `last_frames` isn't positive.
    """
    for name, count in (("max_frames", max_frames), ("last_frames", last_frames)):
        if count is not None and count < 1:
            raise InputError(f"{name} must be positive", got=count)
    path = _existing(path, "video")
    read = _read_folder if path.is_dir() else _read_file
    return read(path, max_frames, last_frames)


def read_image(path: str | os.PathLike | IO[bytes]) -> np.ndarray:
    """Read a picture, a file or its bytes, as uint8 (H, W, 3).

    The camera's orientation (EXIF) is applied, transparent pixels are laid on black, 16-bit grey is scaled to
    8 bits, and of an animation the first frame is taken.

    Raises:
        MediaError: If the file is missing or isn't a readable picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(path, str | os.PathLike):
        path = _existing(path, "image")
        named = f"the image {path}"
    else:
        named = "the image"
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I;16"):
                grey = (np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
                picture = Image.alpha_composite(black, picture)
            return np.array(picture.convert("RGB"))
    except UnidentifiedImageError as error:
        raise MediaError(f"{named} can't be read", got="no known picture format") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise MediaError(f"{named} can't be read", got=_reason(error)) from error


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """The dictionary that `write_video` stored in a file or a folder of frames; empty if there is none.

    Raises:
        MediaError: If the file is missing or unreadable.
    """
    path = _existing(path, "video")
    try:
        comment = _read_comment(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"{path} can't be read", got=_reason(error)) from error
    try:
        metadata = json.loads(comment or "{}")
    except ValueError:  # somebody else's comment
        return {}
    return metadata if isinstance(metadata, dict) else {}


# --- checks ---


def _endings() -> list[str]:
    return [ending or "none (a folder of frames)" for ending in FORMATS.values()]


def _check_folder_of(path: Path) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise MediaError(f"the output folder {folder} doesn't exist", fix="create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(f"the output folder {folder} isn't writable")


def _temporary(path: str | os.PathLike) -> Path:
    """A new name in the same folder, so that the rename can't cross file systems."""
    path = Path(path)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


def _existing(path: str | os.PathLike, kind: str) -> Path:
    path = Path(path)
    if not path.exists():
        near = []
        if path.parent.is_dir():
            near = difflib.get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1)
        raise MediaError(
            f"no such {kind}: {path}", fix=f"did you mean {path.with_name(near[0])}?" if near else None
        )
    if path.is_dir() and kind == "image":
        raise MediaError(f"{path} is a folder", expected="an image file")
    return path


def _checked_frames(frames: np.ndarray | FrameStream) -> np.ndarray | FrameStream:
    if isinstance(frames, FrameStream):
        return frames
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        raise InputError(
            "frames must be a uint8 array", got=getattr(frames, "dtype", None) or type(frames).__name__
        )
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise InputError(
            "frames have the wrong shape", got=frames.shape, expected="(F, H, W, 3), none of them 0"
        )
    return frames


def _checked_rate(fps: float) -> Fraction:
    if isinstance(fps, bool) or not math.isfinite(fps) or not 0.1 <= fps <= 1000:
        raise InputError("the frame rate must lie in 0.1..1000 frames per second", got=fps)
    return Fraction(fps).limit_denominator(1001)


def _reason(error: BaseException) -> str:
    """One line that says why, without FFmpeg's error number and the path again."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- reading ---


def _read_file(path: Path, max_frames: int | None, last_frames: int | None) -> tuple[np.ndarray, float]:
    import av

    frames: deque[np.ndarray] = deque(maxlen=last_frames)
    times: list[float] = []
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise MediaError(f"{path} has no video stream")
            stream = container.streams.video[0]
            for frame in container.decode(stream):
                picture = frame.to_ndarray(format="rgb24", threads=1)
                # FFmpeg counts counter-clockwise, as np.rot90 does.
                frames.append(np.rot90(picture, round(frame.rotation / 90)) if frame.rotation else picture)
                times.append(frame.time if frame.time is not None else math.nan)
                if len(times) == max_frames:
                    break
            rate = stream.average_rate or stream.guessed_rate
            is_gif = container.format.name == "gif"
    except (OSError, av.FFmpegError) as error:
        raise MediaError(f"the video {path} can't be read", got=_reason(error)) from error
    if not frames:
        raise MediaError(f"{path} has no video frames")
    if len({frame.shape for frame in frames}) > 1:
        raise MediaError(f"the frame size of {path} changes", expected="one size")
    span = times[-1] - times[0]
    # FFmpeg derives a gif's rate from its first delay alone, which is rounded to hundredths of a second.
    if span > 0 and (is_gif or not rate):
        fps = (len(times) - 1) / span
    elif rate:
        fps = float(rate)
    else:
        raise MediaError(f"{path} has no frame rate")
    return np.stack(frames), fps


def _folder_files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.png"))
    if not files:
        raise MediaError(f"the folder {path} has no PNG frames")
    return files


def _read_folder(path: Path, max_frames: int | None, last_frames: int | None) -> tuple[np.ndarray, float]:
    files = _folder_files(path)
    rate = _png_text(files[0]).get(PNG_RATE_KEY)
    if rate is None:
        raise MediaError(
            f"the frames in {path} don't say their frame rate", expected="a folder written as frames"
        )
    files = files[:max_frames]
    frames = [read_image(file) for file in files[-(last_frames or len(files)) :]]
    if len({frame.shape for frame in frames}) > 1:
        raise MediaError(f"the frames in {path} differ in size")
    return np.stack(frames), float(Fraction(rate))


def _png_text(path: Path) -> dict[str, str]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return dict(getattr(picture, "text", {}))
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(f"the image {path} can't be read", got=_reason(error)) from error


def _read_comment(path: Path) -> str | None:
    if path.is_dir():
        return _png_text(_folder_files(path)[0]).get(PNG_METADATA_KEY)
    with path.open("rb") as file:
        start = file.read(6)
    if start in (b"GIF87a", b"GIF89a"):
        from PIL import Image

        with Image.open(path) as picture:
            comment = picture.info.get("comment", b"")
        return comment.decode("utf-8", errors="replace") if isinstance(comment, bytes) else comment
    import av

    with av.open(str(path), metadata_errors="replace") as container:
        # Matroska upper-cases its tags.
        return next((text for key, text in container.metadata.items() if key.lower() == "comment"), None)
