"""The residual block of the video autoencoder, and its normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

from ...functional.generators import Generators
from .causal_conv import CausalConv3d
from .time_embedding import modulate

PIXEL_NORM_EPS = 1e-8


def pixel_norm(hidden: torch.Tensor) -> torch.Tensor:
    """Divide each position's channels by their root mean square; `hidden` is (B, C, F, H, W).

    The mean is taken in fp32 over dimension 1, so that no layout change is needed.
    """
    mean_square = hidden.float().pow(2).mean(dim=1, keepdim=True)
    return (hidden * torch.rsqrt(mean_square + PIXEL_NORM_EPS)).to(hidden.dtype)


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, F, H, W)."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise each position over its channels."""
        return super().forward(hidden.movedim(1, -1)).movedim(-1, 1)


class ResnetBlock3d(nn.Module):
    """Two causal convolutions, each after pixel norm and SiLU, and a skip connection.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; if they differ from the input's, the skip connection is a
            LayerNorm and a convolution of size 1.
        eps: Epsilon of that LayerNorm.
        causal: Passed to the convolutions.
        inject_noise: Whether each convolution's output gets noise, equal in all frames, times a learned scale
            per channel (StyleGAN's noise inputs; paper section 2.1).
        time_conditioned: Whether shift and scale from the noise level follow each norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        eps: float = 1e-6,
        causal: bool = True,
        inject_noise: bool = False,
        time_conditioned: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(in_channels, out_channels, causal=causal)
        self.conv2 = CausalConv3d(out_channels, out_channels, causal=causal)
        self.norm3 = None
        self.conv_shortcut = None
        if in_channels != out_channels:
            self.norm3 = ChannelLayerNorm(in_channels, eps=eps)
            self.conv_shortcut = CausalConv3d(in_channels, out_channels, kernel_size=1, causal=causal)
        self.per_channel_scale1 = nn.Parameter(torch.zeros(out_channels, 1, 1)) if inject_noise else None
        self.per_channel_scale2 = nn.Parameter(torch.zeros(out_channels, 1, 1)) if inject_noise else None
        self.scale_shift_table = None
        if time_conditioned:
            self.scale_shift_table = nn.Parameter(torch.randn(4, in_channels) / in_channels**0.5)

    def draw_noise(
        self, hidden: torch.Tensor, generator: Generators = None
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Draw the noise of one call on `hidden` (B, C, F, H, W), or None if this block injects none.

        It is drawn outside `forward` so that recomputing a checkpointed block sees the same noise.

        Returns:
            Two maps, (1, 1, 1, H, W) shared by the batch, or (B, 1, 1, H, W) for a list of generators.
        """
        if self.per_channel_scale1 is None:
            return None
        batch = len(generator) if isinstance(generator, list) else 1
        shape = (batch, 1, 1, *hidden.shape[-2:])
        first, second = (
            randn_tensor(shape, generator=generator, device=hidden.device, dtype=hidden.dtype)
            for _ in range(2)
        )
        return first, second

    def forward(
        self,
        inputs: torch.Tensor,
        time: torch.Tensor | None = None,
        noise: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Run the block.

        Args:
            inputs: (B, C, F, H, W).
            time: (B, 4, C, 1, 1, 1): shift and scale after the first norm, shift and scale after the second.
            noise: What `draw_noise` gave for these inputs.

        Returns:
            (B, out_channels, F, H, W).
        """
        hidden = pixel_norm(inputs)
        if self.scale_shift_table is not None:
            shift1, scale1, shift2, scale2 = (time + self.scale_shift_table[..., None, None, None]).unbind(
                dim=1
            )
            hidden = modulate(hidden, shift1, scale1)
        hidden = self.conv1(F.silu(hidden))
        if self.per_channel_scale1 is not None:
            hidden = hidden + noise[0] * self.per_channel_scale1[:, None].to(hidden.dtype)

        hidden = pixel_norm(hidden)
        if self.scale_shift_table is not None:
            hidden = modulate(hidden, shift2, scale2)
        hidden = self.conv2(F.silu(hidden))
        if self.per_channel_scale2 is not None:
            hidden = hidden + noise[1] * self.per_channel_scale2[:, None].to(hidden.dtype)

        if self.conv_shortcut is not None:
            inputs = self.conv_shortcut(self.norm3(inputs))
        return hidden + inputs
