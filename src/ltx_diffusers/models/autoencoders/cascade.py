"""Running the encoder or the decoder over a video in pieces, each part of the model with pieces of its own length.

The parts at low resolution take many frames at a time, those at high resolution few, so that what is held hardly
depends on the length of the video. The result is that of the whole video (see `streams`); nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ...functional.generators import Generators
from . import kernels
from .causal_conv import CausalConv3d
from .decoder import Decoder3d
from .encoder import Encoder3d
from .layout import Part, Role
from .memory import frames_gathered
from .resampling import Downsampler3d, Upsampler3d
from .resnet import ResnetBlock3d
from .streams import (
    ConvStream,
    DownsamplerStream,
    GatheringStream,
    ResnetStream,
    SequenceStream,
    Stream,
    UpsamplerStream,
)


@dataclass(frozen=True)
class Step:
    """A part of the model with its state, and how many frames it takes at a time."""

    stream: Stream
    frames: int


def run(steps: Sequence[Step], piece: torch.Tensor, last: bool) -> Iterator[torch.Tensor]:
    """Send further frames through the steps, and give what comes out.

    Args:
        steps: In their order.
        piece: (B, F, ...), at least one frame.
        last: Whether no frames follow.

    Yields:
        The next frames of the result.
    """
    if not steps:
        yield piece
        return
    step, rest = steps[0], steps[1:]
    for start in range(0, piece.shape[1], step.frames):
        end = start + step.frames
        is_last = last and end >= piece.shape[1]
        output = step.stream.push(piece[:, start:end], is_last)
        if output is not None:
            yield from run(rest, output, is_last)


def decoder_steps(
    decoder: Decoder3d,
    layout: Sequence[Part],
    frames: Sequence[int],
    like: torch.Tensor,
    temb: torch.Tensor | None,
    generator: Generators,
) -> list[Step]:
    """The decoder, ready for the first latents.

    Args:
        decoder: The decoder.
        layout: What `decoder_layout` gave.
        frames: How many frames each part takes at a time.
        like: Latents, for device and type.
        temb: Their noise levels (B,), in [0, 1].
        generator: Source of injected noise, drawn here in the order of `Decoder3d.forward`.
    """
    timestep = None if decoder.time_embedder is None else temb * decoder.timestep_scale_multiplier
    unit = like.flatten()[:1].view(1, 1, 1, 1, 1)
    steps = []
    for part, count in zip(layout, frames, strict=True):
        time = None if part.time_embedder is None else part.time_embedder(timestep, like.dtype)
        if part.role is Role.OUTPUT:
            stream: Stream = _decoder_output(decoder, time)
        else:
            space = unit.expand(1, 1, 1, part.height, part.width)
            stream = SequenceStream([_stream(layer, time, space, generator) for layer in part.layers])
        steps.append(Step(stream, count))
    return steps


def encoder_steps(encoder: Encoder3d, layout: Sequence[Part], frames: Sequence[int]) -> list[Step]:
    """The encoder, ready for the first frames, which it takes as (B, F, C, H, W) in pixels.

    Each part makes fewer frames of what it gets, so that the next one has to gather them.

    Args:
        encoder: The encoder.
        layout: What `encoder_layout` gave.
        frames: How many frames each part takes at a time.
    """
    steps = []
    for part, count, together in zip(layout, frames, frames_gathered(layout, frames), strict=True):
        if part.role is Role.PATCHES:
            stream: Stream = _Patches(encoder)
        elif part.role is Role.OUTPUT:
            stream = _Output(encoder.conv_out)
        else:
            stream = SequenceStream([_stream(layer) for layer in part.layers])
        steps.append(Step(GatheringStream(stream, together), count))
    return steps


def _stream(
    layer: torch.nn.Module,
    time: torch.Tensor | None = None,
    space: torch.Tensor | None = None,
    generator: Generators = None,
) -> Stream:
    if isinstance(layer, CausalConv3d):
        return ConvStream(layer)
    if isinstance(layer, Upsampler3d):
        return UpsamplerStream(layer)
    if isinstance(layer, Downsampler3d):
        return DownsamplerStream(layer)
    return ResnetStream(layer, time, _noise(layer, space, generator))


def _noise(
    block: ResnetBlock3d, space: torch.Tensor | None, generator: Generators
) -> tuple[torch.Tensor, torch.Tensor] | None:
    return None if space is None else block.draw_noise(space, generator)


def _decoder_output(decoder: Decoder3d, time: torch.Tensor | None) -> _Output:
    if time is None:
        return _Output(decoder.conv_out)
    shift, scale = (time + decoder.scale_shift_table[..., None, None, None]).flatten(2).float().unbind(dim=1)
    return _Output(decoder.conv_out, shift, 1 + scale)


class _Patches:
    """The encoder's way in: patches of (B, F, C, H, W), and the first convolution."""

    def __init__(self, encoder: Encoder3d) -> None:
        self._patch_size = encoder.patch_size
        self._conv = ConvStream(encoder.conv_in)

    def push(self, piece: torch.Tensor, last: bool) -> torch.Tensor | None:
        """As `Stream.push`, but for the order of the dimensions."""
        p = self._patch_size
        _, frames, channels, height, width = piece.shape
        target = self._conv.open(piece, (frames, height // p, width // p), last, channels * p * p)
        kernels.patches_into(target, piece, p)
        return self._conv.close(last)


class _Output:
    """The last norm and convolution of the encoder or the decoder."""

    def __init__(
        self, conv: CausalConv3d, shift: torch.Tensor | None = None, factor: torch.Tensor | None = None
    ) -> None:
        self._conv = ConvStream(conv)
        self._shift, self._factor = shift, factor

    def push(self, piece: torch.Tensor, last: bool) -> torch.Tensor | None:
        """As `Stream.push`."""
        target = self._conv.open(piece, piece.shape[1:4], last)
        kernels.normalize_into(target, piece, self._shift, self._factor)
        return self._conv.close(last)
