"""How much memory coding a video takes, counted from the model, and which way of coding fits a budget.

Counted is what is held at the same time beside the weights and the caller's own tensors: what the convolutions carry
from piece to piece, the pieces that wait, the work of the widest layer, and the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from . import fewer_products
from .causal_conv import CausalConv3d
from .kernels import LARGEST_KERNEL
from .layout import Part, Role
from .resampling import Downsampler3d, Upsampler3d

PIXELS_AT_ONCE = 1 << 15
"""Rows times columns times frames of a part's input that are worked on at a time where memory doesn't matter."""


@dataclass(frozen=True)
class Cost:
    """Numbers (not bytes) that a part of the model holds.

    Attributes:
        carried: From piece to piece, in all its layers.
        work: At most, while it works on a piece; without the piece itself.
        output: Of a piece, as it waits for the next part.
    """

    carried: int
    work: int
    output: int


def frames_at_once(layout: Sequence[Part], pixels: int) -> list[int]:
    """Frames that each part takes at a time, so that they have about `pixels` rows times columns; at least 1.

    Whole windows of `fewer_products` where possible.
    """
    counts = (max(1, pixels // (part.height * part.width)) for part in layout)
    step = fewer_products.FRAMES
    return [count // step * step if count >= step else count for count in counts]


def frames_gathered(layout: Sequence[Part], frames: Sequence[int]) -> list[int]:
    """Frames that each part of an encoder waits for, where it gets fewer at a time: enough to be fast.

    Args:
        layout: Parts of the encoder.
        frames: How many each takes at most.
    """
    return [
        min(pair) for pair in zip(frames, frames_at_once(layout, fewer_products.PIXELS_AT_ONCE), strict=True)
    ]


def part_cost(part: Part, frames: int) -> Cost:
    """What a part holds for one video of which it takes so many frames at a time."""
    carried, work = 0, 0
    height, width = part.height, part.width
    for layer in part.layers:
        held, needed, frames, height, width, channels = _layer_cost(layer, frames, height, width)
        carried += held
        work = max(work, needed)
    return Cost(carried, work, frames * height * width * channels)


def _layer_cost(
    layer: nn.Module, frames: int, height: int, width: int
) -> tuple[int, int, int, int, int, int]:
    """Numbers carried and worked on, and the output's frames, height, width and channels."""
    pixels = height * width
    if isinstance(layer, CausalConv3d):
        carried, work = _conv_cost(layer, frames, pixels)
        _, rows, columns = layer.conv.stride
        return carried, work, frames, height // rows, width // columns, layer.conv.out_channels
    if isinstance(layer, (Upsampler3d, Downsampler3d)):
        carried, work = _conv_cost(layer.conv, frames, pixels)
        convolved = frames * pixels * layer.conv.conv.out_channels
        inputs = layer.conv.conv.in_channels * pixels
        # The convolution's output and its rearranged copy; the residual's is a part of that size.
        work = max(work, 2 * convolved + frames * inputs)
        t, h, w = layer.stride
        if isinstance(layer, Upsampler3d):
            channels = layer.conv.conv.out_channels // prod(layer.stride)
            return carried + inputs, work, frames * t, height * h, width * w, channels
        channels = layer.conv.conv.out_channels * prod(layer.stride)
        return carried + inputs, work, -(-frames // t), height // h, width // w, channels
    first, first_work = _conv_cost(layer.conv1, frames, pixels)
    second, second_work = _conv_cost(layer.conv2, frames, pixels)
    channels = layer.conv2.conv.out_channels
    skipped = (
        0 if layer.conv_shortcut is None else frames * pixels * (channels + layer.conv1.conv.in_channels)
    )
    # Between the convolutions one's output and the other's input stand side by side.
    work = max(first_work, second_work, skipped + frames * pixels * channels) + frames * pixels * channels
    return first + second + 2 * pixels * channels, work, frames, height, width, channels


def _conv_cost(layer: CausalConv3d, frames: int, pixels: int) -> tuple[int, int]:
    """Numbers that a convolution carries, and that it works on: padded input, output, prepared kernels and products."""
    conv, copies = layer.conv, layer.time_kernel - 1
    padded = (frames + copies) * pixels * conv.in_channels
    output = frames * pixels * conv.out_channels
    kernel = conv.weight.numel()
    # Libraries rearrange a kernel before use.
    work = padded + output + kernel
    # The last piece gives a frame more.
    if frames + 1 >= fewer_products.TAPS and kernel <= LARGEST_KERNEL:
        windows = min(-(-frames // fewer_products.FRAMES), max(1, fewer_products.PIXELS_AT_ONCE // pixels))
        products = fewer_products.WINDOW * windows * pixels * (conv.in_channels + conv.out_channels)
        work += products + 2 * kernel
    return copies * pixels * conv.in_channels, work


def peak_numbers(layout: Sequence[Part], frames: Sequence[int], length: int) -> int:
    """Numbers held at most, for one video, without its input and the result.

    Args:
        layout: Parts of the encoder or decoder.
        frames: How many frames each takes at a time.
        length: Latent frames of the video.
    """
    encodes = layout[0].role is Role.PATCHES
    together = frames_gathered(layout, frames) if encodes else [1] * len(layout)
    carried = waiting = highest = 0
    for part, count, gathered in zip(layout, frames, together, strict=True):
        whole = (length - 1) * part.rate + 1
        cost = part_cost(part, min(count, whole))
        held = _input_numbers(part) * min(gathered, whole) if gathered > 1 else 0
        carried += held + (cost.carried if count < whole else 0)
        highest = max(highest, waiting + held + cost.work)  # what was gathered stands there as one, too
        waiting += cost.output
    return carried + max(highest, waiting)


def _input_numbers(part: Part) -> int:
    """Numbers in a frame that a part takes."""
    first = part.layers[0]
    if isinstance(first, (Upsampler3d, Downsampler3d)):
        first = first.conv
    elif not isinstance(first, CausalConv3d):
        first = first.conv1
    return part.height * part.width * first.conv.in_channels


def pixel_choices() -> Iterable[int]:
    """What a budget may choose for `frames_at_once`, from the fastest to the leanest."""
    return (PIXELS_AT_ONCE >> halvings for halvings in range(PIXELS_AT_ONCE.bit_length()))
