"""The video encoder: pixels to means and one shared log-variance of the latents (paper section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ...errors import InputError
from .blocks import DownBlock3d, MidBlock3d
from .causal_conv import CausalConv3d
from .config_checks import check_lengths
from .resampling import patchify
from .resnet import pixel_norm

CONV_BLOCK = "LTXVideoDownBlock3D"
RESIDUAL_BLOCK = "LTXVideo095DownBlock3D"
DOWN_BLOCK_TYPES = (CONV_BLOCK, RESIDUAL_BLOCK)
"""Names of encoder stages in configs: of 0.9.0 and 0.9.1, always "conv" downsampling; of 0.9.5 and later."""


def encoder_stages(
    block_out_channels: Sequence[int],
    down_block_types: Sequence[str],
    spatio_temporal_scaling: Sequence[bool],
    downsample_type: Sequence[str],
) -> list[tuple[int, int, str | None]]:
    """The encoder's stages as (channels in, channels out, kind of downsampling or None).

    Each stage leads to the next entry of `block_out_channels`. In the 0.9.5 layout the last entry is the last
    stage's output; in the older one the last stage keeps its channels: there are as many stages as entries.

    Raises:
        InputError: If a block type is unknown, or a list too short.
    """
    for name in down_block_types:
        if name not in DOWN_BLOCK_TYPES:
            raise InputError(
                "unknown entry of down_block_types",
                got=repr(name),
                expected=f"one of {', '.join(DOWN_BLOCK_TYPES)}",
            )
    last = len(block_out_channels) - 1
    count = last if down_block_types[-1] == RESIDUAL_BLOCK else last + 1
    check_lengths(
        count,
        down_block_types=down_block_types,
        spatio_temporal_scaling=spatio_temporal_scaling,
        downsample_type=downsample_type,
    )
    stages = []
    for i in range(count):
        kind = "conv" if down_block_types[i] == CONV_BLOCK else downsample_type[i]
        kind = kind if spatio_temporal_scaling[i] else None
        stages.append((block_out_channels[i], block_out_channels[min(i + 1, last)], kind))
    return stages


class Encoder3d(nn.Module):
    """Causal video encoder.

    Args:
        in_channels: Channels of the video.
        latent_channels: Channels of the latents.
        stages: What `encoder_stages` gave.
        layers_per_block: Residual blocks per stage, then of the middle block (the last entry).
        patch_size: Side of the square patches at the input, in pixels.
        eps: Epsilon of the LayerNorms on skip connections.
        causal: Passed to the convolutions.
        shared_log_variance: Whether all channels of the latents share one log-variance.
    """

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        stages: Sequence[tuple[int, int, str | None]],
        layers_per_block: Sequence[int],
        patch_size: int,
        eps: float = 1e-6,
        causal: bool = True,
        shared_log_variance: bool = True,
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.patch_size = patch_size
        self.conv_in = CausalConv3d(in_channels * patch_size**2, stages[0][0], causal=causal)
        self.down_blocks = nn.ModuleList(
            DownBlock3d(channels_in, channels_out, layers, kind, eps, causal)
            for (channels_in, channels_out, kind), layers in zip(stages, layers_per_block, strict=False)
        )
        channels = stages[-1][1]
        self.mid_block = MidBlock3d(channels, layers_per_block[-1], eps, causal)
        log_variances = 1 if shared_log_variance else latent_channels
        self.conv_out = CausalConv3d(channels, latent_channels + log_variances, causal=causal)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Encode `video` (B, C, F, H, W).

        Returns:
            (B, 2 * latent_channels, F', H', W'): the means, then the log-variances; one for all channels (so
            that the KL term can't switch off single channels) is repeated.
        """
        hidden = self.conv_in(patchify(video, self.patch_size))
        for block in self.down_blocks:
            hidden = block(hidden)
        hidden = self.mid_block(hidden)
        hidden = self.conv_out(F.silu(pixel_norm(hidden)))
        mean, log_variance = hidden.tensor_split([self.latent_channels], dim=1)
        return torch.cat([mean, log_variance.expand_as(mean)], dim=1)
