"""Pictures and clips brought to a video's size and look, in memory: fitted, softened, compressed.

A first frame that is cleaner than any frame of a real video easily gives a video that stands still. The official
pipeline therefore blurs its conditions slightly and sends them through H.264 (`ltx_video/inference.py`,
`pipelines/crf_compressor.py`): here `blur=1.0, crf=29`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

import numpy as np
from diffusers.utils import logging
from PIL import Image

from ..errors import InputError, MediaError
from .images import as_pil, split_images

FITS = ("crop", "pad", "stretch")
"""Ways to bring a picture to another shape: cut what is too much, add black bars, or distort it."""

LARGEST_CRF = 51


def prepare_image(
    picture: Any,
    height: int,
    width: int,
    *,
    fit: str = "crop",
    blur: float = 0.0,
    crf: int | None = None,
) -> np.ndarray:
    """A picture in a video's size, if wanted softened and compressed, in this order.

    Args:
        picture: A PIL image, an array (H, W, 3) or a tensor (3, H, W); numbers are uint8, or floats in [0, 1].
        height: Rows of the result.
        width: Columns of the result.
        fit: One of `FITS`. "crop" keeps the middle, "pad" puts the picture in the middle of black. Pictures are
            resized by antialiased bicubic filtering.
        blur: Deviation in pixels of a Gaussian that is cut off `ceil(blur)` pixels from its middle, as in the
            official pipeline, whose blur is 1.0. 0 for none.
        crf: Send the picture through H.264 at this constant rate factor, 1 (best) to 51 (worst): 29 in the official
            pipeline, 33 in that of LTX-2, 35 in ComfyUI's nodes. None or 0 for none.

    Returns:
        uint8 (height, width, 3).

    Raises:
        InputError: If the picture or a setting can't be used.
    """
    check_preparation(fit, blur, crf)
    _check_side(height=height, width=width)
    pictures = split_images(picture)
    if len(pictures) != 1:
        raise InputError("one picture is wanted", got=f"{len(pictures)} pictures", fix="use prepare_clip")
    return _prepared(pictures[0], height, width, fit, blur, crf)


def prepare_clip(
    frames: Any,
    height: int,
    width: int,
    num_frames: int | None = None,
    frame_rate: float | None = None,
    source_rate: float | None = None,
    *,
    fit: str = "crop",
    blur: float = 0.0,
    crf: int | None = None,
) -> np.ndarray:
    """A clip in a video's size, length and frame rate; each of its pictures as by `prepare_image`.

    Args:
        frames: Pictures, or an array (F, H, W, 3).
        height: Rows of the result.
        width: Columns of the result.
        num_frames: Take so many frames from the start; all if None. A condition needs 8k + 1.
        frame_rate: Frames per second of the result: at each of its times the nearest picture is taken, so motion
            keeps its speed. The clip's own rate if None.
        source_rate: Frames per second of the clip; needed with `frame_rate`.
        fit: See `prepare_image`, as `blur` and `crf`. H.264 takes each picture alone, as in the official
            pipeline.
        blur: In pixels.
        crf: 1 to 51.

    Returns:
        uint8 (F, height, width, 3).

    Raises:
        InputError: If the clip or a setting can't be used, or is shorter than `num_frames`.
    """
    check_preparation(fit, blur, crf)
    _check_side(height=height, width=width)
    pictures = split_images(frames)
    indices = frames_at_rate(len(pictures), frame_rate, source_rate)
    if num_frames is not None:
        _check_side(num_frames=num_frames)
        if num_frames > len(indices):
            raise InputError(
                "the clip is too short",
                got=f"{len(indices)} frames" + (f" at {frame_rate:g} per second" if frame_rate else ""),
                expected=f"at least {num_frames}",
            )
        indices = indices[:num_frames]
    shown = logging.tqdm(indices, desc="Preparing the clip", delay=1, leave=False)
    return np.stack([_prepared(pictures[index], height, width, fit, blur, crf) for index in shown])


def frames_at_rate(count: int, frame_rate: float | None, source_rate: float | None) -> Sequence[int]:
    """Indices of a clip's pictures that are shown at a frame rate: at each of its times the nearest one.

    Args:
        count: Pictures of the clip.
        frame_rate: Frames per second wanted; the clip's own if None.
        source_rate: Frames per second of the clip; needed with `frame_rate`.

    Raises:
        InputError: If a rate isn't a positive number.
    """
    if frame_rate is None:
        return range(count)
    for name, rate in (("frame_rate", frame_rate), ("source_rate", source_rate)):
        if not isinstance(rate, Real) or isinstance(rate, bool) or not 0 < rate < math.inf:
            raise InputError(f"{name} must be a positive number", got=rate)
    if frame_rate == source_rate:
        return range(count)
    # As many frames as end no later than the clip's last one.
    frames = math.floor((count - 1) * frame_rate / source_rate + 1e-6) + 1
    return [min(count - 1, math.floor(index * source_rate / frame_rate + 0.5)) for index in range(frames)]


def check_preparation(fit: str | None, blur: float, crf: int | None) -> None:
    """Check the settings of `prepare_image`; `fit` may be None, for a picture that keeps its size.

    Raises:
        InputError: If one is unknown or out of range.
    """
    if fit is not None and fit not in FITS:
        raise InputError("unknown way to fit a picture", got=repr(fit), expected=f"one of {', '.join(FITS)}")
    if not isinstance(blur, Real) or isinstance(blur, bool) or not 0 <= blur < math.inf:
        raise InputError("blur must be a number of pixels, at least 0", got=blur)
    whole = isinstance(crf, Integral) and not isinstance(crf, bool)
    if crf is not None and not (whole and 0 <= crf <= LARGEST_CRF):
        raise InputError("crf must be a whole number", got=crf, expected=f"0 (off) to {LARGEST_CRF}, or None")


def fitted(picture: Image.Image, height: int, width: int, fit: str) -> Image.Image:
    """A picture brought to a size.

    Args:
        picture: RGB.
        height: Rows of the result.
        width: Columns of the result.
        fit: One of `FITS`.
    """
    if fit == "stretch" or picture.width * height == picture.height * width:
        return _resized(picture, height, width)
    too_wide = picture.width * height > picture.height * width
    if fit == "crop":
        # The largest part of the wanted shape, cut out before resizing as in the official pipeline.
        rows = picture.height if too_wide else max(1, picture.width * height // width)
        columns = max(1, picture.height * width // height) if too_wide else picture.width
        left, top = (picture.width - columns) // 2, (picture.height - rows) // 2
        return _resized(picture.crop((left, top, left + columns, top + rows)), height, width)
    rows = max(1, round(picture.height * width / picture.width)) if too_wide else height
    columns = width if too_wide else max(1, round(picture.width * height / picture.height))
    canvas = Image.new("RGB", (width, height))
    canvas.paste(_resized(picture, rows, columns), ((width - columns) // 2, (height - rows) // 2))
    return canvas


def blurred(pixels: np.ndarray, deviation: float) -> np.ndarray:
    """A picture, uint8 (H, W, 3), blurred by a Gaussian of `deviation` pixels cut off at `ceil(deviation)`.

    Beyond its borders the picture is continued by reflection.
    """
    reach = min(math.ceil(deviation), min(pixels.shape[:2]) - 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    weights /= weights.sum()
    result = pixels.astype(np.float64)
    for axis in (0, 1):
        around = [(reach, reach) if axis == other else (0, 0) for other in range(3)]
        padded = np.pad(result, around, mode="reflect")
        shifted = (
            np.take(padded, range(start, start + pixels.shape[axis]), axis) for start in range(len(weights))
        )
        result = sum(weight * part for weight, part in zip(weights, shifted, strict=True))
    return result.round().astype(np.uint8)


def compressed(pixels: np.ndarray, crf: int) -> np.ndarray:
    """A picture, uint8 (H, W, 3), after H.264 in 4:2:0 at a constant rate factor, in memory.

    The bits are those of the official pipeline: preset veryfast, and one frame a second, for which x264 keeps more
    detail than at a usual rate. A picture with an odd side is continued by one row or column meanwhile.

    Raises:
        MediaError: If there is no H.264 encoder, or it fails.
    """
    import av

    height, width = pixels.shape[:2]
    even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    try:
        encoder = av.CodecContext.create("libx264", "w")
        encoder.height, encoder.width = even.shape[:2]
        encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", Fraction(1), Fraction(1)
        # One thread: for a single frame others only wait, and the result must not depend on the machine.
        encoder.options = {"crf": str(int(crf)), "preset": "veryfast", "threads": "1"}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        packets = [*encoder.encode(frame.reformat(format="yuv420p", threads=1)), *encoder.encode(None)]
        decoder = av.CodecContext.create("h264", "r")
        decoder.thread_count = 1
        decoded = [picture for packet in [*packets, None] for picture in decoder.decode(packet)]
    except (av.FFmpegError, ValueError) as error:
        raise MediaError("a picture can't be sent through H.264", got=error) from error
    return decoded[0].to_ndarray(format="rgb24", threads=1)[:height, :width]


def _prepared(picture: Any, height: int, width: int, fit: str, blur: float, crf: int | None) -> np.ndarray:
    pixels = np.array(fitted(as_pil(picture), height, width, fit))
    if blur:
        pixels = blurred(pixels, blur)
    return compressed(pixels, crf) if crf else pixels


def _resized(picture: Image.Image, height: int, width: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _check_side(**sides: Any) -> None:
    for name, value in sides.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1", got=value)
