"""Encoding and decoding by `cascade`, for videos in the usual order of dimensions (B, C, F, H, W)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from ...functional.generators import Generators
from . import kernels
from .blocks import DownBlock3d, MidBlock3d, UpBlock3d
from .cascade import decoder_steps, encoder_steps, run
from .causal_conv import CausalConv3d
from .decoder import Decoder3d
from .encoder import Encoder3d
from .layout import decoder_layout, encoder_layout
from .memory import PIXELS_AT_ONCE, frames_at_once
from .resampling import Downsampler3d, Upsampler3d
from .resnet import ChannelLayerNorm, ResnetBlock3d

_TAKEN_APART = (
    Encoder3d,
    Decoder3d,
    DownBlock3d,
    MidBlock3d,
    UpBlock3d,
    ResnetBlock3d,
    Upsampler3d,
    Downsampler3d,
    CausalConv3d,
    nn.ModuleList,
)


def can_run_in_pieces(model: nn.Module) -> bool:
    """Whether the layers of an encoder or decoder may be run one by one, because calling them does nothing else.

    Offloading and casting replace a layer's `forward` or hook into it, compilation its call; adapters and sharding put
    other layers in its place. Convolutions, LayerNorms and embeddings of the noise level are exempt: they are called
    as they are.
    """
    for name, module in model.named_modules():
        called = isinstance(module, (nn.Conv3d, ChannelLayerNorm)) or "time_embedder" in name.split(".")
        if not called and (type(module) not in _TAKEN_APART or _is_hooked(module)):
            return False
    return True


def _is_hooked(module: nn.Module) -> bool:
    hooks = (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
    return "forward" in vars(module) or module._compiled_call_impl is not None or any(hooks)


def prefers_pieces(model: nn.Module, tensor: torch.Tensor) -> bool:
    """Whether coding `tensor` in pieces is the faster way that gives the same: without gradients, on a CPU."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and can_run_in_pieces(model)
    )


def decoded_pieces(
    decoder: Decoder3d,
    latents: Iterable[torch.Tensor],
    temb: torch.Tensor | None,
    generator: Generators = None,
    pixels: int = PIXELS_AT_ONCE,
) -> Iterator[torch.Tensor]:
    """Decode latents that come in pieces, and give the frames as they are known.

    Args:
        decoder: The decoder.
        latents: Pieces (B, C, f, H, W) of any length, not normalised.
        temb: Noise level of the latents (B,), in [0, 1], or None.
        generator: Source of the injected noise; drawn before the first piece is decoded.
        pixels: About how many pixels of each part's input are worked on at a time.

    Yields:
        Tensors (B, C, f, 4, h, 4, w): hidden pixels whose dimensions 3 and 4, 5 and 6 are to be joined.
    """
    steps = None
    for piece, last in _with_last(latents):
        if steps is None:
            layout = decoder_layout(decoder, *piece.shape[3:])
            steps = decoder_steps(decoder, layout, frames_at_once(layout, pixels), piece, temb, generator)
        hidden = piece.permute(0, 2, 3, 4, 1).contiguous()
        for output in run(steps, hidden, last):
            yield kernels.pixels(output, decoder.patch_size)


def decode_in_pieces(
    decoder: Decoder3d,
    latents: torch.Tensor,
    temb: torch.Tensor | None,
    generator: Generators = None,
    pixels: int = PIXELS_AT_ONCE,
) -> torch.Tensor:
    """Decode latents (B, C, F', H, W) as `Decoder3d.forward` does; each piece is written into the result at once.

    Args:
        decoder: The decoder.
        latents: The latents.
        temb: As `decoded_pieces`.
        generator: As `decoded_pieces`.
        pixels: As `decoded_pieces`.
    """
    video, done = None, 0
    length = (latents.shape[2] - 1) * decoder_layout(decoder, 1, 1)[-1].rate + 1
    for piece in decoded_pieces(decoder, [latents], temb, generator, pixels):
        batch, channels, frames, height, p, width, q = piece.shape
        if video is None:
            video = piece.new_empty(batch, channels, length, height * p, width * q)
        place = video[:, :, done : done + frames]
        place.unflatten(4, (-1, q)).unflatten(3, (-1, p)).copy_(piece)
        done += frames
    return video


def encode_in_pieces(
    encoder: Encoder3d, videos: Iterable[torch.Tensor], time_ratio: int, pixels: int = PIXELS_AT_ONCE
) -> torch.Tensor:
    """Encode a video that comes in pieces as `Encoder3d.forward` encodes the whole.

    Args:
        encoder: The encoder.
        videos: Pieces (B, C, f, H, W) of any length.
        time_ratio: Frames for one latent, after the first.
        pixels: As `decoded_pieces`.

    Returns:
        (B, 2 * latent_channels, F', H', W'), as `Encoder3d.forward`.
    """
    steps, moments = None, []
    for piece, last in _with_last(videos):
        if steps is None:
            layout = encoder_layout(encoder, *piece.shape[3:], time_ratio)
            steps = encoder_steps(encoder, layout, frames_at_once(layout, pixels))
        moments += run(steps, piece.transpose(1, 2), last)
    hidden = torch.cat(moments, dim=1).permute(0, 4, 1, 2, 3).contiguous()
    mean, log_variance = hidden.tensor_split([encoder.latent_channels], dim=1)
    return torch.cat([mean, log_variance.expand_as(mean)], dim=1)


def _with_last(pieces: Iterable[torch.Tensor]) -> Iterator[tuple[torch.Tensor, bool]]:
    """Each piece, and whether it is the last."""
    before = None
    for piece in pieces:
        if before is not None:
            yield before, False
        before = piece
    if before is not None:
        yield before, True
