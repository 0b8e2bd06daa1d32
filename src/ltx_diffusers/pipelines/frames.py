"""From decoded tensors to what a user takes: PIL images, arrays, tensors, bytes for a file.

On a CPU each frame is converted while it lies in the cache, in single precision whatever the type of the video, and
written once to where it stays. On a GPU pixels become bytes there, so that only bytes are copied.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .request import STREAM

_ON_DEVICE = 1 << 26
"""Numbers that are converted at once on a device with memory of its own: it bounds the copies in single precision."""


@torch.no_grad()
def to_output(
    video: Tensor, output_type: str, overwrite: bool = False
) -> Tensor | np.ndarray | list[list[Image.Image]] | Iterator[np.ndarray]:
    """Videos in the form asked for.

    Args:
        video: (B, 3, F, H, W), about [-1, 1].
        output_type: "pt": tensor (B, F, 3, H, W) in [0, 1], of the video's type; "np": float32 array
            (B, F, H, W, 3) in [0, 1]; "pil": a list of PIL images for each video; "stream": an iterator of one
            uint8 array (B, F, H, W, 3).
        overwrite: Whether nobody needs `video` afterwards, so that an array may take over its memory.
    """
    if output_type == "pt":
        return (video.transpose(1, 2) / 2 + 0.5).clamp(0, 1)
    if output_type == "np":
        return _to_floats(video, overwrite)
    if output_type == STREAM:
        return iter([to_bytes(video)])
    return [[_picture(planes) for planes in _frames_of_bytes(clip)] for clip in video]


@torch.no_grad()
def to_bytes(video: Tensor) -> np.ndarray:
    """Videos (B, 3, F, H, W), about [-1, 1], as uint8 (B, F, H, W, 3); what lies outside of [-1, 1] is cut off."""
    batch, _, frames, height, width = video.shape
    pixels = np.empty((batch, frames, height, width, 3), np.uint8)
    for clip, target in zip(video, pixels, strict=True):
        if clip.device.type != "cpu":
            _bytes_from_device(clip, target)
            continue
        for planes, place in zip(_frames_of_bytes(clip), target, strict=True):
            for channel, plane in enumerate(planes):  # by planes NumPy is twice as fast as torch
                place[..., channel] = plane
    return pixels


def _frames_of_bytes(clip: Tensor) -> Iterator[np.ndarray]:
    """The frames of a clip (3, F, H, W), as uint8 (3, H, W); each is gone when the next is asked for."""
    if clip.device.type != "cpu":
        for piece in _pieces(clip):
            yield from _bytes_on_device(piece).cpu().numpy()
        return
    space = torch.empty(clip[:, 0].shape)
    planes = np.empty(tuple(space.shape), np.uint8)
    for frame in clip.unbind(1):
        _levels(frame, space)
        with np.errstate(invalid="ignore"):  # broken models make NaN
            np.copyto(planes, space.numpy(), casting="unsafe")  # seven times as fast as torch
        yield planes


def _bytes_from_device(clip: Tensor, target: np.ndarray) -> None:
    """A clip (3, F, H, W) as uint8 (F, H, W, 3), written to `target`; nothing else is left to do on the CPU."""
    begin = 0
    for piece in _pieces(clip):
        end = begin + piece.shape[0]
        torch.from_numpy(target[begin:end]).copy_(_bytes_on_device(piece).permute(0, 2, 3, 1).contiguous())
        begin = end


def _pieces(clip: Tensor) -> tuple[Tensor, ...]:
    """A clip (3, F, H, W) in pieces (f, 3, H, W) of which a copy in single precision isn't too large."""
    return clip.transpose(0, 1).split(max(1, _ON_DEVICE // max(1, clip[:, 0].numel())))


def _bytes_on_device(frames: Tensor) -> Tensor:
    """Frames (f, 3, H, W) as uint8, where they are."""
    return _levels(frames, torch.empty(frames.shape, device=frames.device)).to(torch.uint8)


def _levels(values: Tensor, space: Tensor) -> Tensor:
    """[-1, 1] as the nearest of 256 levels, by the very operations of `_to_floats`; written to `space` (float32)."""
    _cut_off(values, space)
    return space.mul_(0.5).add_(0.5).mul_(255).round_()


def _cut_off(values: Tensor, target: Tensor) -> None:
    """`values` in [-1, 1], written to `target` (float32)."""
    if values.dtype == target.dtype:
        torch.clamp(values, -1, 1, out=target)
    else:
        target.copy_(values).clamp_(-1, 1)


def _picture(planes: np.ndarray) -> Image.Image:
    """A picture of uint8 (3, H, W); nothing is shared."""
    # Pillow keeps four bytes a pixel, so it copies anyway; from planes it does so fastest.
    return Image.merge("RGB", [Image.fromarray(plane) for plane in planes])


def _to_floats(video: Tensor, overwrite: bool) -> np.ndarray:
    """(B, 3, F, H, W) as float32 (B, F, H, W, 3) in [0, 1]: a view with the video's order in memory."""
    video = video.detach().cpu() if video.device.type != "cpu" else video.detach()
    if overwrite and video.dtype == torch.float32:
        target = video
    else:
        # NumPy asks the system for large pages; the first touch of small ones takes longer than the arithmetic.
        target = torch.from_numpy(np.empty(tuple(video.shape), np.float32))
    for clip, place in zip(video, target, strict=True):
        for values, floats in zip(clip.unbind(1), place.unbind(1), strict=True):
            _cut_off(values, floats)
            floats.mul_(0.5).add_(0.5)
    return target.permute(0, 2, 3, 4, 1).numpy()
