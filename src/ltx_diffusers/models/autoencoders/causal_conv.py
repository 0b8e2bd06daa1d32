"""3D convolution whose padding in time repeats frames of the video (paper section 2.1).

Causal: k-1 copies of the first frame in front, so that frame f sees frames <= f only.
Not causal: (k-1)/2 copies of the first frame in front and of the last frame behind.
Padding in space is zeros.
"""

from __future__ import annotations

import torch
from torch import nn


class CausalConv3d(nn.Module):
    """Convolution over (frames, height, width) that repeats the border frames in time.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the cubic kernel; odd.
        stride: Stride over (frames, height, width).
        causal: Whether an output frame depends on its own and earlier frames only.
    """

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
        return self.conv(self._pad_time(hidden))

    def _pad_time(self, hidden: torch.Tensor) -> torch.Tensor:
        copies = self.time_kernel - 1
        if copies == 0:
            return hidden
        first = hidden[:, :, :1]
        if self.causal:
            return torch.cat([first] * copies + [hidden], dim=2)
        last = hidden[:, :, -1:]
        return torch.cat([first] * (copies // 2) + [hidden] + [last] * (copies // 2), dim=2)
