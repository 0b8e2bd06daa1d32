"""Stages of the encoder and decoder: residual blocks at one resolution, with the step to the next."""

from __future__ import annotations

import torch
from torch import nn

from ...errors import InputError
from ...functional.generators import Generators
from .causal_conv import CausalConv3d
from .resampling import Downsampler3d, Stride, Upsampler3d
from .resnet import ResnetBlock3d
from .time_embedding import TimeEmbedder

DOWNSAMPLE_STRIDES: dict[str, Stride] = {
    "conv": (2, 2, 2),
    "spatial": (1, 2, 2),
    "temporal": (2, 1, 1),
    "spatiotemporal": (2, 2, 2),
}
"""Factors over (frames, height, width) of the kinds of downsampling: "conv" is a plain convolution of stride
2 (0.9.0, 0.9.1), the others are residual downsamplers (0.9.5 and later)."""


def downsample_stride(kind: str) -> Stride:
    """Factors over (frames, height, width) of a kind of downsampling.

    Raises:
        InputError: If there is no such kind.
    """
    if kind not in DOWNSAMPLE_STRIDES:
        raise InputError(
            "unknown downsample_type", got=repr(kind), expected=f"one of {', '.join(DOWNSAMPLE_STRIDES)}"
        )
    return DOWNSAMPLE_STRIDES[kind]


class ResnetStack(nn.Module):
    """Base of the stages: runs residual blocks one by one, each checkpointed if gradient checkpointing is on.

    `gradient_checkpointing` and `_gradient_checkpointing_func` are set by
    `ModelMixin.enable_gradient_checkpointing`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    def run_resnet(
        self,
        resnet: ResnetBlock3d,
        hidden: torch.Tensor,
        time: torch.Tensor | None = None,
        generator: Generators = None,
    ) -> torch.Tensor:
        """Apply `resnet` to `hidden` (B, C, F, H, W); `time` as in `ResnetBlock3d.forward`."""
        noise = resnet.draw_noise(hidden, generator)
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(resnet, hidden, time, noise)
        return resnet(hidden, time, noise)


class DownBlock3d(ResnetStack):
    """Encoder stage: residual blocks, a downsampler, and a residual block if channels remain to be changed.

    Args:
        in_channels: Channels of the input and of the residual blocks.
        out_channels: Channels of the output.
        num_layers: Number of residual blocks.
        downsample_type: A key of `DOWNSAMPLE_STRIDES`, or None to keep the resolution.
        eps: Epsilon of the LayerNorms on skip connections.
        causal: Passed to the convolutions.

    Raises:
        InputError: If `downsample_type` is unknown, or can't map the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_layers: int,
        downsample_type: str | None,
        eps: float = 1e-6,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock3d(in_channels, in_channels, eps, causal) for _ in range(num_layers)
        )
        channels = in_channels
        self.downsamplers = None
        if downsample_type is not None:
            stride = downsample_stride(downsample_type)
            if downsample_type == "conv":
                downsampler = CausalConv3d(channels, channels, stride=stride, causal=causal)
            else:
                downsampler = Downsampler3d(channels, out_channels, stride, causal)
                channels = out_channels
            self.downsamplers = nn.ModuleList([downsampler])
        self.conv_out = (
            ResnetBlock3d(channels, out_channels, eps, causal) if channels != out_channels else None
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, F, H, W) to (B, out_channels, ...) at the next resolution."""
        for resnet in self.resnets:
            hidden = self.run_resnet(resnet, hidden)
        if self.downsamplers is not None:
            hidden = self.downsamplers[0](hidden)
        if self.conv_out is not None:
            hidden = self.run_resnet(self.conv_out, hidden)
        return hidden


class MidBlock3d(ResnetStack):
    """Residual blocks at the lowest resolution, in encoder and decoder.

    Args:
        channels: Channels of input and output.
        num_layers: Number of residual blocks.
        eps: Epsilon of the LayerNorms on skip connections.
        causal: Passed to the convolutions.
        inject_noise: As in `ResnetBlock3d`.
        time_conditioned: Whether the blocks are conditioned on the noise level.
    """

    def __init__(
        self,
        channels: int,
        num_layers: int,
        eps: float = 1e-6,
        causal: bool = True,
        inject_noise: bool = False,
        time_conditioned: bool = False,
    ) -> None:
        super().__init__()
        self.time_embedder = TimeEmbedder(channels, 4) if time_conditioned else None
        self.resnets = nn.ModuleList(
            ResnetBlock3d(channels, channels, eps, causal, inject_noise, time_conditioned)
            for _ in range(num_layers)
        )

    def forward(
        self, hidden: torch.Tensor, timestep: torch.Tensor | None = None, generator: Generators = None
    ) -> torch.Tensor:
        """Map (B, C, F, H, W) to the same shape; `timestep` (B,) in [0, 1000]."""
        time = None if self.time_embedder is None else self.time_embedder(timestep, hidden.dtype)
        for resnet in self.resnets:
            hidden = self.run_resnet(resnet, hidden, time, generator)
        return hidden


class UpBlock3d(ResnetStack):
    """Decoder stage: a residual block if channels must change first, an upsampler, then residual blocks.

    The channel-changing block isn't conditioned on the noise level (as in the official model).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        num_layers: Number of residual blocks after the upsampler.
        upsample: Whether to double frames, height and width.
        eps: Epsilon of the LayerNorms on skip connections.
        causal: Passed to the convolutions.
        inject_noise: As in `ResnetBlock3d`.
        time_conditioned: Whether the blocks are conditioned on the noise level.
        upsample_residual: As in `Upsampler3d`.
        upsample_factor: By how much the upsampler shrinks the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_layers: int,
        upsample: bool,
        eps: float = 1e-6,
        causal: bool = True,
        inject_noise: bool = False,
        time_conditioned: bool = False,
        upsample_residual: bool = False,
        upsample_factor: int = 1,
    ) -> None:
        super().__init__()
        channels = out_channels * upsample_factor if upsample else out_channels
        self.time_embedder = TimeEmbedder(out_channels, 4) if time_conditioned else None
        self.conv_in = None
        if in_channels != channels:
            self.conv_in = ResnetBlock3d(in_channels, channels, eps, causal, inject_noise)
        self.upsamplers = None
        if upsample:
            upsampler = Upsampler3d(
                channels, causal=causal, residual=upsample_residual, channel_factor=upsample_factor
            )
            self.upsamplers = nn.ModuleList([upsampler])
        self.resnets = nn.ModuleList(
            ResnetBlock3d(out_channels, out_channels, eps, causal, inject_noise, time_conditioned)
            for _ in range(num_layers)
        )

    def forward(
        self, hidden: torch.Tensor, timestep: torch.Tensor | None = None, generator: Generators = None
    ) -> torch.Tensor:
        """Map (B, in_channels, F, H, W) to (B, out_channels, ...); `timestep` (B,) in [0, 1000]."""
        time = None if self.time_embedder is None else self.time_embedder(timestep, hidden.dtype)
        if self.conv_in is not None:
            hidden = self.run_resnet(self.conv_in, hidden, generator=generator)
        if self.upsamplers is not None:
            hidden = self.upsamplers[0](hidden)
        for resnet in self.resnets:
            hidden = self.run_resnet(resnet, hidden, time, generator)
        return hidden
