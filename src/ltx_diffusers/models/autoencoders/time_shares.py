"""Decoding a video on several processes, each with some neighbouring frames of every layer.

A convolution looks a frame or two to either side. Where that leaves a process's share, it gets its neighbour's frames
in place of copies of its own, so that all of them together compute what one would: nothing twice, and nothing blended.
Each holds its share of the activations only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ...errors import InputError
from ...functional.generators import Generators
from .causal_conv import CausalConv3d
from .decoder import Decoder3d
from .layout import decoder_layout
from .resampling import Upsampler3d


@dataclass(frozen=True)
class TimeShare:
    """A process's place in the row of those that share a video.

    Attributes:
        group: The processes; the first has the first frames.
        rank: This one's place.
        processes: How many they are.
    """

    group: dist.ProcessGroup
    rank: int
    processes: int

    @property
    def is_first(self) -> bool:
        """Whether the video begins in this share."""
        return self.rank == 0

    def with_neighbours(self, hidden: torch.Tensor, behind: int, ahead: int) -> torch.Tensor:
        """A share (B, C, f, H, W) with frames of its neighbours, or copies of the video's first or last frame.

        Args:
            hidden: The share, of at least as many frames as are asked for.
            behind: Frames before it.
            ahead: Frames after it.
        """
        first, last = hidden[:, :, :1], hidden[:, :, -1:]
        # Contiguous, as what the neighbours send is: the memory is sent, whatever the layout of either side.
        before = torch.cat([first] * behind, dim=2).contiguous() if behind else None
        after = torch.cat([last] * ahead, dim=2).contiguous() if ahead else None
        exchanges = []
        if self.rank + 1 < self.processes:
            exchanges += self._exchange(self.rank + 1, hidden[:, :, -behind:] if behind else None, after)
        if self.rank > 0:
            exchanges += self._exchange(self.rank - 1, hidden[:, :, :ahead] if ahead else None, before)
        for transfer in dist.batch_isend_irecv(exchanges):
            transfer.wait()
        return torch.cat([part for part in (before, hidden, after) if part is not None], dim=2)

    def _exchange(
        self, rank: int, given: torch.Tensor | None, taken: torch.Tensor | None
    ) -> list[dist.P2POp]:
        """What is sent to a neighbour and received from it."""
        peer = dist.get_global_rank(self.group, rank)
        exchanges = []
        if given is not None:
            exchanges.append(dist.P2POp(dist.isend, given.contiguous(), peer, self.group))
        if taken is not None:
            exchanges.append(dist.P2POp(dist.irecv, taken, peer, self.group))
        return exchanges


def decode_together(
    decoder: Decoder3d,
    latents: torch.Tensor,
    group: dist.ProcessGroup,
    temb: torch.Tensor | None = None,
    generator: Generators = None,
) -> torch.Tensor:
    """Decode latents (B, C, F', H, W), the same on all processes, which all get the video of `Decoder3d.forward`.

    A video of fewer latent frames than can be shared out is decoded by each process alone.

    Args:
        decoder: The decoder; without gradients.
        latents: The latents.
        group: The processes.
        temb: Noise levels (B,), as `Decoder3d.forward` takes them.
        generator: Source of injected noise, which must give all processes the same.
    """
    processes, rank = dist.get_world_size(group), dist.get_rank(group)
    copies = decoder.conv_in.time_kernel - 1
    least = copies if decoder.conv_in.causal else copies // 2
    if processes == 1 or latents.shape[2] < processes * least:
        return decoder(latents, temb, generator)
    shares = latents.tensor_split(processes, dim=2)
    with _shared(decoder, TimeShare(group, rank, processes)):
        own = decoder(shares[rank], temb, generator)
    rate = decoder_layout(decoder, 1, 1)[-1].rate
    lengths = [share.shape[2] * rate for share in shares]
    lengths[0] -= rate - 1
    parts = []
    for owner, length in enumerate(lengths):
        part = own if owner == rank else own.new_empty(*own.shape[:2], length, *own.shape[3:])
        parts.append(part.contiguous())
        dist.broadcast(parts[-1], group=group, group_src=owner)
    return torch.cat(parts, dim=2)


@contextmanager
def _shared(decoder: Decoder3d, share: TimeShare) -> Iterator[None]:
    """A context in which the layers know which share of the frames they see."""
    layers = [layer for layer in decoder.modules() if isinstance(layer, (CausalConv3d, Upsampler3d))]
    for layer in layers:
        layer.time_share = share
    try:
        yield
    finally:
        for layer in layers:
            layer.time_share = None


class DecodesOnManyProcesses:
    """What `AutoencoderKLLTX` does to share the decoding of a video."""

    _decoding_group: dist.ProcessGroup | None = None

    def enable_parallel_decoding(self, group: dist.ProcessGroup | None = None) -> None:
        """Decode each video on several processes, each with its share of the frames.

        Every process then decodes the same latents and gets the whole video, equal to what one gives. Tiles go
        together with it: each tile is shared out. With gradients, every process decodes by itself.

        Args:
            group: The processes; all that torchrun started if None.

        Raises:
            InputError: If the processes aren't connected, or there is a memory budget, which goes by other means.
        """
        if not dist.is_available() or not dist.is_initialized():
            raise InputError(
                "the processes aren't connected",
                fix="start them with torchrun and call torch.distributed.init_process_group() first",
            )
        if self._memory_budget is not None:
            raise _budgeted()
        self._decoding_group = dist.group.WORLD if group is None else group

    def disable_parallel_decoding(self) -> None:
        """Decode on this process alone again."""
        self._decoding_group = None

    def enable_memory_budget(self, budget: str | int) -> None:
        """As `CodesInBoundedMemory.enable_memory_budget`.

        Args:
            budget: Bytes, or text such as "6GB" or "500MB".

        Raises:
            InputError: If it isn't a positive size, or videos are decoded on several processes.
        """
        if self._decoding_group is not None:
            raise _budgeted()
        super().enable_memory_budget(budget)

    @property
    def parallel_groups(self) -> list[dist.ProcessGroup]:
        """The groups that this process shares work with; empty if it is alone."""
        return [] if self._decoding_group is None else [self._decoding_group]

    def decodes_in_pieces(self, z: torch.Tensor) -> bool:
        """As `CodesInBoundedMemory.decodes_in_pieces`; a shared video comes as a whole."""
        return self._decoding_group is None and super().decodes_in_pieces(z)

    def _decoder_for(self, latents: torch.Tensor, tiling: Any) -> tuple[Any, Any]:
        """How to decode latents like these."""
        if self._decoding_group is None or torch.is_grad_enabled():
            return super()._decoder_for(latents, tiling)

        def decode(z: torch.Tensor, temb: torch.Tensor | None, generator: Generators) -> torch.Tensor:
            return decode_together(self.decoder, z, self._decoding_group, temb, generator)

        return decode, tiling


def _budgeted() -> InputError:
    return InputError(
        "a memory budget and decoding on several processes don't go together",
        fix="use enable_tiling() with the latter, or disable one of the two",
    )
