"""The latent upsamplers of LTX-Video 0.9.7 and 0.9.8: latents of twice the height and width, or twice the frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config

# `ModelMixin` must be a name of this module: Diffusers looks it up here when it loads a saved pipeline.
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ...errors import InputError
from ..autoencoders.resampling import depth_to_space
from ..publishing import PublishesToHub
from ..single_file import SingleFileMixin

NORM_GROUPS = 32


class UpsamplerResBlock(nn.Module):
    """Two convolutions with group norms, and the input added before the last activation.

    Args:
        channels: Channels of input and output.
        dims: 2 for single frames (N, C, H, W), 3 for videos (B, C, F, H, W).
    """

    def __init__(self, channels: int, dims: int = 3) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels, dims)
        self.norm1 = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv2 = _conv(channels, channels, dims)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, channels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map `hidden` to the same shape."""
        inner = F.silu(self.norm1(self.conv1(hidden)))
        return F.silu(self.norm2(self.conv2(inner)) + hidden)


class LTXLatentUpsampler(PublishesToHub, ModelMixin, ConfigMixin, SingleFileMixin):
    """Makes latents of higher resolution: twice as many rows and columns, or frames, or all three.

    State-dict keys and settings are those of Diffusers' `LTXLatentUpsamplerModel`. It works on latents as the
    autoencoder gives them, not normalised.

    Args:
        in_channels: Channels of the latents.
        mid_channels: Channels inside, a multiple of 32.
        num_blocks_per_stage: Residual blocks before the step of resolution, and behind it.
        dims: 3 for convolutions over frames, rows and columns; 2 to treat every frame alone.
        spatial_upsample: Whether to double rows and columns.
        temporal_upsample: Whether to double frames: n + 1 become 2n + 1.

    Raises:
        InputError: If a setting is impossible.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 128,
        mid_channels: int = 512,
        num_blocks_per_stage: int = 4,
        dims: int = 3,
        spatial_upsample: bool = True,
        temporal_upsample: bool = False,
    ) -> None:
        super().__init__()
        if dims not in (2, 3) or (dims == 2 and temporal_upsample):
            raise InputError("dims must be 3, or 2 for an upsampler in space only", got=dims)
        if not (spatial_upsample or temporal_upsample):
            raise InputError("an upsampler must upsample", expected="spatial_upsample or temporal_upsample")
        if mid_channels % NORM_GROUPS:
            raise InputError("mid_channels must be a multiple of 32", got=mid_channels)
        self.stride = (2 if temporal_upsample else 1, *((2, 2) if spatial_upsample else (1, 1)))
        # The step in space alone looks at single frames, also in a model of 3D convolutions.
        step_dims = 3 if temporal_upsample else 2
        factor = self.stride[0] * self.stride[1] * self.stride[2]
        self.initial_conv = _conv(in_channels, mid_channels, dims)
        self.initial_norm = nn.GroupNorm(NORM_GROUPS, mid_channels)
        self.res_blocks = nn.ModuleList(
            UpsamplerResBlock(mid_channels, dims) for _ in range(num_blocks_per_stage)
        )
        self.upsampler = nn.Sequential(_conv(mid_channels, factor * mid_channels, step_dims))
        self.post_upsample_res_blocks = nn.ModuleList(
            UpsamplerResBlock(mid_channels, dims) for _ in range(num_blocks_per_stage)
        )
        self.final_conv = _conv(mid_channels, in_channels, dims)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Upsample latents.

        Args:
            hidden_states: Latents (B, in_channels, F, H, W), not normalised.

        Returns:
            (B, in_channels, F or 2F - 1, H or 2H, W or 2W).

        Raises:
            InputError: If the shape isn't valid.
        """
        if hidden_states.ndim != 5 or hidden_states.shape[1] != self.config.in_channels:
            raise InputError(
                "the upsampler takes latents (B, C, F, H, W)",
                got=tuple(hidden_states.shape),
                expected=f"C = {self.config.in_channels}",
            )
        batch = hidden_states.shape[0]
        flat = self.config.dims == 2
        hidden = _to_frames(hidden_states) if flat else hidden_states
        hidden = F.silu(self.initial_norm(self.initial_conv(hidden)))
        for block in self.res_blocks:
            hidden = block(hidden)
        hidden = self._step(hidden, batch)
        for block in self.post_upsample_res_blocks:
            hidden = block(hidden)
        hidden = self.final_conv(hidden)
        return _from_frames(hidden, batch) if flat else hidden

    def _step(self, hidden: torch.Tensor, batch: int) -> torch.Tensor:
        """The step of resolution; in time it is causal: nothing comes before the first frame."""
        if self.config.temporal_upsample:
            return depth_to_space(self.upsampler(hidden), self.stride)[:, :, 1:]
        flat = hidden.ndim == 4
        frames = self.upsampler(hidden if flat else _to_frames(hidden))
        frames = F.pixel_shuffle(frames, 2)
        return frames if flat else _from_frames(frames, batch)


def _conv(channels_in: int, channels_out: int, dims: int) -> nn.Module:
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    return kind(channels_in, channels_out, kernel_size=3, padding=1)


def _to_frames(video: torch.Tensor) -> torch.Tensor:
    """(B, C, F, H, W) as single frames (B F, C, H, W)."""
    return video.transpose(1, 2).flatten(0, 1)


def _from_frames(frames: torch.Tensor, batch: int) -> torch.Tensor:
    """The inverse of `_to_frames`."""
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)
