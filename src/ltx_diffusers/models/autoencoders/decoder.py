"""The video decoder: latents to pixels, optionally as the last denoising step (paper section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ...errors import InputError
from ...functional.generators import Generators
from .blocks import MidBlock3d, UpBlock3d
from .causal_conv import CausalConv3d
from .resampling import unpatchify
from .resnet import pixel_norm
from .time_embedding import TimeEmbedder, modulate


class DecoderStage(NamedTuple):
    """One stage of the decoder, after the middle block."""

    channels: int
    """Channels after the upsampler."""
    num_layers: int
    """Residual blocks after the upsampler."""
    upsample: bool
    """Whether frames, height and width double."""
    inject_noise: bool
    """Whether the residual blocks add learned amounts of noise."""
    residual: bool
    """Whether the upsampler has a residual path."""
    factor: int
    """By how much the upsampler shrinks the channels."""


def decoder_stages(
    block_out_channels: Sequence[int],
    layers_per_block: Sequence[int],
    spatio_temporal_scaling: Sequence[bool],
    inject_noise: Sequence[bool],
    upsample_residual: Sequence[bool],
    upsample_factor: Sequence[int],
) -> list[DecoderStage]:
    """The decoder's stages in the order in which they run; configs list them from the output back.

    Raises:
        InputError: If a stage's channels can't be divided by its factor.
    """
    stages = []
    # layers_per_block and inject_noise have one more entry, the last, for the middle block.
    for channels, layers, upsample, noise, residual, factor in zip(
        reversed(block_out_channels),
        list(reversed(layers_per_block))[1:],
        reversed(spatio_temporal_scaling),
        list(reversed(inject_noise))[1:],
        reversed(upsample_residual),
        reversed(upsample_factor),
        strict=False,
    ):
        if channels % factor:
            raise InputError(
                "an entry of decoder_block_out_channels can't be divided by its upsample_factor",
                got=f"{channels} and {factor}",
            )
        stages.append(DecoderStage(channels // factor, layers, upsample, noise, residual, factor))
    return stages


class Decoder3d(nn.Module):
    """Video decoder.

    Args:
        latent_channels: Channels of the latents.
        out_channels: Channels of the video.
        channels: Channels of the middle block.
        num_layers: Residual blocks of the middle block.
        stages: What `decoder_stages` gave.
        patch_size: Side of the square patches at the output, in pixels.
        inject_noise: Whether the middle block injects noise.
        time_conditioned: Whether the decoder is told the noise level of the latents.
        eps: Epsilon of the LayerNorms on skip connections.
        causal: Whether frame f of the output depends on latents up to its own only.
    """

    def __init__(
        self,
        latent_channels: int,
        out_channels: int,
        channels: int,
        num_layers: int,
        stages: Sequence[DecoderStage],
        patch_size: int,
        inject_noise: bool = False,
        time_conditioned: bool = False,
        eps: float = 1e-6,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.injects_noise = inject_noise or any(stage.inject_noise for stage in stages)
        self.conv_in = CausalConv3d(latent_channels, channels, causal=causal)
        self.mid_block = MidBlock3d(channels, num_layers, eps, causal, inject_noise, time_conditioned)
        self.up_blocks = nn.ModuleList()
        for stage in stages:
            block = UpBlock3d(
                channels,
                stage.channels,
                stage.num_layers,
                stage.upsample,
                eps,
                causal,
                inject_noise=stage.inject_noise,
                time_conditioned=time_conditioned,
                upsample_residual=stage.residual,
                upsample_factor=stage.factor,
            )
            self.up_blocks.append(block)
            channels = stage.channels
        self.conv_out = CausalConv3d(channels, out_channels * patch_size**2, causal=causal)

        self.timestep_scale_multiplier = None
        self.time_embedder = None
        self.scale_shift_table = None
        if time_conditioned:
            # A constant that the released files store among the weights; never trained.
            self.timestep_scale_multiplier = nn.Parameter(torch.tensor(1000.0), requires_grad=False)
            self.time_embedder = TimeEmbedder(channels, 2)
            self.scale_shift_table = nn.Parameter(torch.randn(2, channels) / channels**0.5)

    def forward(
        self, latents: torch.Tensor, temb: torch.Tensor | None = None, generator: Generators = None
    ) -> torch.Tensor:
        """Decode `latents` (B, C, F', H', W').

        Args:
            latents: Latents in the autoencoder's own scale (not normalised).
            temb: Noise level of the latents (B,), in [0, 1]; used if the decoder is time-conditioned.
            generator: Source of the injected noise; one per sample if a list.

        Returns:
            The video (B, C, F, H, W), about [-1, 1].
        """
        timestep = None if self.time_embedder is None else temb * self.timestep_scale_multiplier
        hidden = self.conv_in(latents)
        hidden = self.mid_block(hidden, timestep, generator)
        for block in self.up_blocks:
            hidden = block(hidden, timestep, generator)
        hidden = pixel_norm(hidden)
        if self.time_embedder is not None:
            time = self.time_embedder(timestep, hidden.dtype) + self.scale_shift_table[..., None, None, None]
            hidden = modulate(hidden, *time.unbind(dim=1))
        hidden = self.conv_out(F.silu(hidden))
        return unpatchify(hidden, self.patch_size)
