"""Shapes of videos in pixels and in latents: the one place for the 8k+1 and multiple-of-32 rules.

A latent frame k > 0 stands for pixel frames 8k-7..8k, the first latent frame for the first pixel frame alone
(causal VAE, paper section 2.1), so F' latent frames are 8 (F' - 1) + 1 pixel frames.
"""

from __future__ import annotations

from typing import NamedTuple

from .errors import InputError


class CompressionRatios(NamedTuple):
    """Pixels (frames, rows, columns) that one latent position stands for."""

    time: int = 8
    height: int = 32
    width: int = 32


class VideoSize(NamedTuple):
    """Size of a video: frames, height and width, in pixels or in latents as the name of the variable says."""

    frames: int
    height: int
    width: int


LTX_RATIOS = CompressionRatios()


def latent_size(video: VideoSize, ratios: CompressionRatios = LTX_RATIOS) -> VideoSize:
    """Size in latents of a video whose size in pixels is valid (see `check_video_size`)."""
    return VideoSize(
        (video.frames - 1) // ratios.time + 1, video.height // ratios.height, video.width // ratios.width
    )


def pixel_size(latent: VideoSize, ratios: CompressionRatios = LTX_RATIOS) -> VideoSize:
    """Size in pixels of the video that latents of this size decode to."""
    return VideoSize(
        (latent.frames - 1) * ratios.time + 1, latent.height * ratios.height, latent.width * ratios.width
    )


def nearest_valid_frames(frames: int, ratio: int = LTX_RATIOS.time) -> tuple[int, ...]:
    """The valid frame counts (ratio * k + 1) around `frames`: one if it is valid, else the next lower and higher."""
    below = max(0, (frames - 1) // ratio) * ratio + 1
    if below == frames:
        return (frames,)
    return (below, below + ratio) if frames > 1 else (1,)


def nearest_valid_side(side: int, ratio: int) -> tuple[int, ...]:
    """The multiples of `ratio` around `side` pixels: one if it is valid, else the next lower and higher."""
    below = side // ratio * ratio
    if below == side and side > 0:
        return (side,)
    return (below, below + ratio) if below > 0 else (ratio,)


def check_video_size(
    frames: int, height: int, width: int, ratios: CompressionRatios = LTX_RATIOS
) -> VideoSize:
    """Validate a size in pixels.

    Returns:
        The size as a `VideoSize`.

    Raises:
        InputError: If a side isn't a positive multiple of the spatial ratio, or the frame count isn't
            a multiple of the temporal ratio plus one. The message names the nearest valid values.
    """
    for name, side, ratio in (("height", height, ratios.height), ("width", width, ratios.width)):
        near = nearest_valid_side(side, ratio)
        if near != (side,):
            raise InputError(
                f"{name} must be a positive multiple of {ratio} pixels",
                got=side,
                fix=f"use {' or '.join(map(str, near))}",
            )
    near = nearest_valid_frames(frames, ratios.time)
    if near != (frames,):
        raise InputError(
            f"the number of frames must be {ratios.time}k+1 (1, {ratios.time + 1}, {2 * ratios.time + 1}, ...)",
            got=frames,
            fix=f"use {' or '.join(map(str, near))}",
        )
    return VideoSize(frames, height, width)
