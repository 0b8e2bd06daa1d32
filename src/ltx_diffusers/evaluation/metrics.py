"""Measures that compare a video with a reference: PSNR and SSIM (higher is better), and flicker (lower is better).

A measure is `measure(reference, other) -> float | ndarray (F,)` on two videos (F, H, W, 3) of one shape: one number
for the video or one per frame. Plugins add theirs to `measures` in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Union

import numpy as np

from ..errors import InputError, RegistrationError
from ..registry import Registry

if TYPE_CHECKING:
    import torch

Video = Union[np.ndarray, "torch.Tensor"]
Measure = Callable[[Video, Video], float | np.ndarray]

_SSIM_SIGMA = 1.5  # pixels; with the radius below the 11x11 window of the paper
_SSIM_RADIUS = 5


def _check_measure(name: str, entry: Measure) -> None:
    if not callable(entry):
        raise RegistrationError(
            f"the measure {name!r} can't be called",
            got=type(entry).__name__,
            expected="measure(reference, other) -> float or array (F,)",
        )


measures: Registry[Measure] = Registry("measure", _check_measure)


@measures.register("psnr")
def psnr(reference: Video, other: Video) -> np.ndarray:
    """Peak signal-to-noise ratio of each frame in dB: 10 log10(1 / mean squared error) over pixels and channels.

    Args:
        reference: (F, H, W, 3), or one frame (H, W, 3); uint8, or floats in [0, 1]; numpy or torch.
        other: The same shape; its type may differ.

    Returns:
        (F,) float64; infinite where frames are equal. The video's figure is the mean.

    Raises:
        InputError: If the shapes differ, or aren't those of a video or an image.
    """
    reference, other = _pair(reference, other)
    error = np.mean((reference - other) ** 2, axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return -10 * np.log10(error)


@measures.register("ssim")
def ssim(reference: Video, other: Video) -> np.ndarray:
    """Structural similarity of each frame, at most 1.

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", with the paper's
    Gaussian window (11x11, sigma 1.5), K1 = 0.01 and K2 = 0.03, on each colour channel, averaged over the
    channels and over the pixels whose window lies inside the frame.

    Args:
        reference: (F, H, W, 3), or one frame (H, W, 3), at least 11x11; uint8, or floats in [0, 1]; numpy or torch.
        other: The same shape; its type may differ.

    Returns:
        (F,) float64. The video's figure is the mean.

    Raises:
        InputError: If the shapes differ, aren't those of a video or an image, or a side is smaller than the window.
    """
    reference, other = _pair(reference, other)
    window = 2 * _SSIM_RADIUS + 1
    if min(reference.shape[1:3]) < window:
        raise InputError(
            "frames are too small for SSIM",
            got=reference.shape[1:3],
            expected=f"at least {window}x{window} pixels",
        )
    return np.array([_frame_ssim(a, b) for a, b in zip(reference, other, strict=True)])


def flicker_of_steps(reference: Video, other: Video) -> np.ndarray:
    """How much each step from one frame to the next changes otherwise than in the reference.

    The mean over pixels and channels of |(y_t+1 - y_t) - (x_t+1 - x_t)|, in grey levels of 255. An error that stays
    the same over time doesn't count, one that comes and goes does.

    Args:
        reference: (F, H, W, 3); uint8, or floats in [0, 1]; numpy or torch.
        other: The same shape; its type may differ.

    Returns:
        (F - 1,) float64.

    Raises:
        InputError: If the shapes differ, or aren't those of a video or an image.
    """
    reference, other = _pair(reference, other)
    return 255 * np.abs(np.diff(other - reference, axis=0)).mean(axis=(1, 2, 3))


@measures.register("flicker")
def flicker(reference: Video, other: Video) -> float:
    """Temporal flicker of a video in grey levels of 255: the mean of `flicker_of_steps`; 0 for a single frame.

    Raises:
        InputError: As in `flicker_of_steps`.
    """
    steps = flicker_of_steps(reference, other)
    return float(steps.mean()) if len(steps) else 0.0


def _pair(reference: Video, other: Video) -> tuple[np.ndarray, np.ndarray]:
    reference, other = _as_unit_floats(reference), _as_unit_floats(other)
    if reference.shape != other.shape:
        raise InputError("videos to compare differ in shape", got=other.shape, expected=reference.shape)
    return reference, other


def _as_unit_floats(video: Video) -> np.ndarray:
    """A video as float64 (F, H, W, 3) in [0, 1]."""
    if hasattr(video, "detach"):
        video = video.detach().cpu()
        # numpy has no bfloat16.
        video = (video.float() if video.is_floating_point() else video).numpy()
    video = np.asarray(video)
    if video.ndim == 3:
        video = video[None]
    if video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise InputError("a video to compare has the wrong shape", got=video.shape, expected="(F, H, W, 3)")
    return video.astype(np.float64) / (255 if video.dtype == np.uint8 else 1)


def _frame_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of two frames (H, W, 3), equation 13 of the paper."""
    mean_a, mean_b = _windowed(a), _windowed(b)
    variance_a = _windowed(a * a) - mean_a**2
    variance_b = _windowed(b * b) - mean_b**2
    covariance = _windowed(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return float(np.mean(luminance * structure))


def _windowed(frame: np.ndarray) -> np.ndarray:
    """Gaussian-weighted mean around each pixel (H, W, 3) whose window lies inside: (H - 10, W - 10, 3)."""
    offsets = np.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / _SSIM_SIGMA) ** 2)
    weights /= weights.sum()
    height, width = frame.shape[0] - 2 * _SSIM_RADIUS, frame.shape[1] - 2 * _SSIM_RADIUS
    rows = sum(weight * frame[shift : shift + height] for shift, weight in enumerate(weights))
    return sum(weight * rows[:, shift : shift + width] for shift, weight in enumerate(weights))
