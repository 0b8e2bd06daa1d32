"""Pictures with detail, videos of cameras that pan over them, and scenes as filters see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ltx_diffusers.data.filters.scene import Scene
from ltx_diffusers.data.video import write_video


def detailed(seed: int, height: int = 96, width: int = 400, cell: int = 6) -> np.ndarray:
    """A colourful picture without large even parts, uint8 (H, W, 3): random colours every so many pixels, smoothed."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3)).astype(float)
    # Each world has its own tint, as scenes have.
    colours = colours * 0.6 + rng.integers(0, 256, 3) * 0.4
    small = Image.fromarray(colours.astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def pan(world: np.ndarray, num_frames: int, speed: float, width: int = 128, start: float = 0.0) -> np.ndarray:
    """A view of a world that moves by `speed` pixels a frame, uint8 (F, H, width, 3)."""
    frames = []
    for number in range(num_frames):
        place = start + speed * number
        left, rest = int(place), place - int(place)
        near, far = world[:, left : left + width], world[:, left + 1 : left + 1 + width]
        frames.append(np.rint((1 - rest) * near + rest * far))
    return np.stack(frames).astype(np.uint8)


def scene_of(frames: np.ndarray, frame_rate: float = 8.0, **fields: object) -> Scene:
    """Frames as a scene whose thumbnails they are, and the first and the last its stills."""
    times = np.arange(len(frames)) / frame_rate
    stills = tuple(frames[number].mean(axis=-1).round().astype(np.uint8) for number in (0, -1))
    settings = {
        "end": len(frames) / frame_rate,
        "num_frames": len(frames),
        "frame_rate": frame_rate,
        "height": frames.shape[1],
        "width": frames.shape[2],
        "times": times,
        "thumbnails": frames,
        "stills": stills,
        "still_times": (0.0, float(times[-1])),
    }
    return Scene(**settings | fields)


def letterboxed(
    frames: np.ndarray, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0
) -> np.ndarray:
    """Frames with black bars around them."""
    return np.pad(frames, ((0, 0), (top, bottom), (left, right), (0, 0)))


def write_montage(path: Path, *shots: np.ndarray, frame_rate: float = 24) -> Path:
    """A video of shots one after the other."""
    return write_video(path, np.concatenate(shots), frame_rate)
