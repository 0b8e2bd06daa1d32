"""The encoder and the decoder as a row of parts, each at one resolution: what streams and memory estimates go by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import nn

from .decoder import Decoder3d
from .encoder import Encoder3d
from .resampling import Downsampler3d, Upsampler3d
from .time_embedding import TimeEmbedder


class Role(Enum):
    """Where in the model a part stands."""

    PATCHES = "patches"
    """The encoder's first convolution, of patches."""
    BODY = "body"
    OUTPUT = "output"
    """The last norm and convolution."""


@dataclass(frozen=True)
class Part:
    """Layers that follow each other.

    Attributes:
        role: Where it stands.
        layers: `CausalConv3d`, `ResnetBlock3d`, `Upsampler3d` or `Downsampler3d`.
        height: Rows of its input.
        width: Columns of its input.
        rate: Frames of its input, after the first, for one latent after the first.
        time_embedder: What conditions its residual blocks on the noise level.
    """

    role: Role
    layers: tuple[nn.Module, ...]
    height: int
    width: int
    rate: int
    time_embedder: TimeEmbedder | None = None


def decoder_layout(decoder: Decoder3d, height: int, width: int) -> list[Part]:
    """The decoder's parts for latents of `height` and `width`."""
    middle = decoder.mid_block
    parts = [
        Part(Role.BODY, (decoder.conv_in, *middle.resnets), height, width, 1, middle.time_embedder),
    ]
    rate = 1
    for block in decoder.up_blocks:
        before = () if block.conv_in is None else (block.conv_in,)
        if block.upsamplers is not None:
            upsampler: Upsampler3d = block.upsamplers[0]
            parts.append(Part(Role.BODY, (*before, upsampler), height, width, rate))
            before = ()
            frames, rows, columns = upsampler.stride
            height, width, rate = height * rows, width * columns, rate * frames
        layers = (*before, *block.resnets)
        if layers:
            parts.append(Part(Role.BODY, layers, height, width, rate, block.time_embedder))
    parts.append(Part(Role.OUTPUT, (decoder.conv_out,), height, width, rate, decoder.time_embedder))
    return parts


def encoder_layout(encoder: Encoder3d, height: int, width: int, rate: int) -> list[Part]:
    """The encoder's parts for videos of `height` and `width` pixels, with `rate` frames for a latent."""
    height, width = height // encoder.patch_size, width // encoder.patch_size
    parts = [Part(Role.PATCHES, (encoder.conv_in,), height, width, rate)]
    for block in encoder.down_blocks:
        if len(block.resnets):
            parts.append(Part(Role.BODY, tuple(block.resnets), height, width, rate))
        if block.downsamplers is not None:
            layer = block.downsamplers[0]
            parts.append(Part(Role.BODY, (layer,), height, width, rate))
            frames, rows, columns = layer.stride if isinstance(layer, Downsampler3d) else layer.conv.stride
            height, width, rate = height // rows, width // columns, rate // frames
        if block.conv_out is not None:
            parts.append(Part(Role.BODY, (block.conv_out,), height, width, rate))
    parts.append(Part(Role.BODY, tuple(encoder.mid_block.resnets), height, width, rate))
    parts.append(Part(Role.OUTPUT, (encoder.conv_out,), height, width, rate))
    return parts
