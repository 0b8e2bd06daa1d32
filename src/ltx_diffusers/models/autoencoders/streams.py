"""Layers of the autoencoder for a video that comes in pieces, with the result that the whole video would give.

Each layer remembers what its convolutions still need: the last frames before the next piece. A convolution that looks
ahead gives its frames late by as many as it looks ahead, and the rest at the end. Pieces may be of any length; a whole
video is a single piece. Tensors are (B, F, H, W, C), as in `kernels`.
"""

from __future__ import annotations

from typing import Protocol

import torch

from . import fewer_products, kernels
from .causal_conv import CausalConv3d, is_plain_convolution
from .resampling import Downsampler3d, Upsampler3d
from .resnet import ResnetBlock3d

Noise = tuple[torch.Tensor, torch.Tensor]
"""The two maps (1 or B, 1, 1, H, W) that a residual block adds."""

# Entries of a prepared kernel that is kept from piece to piece: 17 MB.
_KEPT_KERNEL = 1 << 22


class Stream(Protocol):
    """A layer, or several, for a video in pieces."""

    def push(self, piece: torch.Tensor, last: bool) -> torch.Tensor | None:
        """Take the next frames (B, F, H, W, C), and give those that are then known, None if there are none yet.

        After the piece that is said to be the `last` one, all frames have been given.
        """
        ...


class FrameQueue:
    """Frames that wait to be taken in other numbers than they came in."""

    def __init__(self) -> None:
        self._pieces: list[torch.Tensor] = []

    def __len__(self) -> int:
        return sum(piece.shape[1] for piece in self._pieces)

    def put(self, piece: torch.Tensor) -> None:
        """Add frames (B, F, H, W, C) at the end."""
        self._pieces.append(piece)

    def take(self, count: int) -> list[torch.Tensor]:
        """The next `count` frames, in pieces; what is left of the last piece is copied, so that it can be freed."""
        taken = []
        while count > 0:
            piece = self._pieces.pop(0)
            taken.append(piece[:, :count])
            if piece.shape[1] > count:
                self._pieces.insert(0, piece[:, count:].clone())
            count -= taken[-1].shape[1]
        # Only the frames that wait stay alive, not the pieces that they came with.
        return taken


