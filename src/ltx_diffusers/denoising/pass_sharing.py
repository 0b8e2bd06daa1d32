"""The passes of guidance shared out over processes (CFG parallelism): each runs some, all get every prediction.

Predictions travel as they are, so that all processes combine the same numbers and go on with the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .guidance import Pass


def own_passes(passes: Sequence[Pass], group: dist.ProcessGroup) -> list[Pass]:
    """The passes that this process runs: neighbours, as evenly as it goes, and none if others suffice."""
    owners = _owners(len(passes), group)
    return [run for run, owner in zip(passes, owners, strict=True) if owner == dist.get_rank(group)]


def everyones_predictions(
    own: Mapping[Pass, Tensor], passes: Sequence[Pass], tokens: Tensor, group: dist.ProcessGroup
) -> list[Tensor]:
    """The predictions of all passes, in their order.

    Args:
        own: Those of this process's passes, each (B, L, C) float32.
        passes: All passes, the same on every process.
        tokens: (B, L, C), for the shape and the device.
        group: The processes.
    """
    predictions = []
    for run, owner in zip(passes, _owners(len(passes), group), strict=True):
        prediction = (
            own[run].contiguous() if run in own else tokens.new_empty(tokens.shape, dtype=torch.float32)
        )
        dist.broadcast(prediction, group=group, group_src=owner)
        predictions.append(prediction)
    return predictions


def _owners(count: int, group: dist.ProcessGroup) -> list[int]:
    """Rank of the process that runs each pass."""
    return [index * dist.get_world_size(group) // count for index in range(count)]


def all_agree(yes: bool, device: torch.device, groups: Sequence[dist.ProcessGroup]) -> bool:
    """Whether every process of these groups says yes, for what they must do alike."""
    for group in groups:
        vote = torch.tensor(int(yes), device=device)
        dist.all_reduce(vote, dist.ReduceOp.MIN, group)
        yes = bool(vote)
    return yes
