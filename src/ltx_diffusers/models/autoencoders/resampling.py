"""Changing resolution by moving pixels into channels and back: patches, residual down- and upsamplers."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...errors import InputError
from .causal_conv import CausalConv3d

if TYPE_CHECKING:
    from .time_shares import TimeShare

Stride = tuple[int, int, int]


def patchify(video: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Move patches of `video` (B, C, F, H, W) into channels: (B, C p p, F, H/p, W/p).

    Inside a channel's group the column comes before the row, as in the official weights.
    """
    batch, channels, frames, height, width = video.shape
    p = patch_size
    video = video.reshape(batch, channels, frames, height // p, p, width // p, p)
    return video.permute(0, 1, 6, 4, 2, 3, 5).reshape(batch, -1, frames, height // p, width // p)


def unpatchify(hidden: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Inverse of `patchify`: (B, C p p, F, H, W) to (B, C, F, H p, W p)."""
    batch, _, frames, height, width = hidden.shape
    p = patch_size
    hidden = hidden.reshape(batch, -1, p, p, frames, height, width)
    return hidden.permute(0, 1, 4, 5, 3, 6, 2).reshape(batch, -1, frames, height * p, width * p)


def space_to_depth(hidden: torch.Tensor, stride: Stride) -> torch.Tensor:
    """Move blocks of `stride` into channels: (B, C, F, H, W) to (B, C s s s, F/s, H/s, W/s)."""
    batch, channels, frames, height, width = hidden.shape
    t, h, w = stride
    hidden = hidden.reshape(batch, channels, frames // t, t, height // h, h, width // w, w)
    return hidden.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, -1, frames // t, height // h, width // w)


def depth_to_space(hidden: torch.Tensor, stride: Stride) -> torch.Tensor:
    """Inverse of `space_to_depth`: (B, C s s s, F, H, W) to (B, C, F s, ...)."""
    batch, _, frames, height, width = hidden.shape
    t, h, w = stride
    hidden = hidden.reshape(batch, -1, t, h, w, frames, height, width)
    return hidden.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, -1, frames * t, height * h, width * w)


class Downsampler3d(nn.Module):
    """Residual downsampler: a convolution's blocks moved into channels, plus means of the input's.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Factors over (frames, height, width).
        causal: Passed to the convolution.

    Raises:
        InputError: If the channels can't be divided as the stride demands.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Stride, causal: bool = True) -> None:
        super().__init__()
        block = prod(stride)
        if out_channels % block or (in_channels * block) % out_channels:
            raise InputError(
                f"a downsampler of stride {stride} can't map {in_channels} channels to {out_channels}",
                expected=f"output channels that are a multiple of {block} and divide {in_channels * block}",
            )
        self.stride = stride
        self.group_size = in_channels * block // out_channels
        self.conv = CausalConv3d(in_channels, out_channels // block, causal=causal)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Downsample `hidden` (B, C, F, H, W); with a time stride of 2, F = 2n + 1 frames become n + 1."""
        if self.stride[0] > 1:
            hidden = torch.cat([hidden[:, :, :1]] * (self.stride[0] - 1) + [hidden], dim=2)
        residual = space_to_depth(hidden, self.stride).unflatten(1, (-1, self.group_size)).mean(dim=2)
        return space_to_depth(self.conv(hidden), self.stride) + residual


class Upsampler3d(nn.Module):
    """Upsampler: a convolution whose channels move into blocks of pixels, less those before the first frame.

    Args:
        in_channels: Channels of the input; the output has `in_channels / channel_factor`.
        stride: Factors over (frames, height, width).
        causal: Passed to the convolution.
        residual: Whether to add the input, its channels moved into blocks and repeated.
        channel_factor: By how much the channels shrink.

    Raises:
        InputError: If `channel_factor` doesn't divide the stride's product, or that product a
            residual's channels.
    """

    time_share: TimeShare | None = None
    """Where the input's frames belong in a video that several processes share."""

    def __init__(
        self,
        in_channels: int,
        stride: Stride = (2, 2, 2),
        causal: bool = True,
        residual: bool = False,
        channel_factor: int = 1,
    ) -> None:
        super().__init__()
        block = prod(stride)
        if block % channel_factor or (residual and in_channels % block):
            raise InputError(
                f"an upsampler of stride {stride} can't shrink {in_channels} channels {channel_factor} times",
                expected=f"a factor that divides {block}, and for a residual, a multiple of {block} channels",
            )
        self.stride = stride
        self.residual = residual
        self.repeats = block // channel_factor
        self.conv = CausalConv3d(in_channels, in_channels * block // channel_factor, causal=causal)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Upsample `hidden` (B, C, F, H, W); with a time stride of 2, F = n + 1 frames become 2n + 1."""
        output = self._expand(self.conv(hidden))
        if not self.residual:
            return output
        # Output channel r * C/prod + c gets input channel c: add through a view, without repeating it.
        residual = self._expand(hidden).unsqueeze(1)
        return (output.unflatten(1, (self.repeats, -1)) + residual).flatten(1, 2)

    def _expand(self, hidden: torch.Tensor) -> torch.Tensor:
        expanded = depth_to_space(hidden, self.stride)
        begins = self.time_share is None or self.time_share.is_first
        return expanded[:, :, self.stride[0] - 1 :] if begins else expanded
