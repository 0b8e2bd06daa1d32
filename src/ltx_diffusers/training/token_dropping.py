"""Random token dropping: samples of about equal token counts get one length (paper, section 2.3).

Neither padding nor packing is needed then. The tokens that stay keep their coordinates, so that for the model a video
with dropped tokens is a video seen in part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..functional.draws import Draws


def tokens_kept(counts: Sequence[int], max_share: float, draw: float) -> int | None:
    """How many tokens of its video each sample of a step keeps.

    Args:
        counts: Token counts of the samples' videos.
        max_share: Largest share that may be left out.
        draw: A number from [0, 1): the length lies between the shortest allowed and the shortest video's, evenly.

    Returns:
        The number, or None if no length suits all: then each keeps all of its tokens.
    """
    longest = max(counts)
    least, most = max(1, math.ceil((1 - max_share) * longest)), min(counts)
    if least > most:
        return None
    return least + int(draw * (most - least + 1))


def group_by_length(counts: Sequence[int], max_share: float) -> list[list[int]]:
    """Which of several token counts can share a batch: groups of positions, from the shortest to the longest.

    In each the shortest is no more than `max_share` below the longest.
    """
    groups: list[list[int]] = []
    for position in sorted(range(len(counts)), key=lambda index: counts[index]):
        if groups and counts[groups[-1][0]] >= math.ceil((1 - max_share) * counts[position]):
            groups[-1].append(position)
        else:
            groups.append([position])
    return groups


def kept_positions(num_target: int, num_extra: int, keep: int, draws: Draws) -> Tensor:
    """Positions (B, keep + num_extra) of the tokens that stay, in rising order; extra tokens all stay.

    Args:
        num_target: Tokens of the video, which stand first.
        num_extra: Tokens of conditions behind them.
        keep: How many of the video's tokens stay, the same for all samples; which, is drawn for each.
        draws: Source of randomness.
    """
    order = draws.uniform((num_target,)).argsort(dim=1)[:, :keep].sort(dim=1).values
    extra = torch.arange(num_target, num_target + num_extra, device=order.device)
    return torch.cat([order, extra.expand(order.shape[0], -1)], dim=1)
