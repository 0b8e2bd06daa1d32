"""Patch discriminators of videos: each logit judges one patch (PatchGAN, arXiv 1611.07004, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config

# `ModelMixin` must be a name of this module: Diffusers looks it up here when it loads a saved model.
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ...errors import InputError
from ..autoencoders.causal_conv import CausalConv3d
from . import discriminators

Normalization = Literal["none", "group", "spectral"]
_MAX_GROUPS = 16


@discriminators.register("patch-3d")
class PatchDiscriminator3D(ModelMixin, ConfigMixin):
    """Judges space-time patches of a video with causal 3D convolutions; a picture is a video of one frame.

    The first layers also halve the frames (8k + 1 become 4k + 1), the others only rows and columns. The convolutions
    are causal in time; without the normalization "group", which looks at the whole clip, the verdict on a clip's first
    frame is the one on that frame as a picture.

    Args:
        in_channels: Channels of the video; twice those of a clip for pairs.
        channels: Channels of the first layer; each layer doubles them, up to 8 times.
        num_layers: Layers that halve rows and columns.
        num_time_layers: How many of them also halve the frames.
        normalization: "none", "group" (of the inner layers' features) or "spectral" (of all weights).

    Raises:
        InputError: If a setting is impossible.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        channels: int = 64,
        num_layers: int = 4,
        num_time_layers: int = 2,
        normalization: Normalization = "group",
    ) -> None:
        super().__init__()
        _check(num_layers, normalization)
        if not 0 <= num_time_layers <= num_layers:
            raise InputError(
                "num_time_layers must be between 0 and num_layers", got=f"{num_time_layers} of {num_layers}"
            )
        strides = [(2 if layer < num_time_layers else 1, 2, 2) for layer in range(num_layers)]
        self.layers = _stack(
            lambda given, made, stride: CausalConv3d(given, made, stride=stride),
            in_channels,
            channels,
            [*strides, (1, 1, 1)],
            normalization,
        )

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, F', H', W') of `video` (B, in_channels, F, H, W)."""
        return _run(self.layers, video)


@discriminators.register("patch-2d")
class PatchDiscriminator2D(ModelMixin, ConfigMixin):
    """Judges patches of single frames, all alike.

    Args:
        in_channels: Channels of the video; twice those of a clip for pairs.
        channels: Channels of the first layer; each layer doubles them, up to 8 times.
        num_layers: Layers that halve rows and columns.
        normalization: "none", "group" (of the inner layers' features) or "spectral" (of all weights).

    Raises:
        InputError: If a setting is impossible.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        channels: int = 64,
        num_layers: int = 4,
        normalization: Normalization = "spectral",
    ) -> None:
        super().__init__()
        _check(num_layers, normalization)
        self.layers = _stack(
            lambda given, made, stride: nn.Conv2d(given, made, 4 if stride == 2 else 3, stride, padding=1),
            in_channels,
            channels,
            [2] * num_layers + [1],
            normalization,
        )

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Logits (B, F, H', W') of `video` (B, in_channels, F, H, W)."""
        frames = video.transpose(1, 2).flatten(0, 1)
        return _run(self.layers, frames)[:, 0].unflatten(0, video.shape[::2][:2])


class _Layer(nn.Module):
    """Convolution, then an optional norm of its features."""

    def __init__(self, conv: nn.Module, norm: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(hidden)
        return hidden if self.norm is None else self.norm(hidden)


def _stack(
    convolution: object, in_channels: int, channels: int, strides: Sequence, normalization: str
) -> nn.ModuleList:
    """Layers with these strides; the last one makes the logits."""
    layers = nn.ModuleList()
    last = len(strides) - 1
    for index, stride in enumerate(strides):
        made = 1 if index == last else channels * min(2**index, 8)
        conv = convolution(in_channels, made, stride)
        if normalization == "spectral":
            spectral_norm(conv.conv if isinstance(conv, CausalConv3d) else conv)
        inner = normalization == "group" and 0 < index < last
        layers.append(_Layer(conv, nn.GroupNorm(_groups(made), made) if inner else None))
        in_channels = made
    return layers


def _run(layers: nn.ModuleList, hidden: torch.Tensor) -> torch.Tensor:
    for layer in layers[:-1]:
        hidden = F.leaky_relu(layer(hidden), 0.2)
    return layers[-1](hidden)


def _groups(channels: int) -> int:
    return next(count for count in range(min(_MAX_GROUPS, channels), 0, -1) if channels % count == 0)


def _check(num_layers: int, normalization: str) -> None:
    if num_layers < 1:
        raise InputError("a discriminator needs a layer or more", got=num_layers)
    if normalization not in ("none", "group", "spectral"):
        raise InputError(
            "unknown normalization of a discriminator",
            got=repr(normalization),
            expected="none, group or spectral",
        )
