"""Where each token sits in time and space: seconds and pixels (paper section 2.2, "RoPE").

Coordinates are (B, 3, L): row 0 seconds, rows 1 and 2 pixels (y, x), all of the first corner of the token.
The temporal rule depends on the release (`causal_temporal_positioning` in the model's config):

- not causal (0.9.0, 0.9.1): latent frame k starts at frame 8k;
- causal (0.9.5 and later): the first latent frame stands for one frame only, so that latent frame k > 0
  starts at frame 8k - 7, which is max(0, 8k + 1 - 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import InputError
from ..geometry import LTX_RATIOS, CompressionRatios, VideoSize


def token_grid(size: VideoSize, device: torch.device | str | None = None) -> torch.Tensor:
    """Indices (frame, row, column) of every token of a grid: (3, L) in fp32, in (F, H, W) order.

    Raises:
        InputError: If a side is empty.
    """
    if min(size) < 1:
        raise InputError("a grid of tokens needs at least one token on every side", got=tuple(size))
    sides = [torch.arange(side, dtype=torch.float32, device=device) for side in size]
    return torch.stack(torch.meshgrid(*sides, indexing="ij")).flatten(1)


def video_coordinates(
    size: VideoSize,
    *,
    batch_size: int = 1,
    frame_rate: float | torch.Tensor,
    ratios: CompressionRatios = LTX_RATIOS,
    causal: bool,
    first_frame: int = 0,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Coordinates of the tokens of a video.

    Args:
        size: Latent frames, rows and columns.
        batch_size: Number of videos B.
        frame_rate: Frames per second, one for all videos or one each (B,). Values in the memory of an accelerator
            aren't checked, since that would wait for it.
        ratios: Frames, rows and columns of pixels that one latent stands for.
        causal: Whether the first latent frame stands for one frame only: the model's
            `causal_temporal_positioning`.
        first_frame: Frame of the video at which these tokens begin, for tokens of a later piece of it.
        device: Where the result is made.

    Returns:
        (B, 3, L) in fp32: seconds, y in pixels, x in pixels.

    Raises:
        InputError: If the frame rate isn't positive or its shape doesn't fit the batch, or a side is empty.
    """
    index = token_grid(size, device)
    frame = index[0] * ratios.time
    if causal:
        frame = (frame + 1 - ratios.time).clamp(min=0)
    seconds = (frame + first_frame) / _rates(frame_rate, batch_size, device)
    rows = (seconds, index[1] * ratios.height, index[2] * ratios.width)
    return torch.stack([row.expand(batch_size, -1) for row in rows], dim=1)


@dataclass(frozen=True)
class Placement:
    """How a video's latents lie in time and space: what `video_coordinates` needs besides their number.

    Attributes:
        frame_rate: Frames per second, one for all videos or one each (B,).
        causal: The model's `causal_temporal_positioning`.
        ratios: Frames, rows and columns of pixels that one latent stands for.
    """

    frame_rate: float | torch.Tensor
    causal: bool
    ratios: CompressionRatios = LTX_RATIOS

    def coordinates(
        self,
        size: VideoSize,
        *,
        batch_size: int,
        first_frame: int = 0,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        """Coordinates (B, 3, L) of a piece that begins at frame `first_frame`; see `video_coordinates`."""
        return video_coordinates(
            size,
            batch_size=batch_size,
            frame_rate=self.frame_rate,
            ratios=self.ratios,
            causal=self.causal,
            first_frame=first_frame,
            device=device,
        )


def scaled_coordinates(
    size: VideoSize,
    scale: Sequence[float | torch.Tensor] | torch.Tensor,
    *,
    batch_size: int = 1,
    causal_ratio: int | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Coordinates from Diffusers' `rope_interpolation_scale`: seconds and pixels per latent.

    Its first number is 8 / frame rate, so the causal rule needs to be told the 8.

    Args:
        size: Tokens in time, height and width.
        scale: (seconds per latent frame, rows per latent, columns per latent); each may be a tensor (B,).
        batch_size: Number of videos B.
        causal_ratio: Frames per latent frame r where the causal rule holds; latent frame k then starts at
            max(0, k - (r - 1) / r) latent frames. None: the rule doesn't hold.
        device: Where the result is made.

    Returns:
        (B, 3, L) in fp32: seconds, y in pixels, x in pixels.

    Raises:
        InputError: If a side is empty.
    """
    index = token_grid(size, device)
    if causal_ratio is None:
        frame = index[0]
    else:
        # In whole frames first: 8k - 7 is exact, the division by 8 too.
        frame = (index[0] * causal_ratio + 1 - causal_ratio).clamp(min=0) / causal_ratio
    rows = [row * _column(factor, device) for row, factor in zip((frame, *index[1:]), scale, strict=True)]
    return torch.stack([row.expand(batch_size, -1) for row in rows], dim=1)


def _column(value: float | torch.Tensor, device: torch.device | str | None) -> float | torch.Tensor:
    """A number as it is; a tensor of one value per sample (B,) as a column (B, 1) in fp32."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.to(device, torch.float32)
    return value[:, None] if value.ndim else value


def _rates(
    frame_rate: float | torch.Tensor, batch_size: int, device: torch.device | str | None
) -> float | torch.Tensor:
    if isinstance(frame_rate, torch.Tensor):
        if frame_rate.ndim > 1 or (frame_rate.ndim == 1 and frame_rate.shape[0] not in (1, batch_size)):
            raise InputError(
                "frame rates must be one number or one per video",
                got=f"shape {tuple(frame_rate.shape)}",
                expected=f"({batch_size},)",
            )
        checkable = frame_rate.device.type == "cpu" and not torch.compiler.is_compiling()
        if checkable and not (frame_rate > 0).all():
            raise InputError("frame rates must be positive", got=frame_rate.tolist())
    elif not frame_rate > 0:
        raise InputError("the frame rate must be positive", got=frame_rate)
    return _column(frame_rate, device)
