"""3D convolution whose padding in time repeats frames of the video (paper section 2.1).

Causal: k-1 copies of the first frame in front, so that frame f sees frames <= f only.
Not causal: (k-1)/2 copies of the first frame in front and of the last frame behind.
Padding in space is zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from .time_shares import TimeShare


class CausalConv3d(nn.Module):
    """Convolution over (frames, height, width) that repeats the border frames in time.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the cubic kernel; odd.
        stride: Stride over (frames, height, width).
        causal: Whether an output frame depends on its own and earlier frames only.
    """

    time_share: TimeShare | None = None
    """Where the input's frames belong in a video that several processes share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: tuple[int, int, int] = (1, 1, 1),
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.time_kernel = kernel_size
        side = kernel_size // 2
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding=(0, side, side))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Convolve `hidden` (B, C, F, H, W); stride 1 keeps F, H and W, stride 2 halves them, rounded up."""
        # Half precision would round the summed kernel, so that an image and a video's first frame differed.
        if (
            hidden.shape[2] == 1
            and self.time_kernel > 1
            and hidden.dtype.itemsize >= 4
            and self.time_share is None
            and is_plain_convolution(self.conv)
        ):
            return self._convolve_frame(hidden)
        return self.conv(self._pad_time(hidden))

    def _convolve_frame(self, hidden: torch.Tensor) -> torch.Tensor:
        """Convolve a single frame: all its padding is the frame itself, so the kernel can be summed over time."""
        conv = self.conv
        weight = conv.weight.sum(dim=2)
        return F.conv2d(hidden[:, :, 0], weight, conv.bias, conv.stride[1:], conv.padding[1:]).unsqueeze(2)

    def _pad_time(self, hidden: torch.Tensor) -> torch.Tensor:
        copies = self.time_kernel - 1
        if copies == 0:
            return hidden
        behind, ahead = (copies, 0) if self.causal else (copies // 2, copies // 2)
        if self.time_share is not None:
            return self.time_share.with_neighbours(hidden, behind, ahead)
        first, last = hidden[:, :, :1], hidden[:, :, -1:]
        return torch.cat([first] * behind + [hidden] + [last] * ahead, dim=2)


def is_plain_convolution(conv: nn.Conv3d) -> bool:
    """Whether calling `conv` does nothing but convolve with its weights.

    Offloading, layerwise casting, adapters and parametrisations replace the module, its `forward`, or add hooks.
    """
    hooks = (conv._forward_pre_hooks, conv._forward_hooks, conv._backward_pre_hooks, conv._backward_hooks)
    return type(conv) is nn.Conv3d and "forward" not in vars(conv) and not any(hooks)
