"""Small sets of real videos and pictures, whole and broken."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from ltx_diffusers.data.video import write_image, write_video


def grey_clip(
    first: int, num_frames: int = 24, height: int = 48, width: int = 64, step: int = 3
) -> np.ndarray:
    """Even grey frames whose value tells which frame they are, uint8 (F, H, W, 3)."""
    values = first + step * np.arange(num_frames)
    return np.broadcast_to(values[:, None, None, None], (num_frames, height, width, 3)).astype(np.uint8)


def blocky_clip(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """Random colours in blocks of 16 pixels, which a codec keeps well, uint8 (F, 32, 64, 3)."""
    colours = rng.integers(0, 255, (num_frames, 2, 4, 3))
    return np.kron(colours, np.ones((1, 16, 16, 1))).astype(np.uint8)


def slanted_clip() -> np.ndarray:
    """Greys that tell both frame and column, uint8 (40, 32, 96, 3)."""
    grey = 4 * np.arange(40)[:, None] + np.arange(96)[None] // 2
    return np.broadcast_to(grey[:, None, :, None], (40, 32, 96, 3)).astype(np.uint8)


def write_clips(folder: Path, count: int = 3, *, captions: bool = True, **size: int) -> Path:
    """Videos `clip0.mp4`, ... at 24 frames a second, clip i beginning with grey 20 + 30 i, each with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        write_video(folder / f"clip{index}.mp4", grey_clip(20 + 30 * index, **size), 24)
        if captions:
            (folder / f"clip{index}.txt").write_text(f"grey number {index}\n")
    return folder


def write_pictures(folder: Path, count: int = 2, height: int = 48, width: int = 64) -> Path:
    """Pictures `still0.png`, ... of grey 200 + i."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        write_image(folder / f"still{index}.png", np.full((height, width, 3), 200 + index, np.uint8))
    return folder


def picture_bytes(value: int = 100, height: int = 48, width: int = 64) -> bytes:
    """A PNG file of even grey."""
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(file, format="PNG")
    return file.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar with members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_dataset(folder: Path, files: list[Path], **columns: list) -> Path:
    """A dataset of Hugging Face's with these videos inside, and captions from the text files beside them."""
    from datasets import Dataset, Features, Value, Video

    captions = [file.with_suffix(".txt").read_text() for file in files]
    content = {
        "clip": [{"path": file.name, "bytes": file.read_bytes()} for file in files],
        "text": captions,
    } | columns
    kinds = {int: Value("int64"), float: Value("float64"), str: Value("string")}
    features = {"clip": Video(decode=False), "text": Value("string")}
    features |= {name: kinds[type(values[0])] for name, values in columns.items()}
    Dataset.from_dict(content, features=Features(features)).save_to_disk(str(folder))
    return folder


def grey_of(frames: np.ndarray) -> list[int]:
    """The value of each frame of a clip in [0, 1], as written by `grey_clip`, to the nearest unit or so."""
    return [round(float(frame.mean()) * 255) for frame in frames]