class ConvStream:
    """A `CausalConv3d` for a video in pieces.

    What comes before it writes a piece straight to its place among the frames that are carried and repeated:
    `open` gives that place, `close` convolves.
    """

    def __init__(self, layer: CausalConv3d) -> None:
        self.layer = layer
        copies = layer.time_kernel - 1
        self._ahead = 0 if layer.causal else copies // 2
        self._behind = copies - self._ahead
        self._carried: torch.Tensor | None = None
        self._padded: torch.Tensor | None = None
        self._prepared: torch.Tensor | None = None

    def push(self, piece: torch.Tensor, last: bool) -> torch.Tensor | None:
        """As `Stream.push`."""
        self.open(piece, piece.shape[1:4], last).copy_(piece)
        return self.close(last)

    def open(
        self, like: torch.Tensor, size: tuple[int, int, int], last: bool, channels: int | None = None
    ) -> torch.Tensor:
        """The place (B, F, H, W, C) for a piece, to be filled before `close`.

        Args:
            like: A tensor (B, ..., C) of the piece's batch, type and device.
            size: Frames, height and width of the piece.
            last: Whether it is the last piece.
            channels: C, if it isn't that of `like`.
        """
        frames, height, width = size
        front = self._behind if self._carried is None else self._carried.shape[1]
        length = front + frames + (self._ahead if last else 0)
        self._padded = like.new_empty(like.shape[0], length, height, width, channels or like.shape[-1])
        self._new = slice(front, front + frames)
        return self._padded[:, self._new]

    def close(self, last: bool) -> torch.Tensor | None:
        """Convolve the piece that was written; gives what `Stream.push` gives."""
        padded, self._padded = self._padded, None
        start, end = self._new.start, self._new.stop
        first = self._carried is None
        if first and last and end - start == 1 and self._can_sum_kernel(padded):
            return kernels.convolve_single(self.layer.conv, padded[:, start:end])
        padded[:, :start] = padded[:, start : start + 1] if first else self._carried
        if last and self._ahead:
            padded[:, end:] = padded[:, end - 1 : end]
        stride = self.layer.conv.stride[0]
        count = max(0, (padded.shape[1] - self.layer.time_kernel) // stride + 1)
        self._carried = None if last else padded[:, count * stride :].clone()
        return self._convolve(padded, last) if count > 0 else None

    def _convolve(self, padded: torch.Tensor, last: bool) -> torch.Tensor:
        conv = self.layer.conv
        if not kernels.pays_with_few_products(conv, padded):
            return kernels.convolve(conv, padded)
        prepared = self._prepared
        if prepared is None:
            prepared = fewer_products.prepared_kernels(conv.weight)
        # Kept for the pieces that follow, unless that takes much memory.
        self._prepared = prepared if not last and prepared.numel() <= _KEPT_KERNEL else None
        return kernels.convolve(conv, padded, prepared)

    def _can_sum_kernel(self, like: torch.Tensor) -> bool:
        """As in `CausalConv3d.forward`."""
        wide = like.dtype.itemsize >= 4 and self.layer.time_kernel > 1
        return wide and is_plain_convolution(self.layer.conv)


class ResnetStream:
    """A `ResnetBlock3d` for a video in pieces.

    Args:
        block: The block.
        time: As `ResnetBlock3d.forward` takes it.
        noise: What the block's `draw_noise` gave.
    """

    def __init__(
        self, block: ResnetBlock3d, time: torch.Tensor | None = None, noise: Noise | None = None
    ) -> None:
        self.block = block
        self._convs = ConvStream(block.conv1), ConvStream(block.conv2)
        self._modulations = _modulations(block, time)
        self._noise = _scaled_noise(block, noise)
        self._waiting = FrameQueue()

    def push(self, piece: torch.Tensor, last: bool) -> torch.Tensor | None:
        """As `Stream.push`."""
        block = self.block
        hidden = piece
        for conv, (shift, factor), noise in zip(self._convs, self._modulations, self._noise, strict=True):
            target = conv.open(hidden, hidden.shape[1:4], last)
            kernels.normalize_into(target, hidden, shift, factor)
            del hidden, target  # only the convolution's own copy is needed any more
            hidden = conv.close(last)
            if hidden is None:
                break
            if noise is not None:
                hidden += noise
        skipped = piece
        if block.conv_shortcut is not None:
            normed = block.norm3(piece.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
            skipped = kernels.convolve(block.conv_shortcut.conv, normed)
        self._waiting.put(skipped)
        if hidden is None:
            return None
        done = 0
        for part in self._waiting.take(hidden.shape[1]):
            hidden[:, done : done + part.shape[1]] += part
            done += part.shape[1]
        return hidden


class UpsamplerStream:
    """An `Upsampler3d` for a video in pieces."""

    def __init__(self, layer: Upsampler3d) -> None:
        self.layer = layer
        self._conv = ConvStream(layer.conv)
        self._waiting = FrameQueue()
        self._begun = False

    def push(self, piece: torch.Tensor, last: bool) -> torch.Tensor | None:
        """As `Stream.push`; of the first frame only what isn't before the video's beginning is given."""
        layer = self.layer
        hidden = self._conv.push(piece, last)
        if layer.residual:
            self._waiting.put(piece)
        if hidden is None:
            return None
        count = hidden.shape[1]
        output = kernels.expand_blocks(hidden, layer.stride)
        del hidden
        if layer.residual:
            done = 0
            for part in self._waiting.take(count):
                blocks = kernels.expand_blocks(part, layer.stride)
                place = output[:, done : done + blocks.shape[1]].unflatten(-1, (layer.repeats, -1))
                place += blocks.unsqueeze(-2)
                done += blocks.shape[1]
        if not self._begun:
            self._begun = True
            output = output[:, layer.stride[0] - 1 :]
        return output


class DownsamplerStream:
    """A `Downsampler3d` for a video in pieces."""

    def __init__(self, layer: Downsampler3d) -> None:
        self.layer = layer
        self._conv = ConvStream(layer.conv)
        self._inputs, self._outputs = FrameQueue(), FrameQueue()
        self._begun = False

    def push(self, piece: torch.Tensor, last: bool) -> torch.Tensor | None:
        """As `Stream.push`."""
        step = self.layer.stride[0]
        if not self._begun:
            self._begun = True
            piece = torch.cat([piece[:, :1]] * (step - 1) + [piece], dim=1)
        self._inputs.put(piece)
        hidden = self._conv.push(piece, last)
        if hidden is not None:
            self._outputs.put(hidden)
        count = len(self._outputs) // step * step
        if count == 0:
            return None
        output = kernels.gather_blocks(_joined(self._outputs.take(count)), self.layer.stride)
        blocks = kernels.gather_blocks(_joined(self._inputs.take(count)), self.layer.stride)
        output += blocks.unflatten(-1, (-1, self.layer.group_size)).mean(dim=-1)
        return output


class SequenceStream:
    """Layers one after the other."""

    def __init__(self, layers: list[Stream]) -> None:
        self.layers = layers

    def push(self, piece: torch.Tensor, last: bool) -> torch.Tensor | None:
        """As `Stream.push`."""
        for layer in self.layers:
            piece = layer.push(piece, last)
            if piece is None:
                return None
        return piece


class GatheringStream:
    """A stream that gets its frames together: larger pieces take less time for a frame.

    Args:
        stream: Takes the frames (B, F, ...).
        frames: How many it gets at once, if no single piece has more.
    """

    def __init__(self, stream: Stream, frames: int) -> None:
        self._stream, self._frames = stream, frames
        self._waiting: list[torch.Tensor] = []

    def push(self, piece: torch.Tensor, last: bool) -> torch.Tensor | None:
        """As `Stream.push`."""
        count = sum(each.shape[1] for each in self._waiting) + piece.shape[1]
        before = None
        if self._waiting and count > self._frames:
            before, count = self._push_waiting(last=False), piece.shape[1]
        self._waiting.append(piece)
        after = self._push_waiting(last) if last or count >= self._frames else None
        known = [output for output in (before, after) if output is not None]
        return _joined(known) if known else None

    def _push_waiting(self, last: bool) -> torch.Tensor | None:
        piece, self._waiting = _joined(self._waiting), []
        return self._stream.push(piece, last)


def _joined(pieces: list[torch.Tensor]) -> torch.Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def _modulations(
    block: ResnetBlock3d, time: torch.Tensor | None
) -> list[tuple[torch.Tensor | None, torch.Tensor | None]]:
    """Shift and factor, each (B, C) in fp32, after either norm."""
    if block.scale_shift_table is None:
        return [(None, None)] * 2
    vectors = (time + block.scale_shift_table[..., None, None, None]).flatten(2).float()
    shift1, scale1, shift2, scale2 = vectors.unbind(dim=1)
    return [(shift1, 1 + scale1), (shift2, 1 + scale2)]


def _scaled_noise(block: ResnetBlock3d, noise: Noise | None) -> list[torch.Tensor | None]:
    """What is added to each convolution's output, (1 or B, 1, H, W, C), or None."""
    scales = (block.per_channel_scale1, block.per_channel_scale2)
    if noise is None:
        return [None, None]
    return [
        (drawn * scale[:, None]).permute(0, 2, 3, 4, 1) for drawn, scale in zip(noise, scales, strict=True)
    ]
