"""The loss by kinds of samples: by noise level, by bucket, by whatever a task sorts them into."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

BIN_PREFIX = "bin/"
"""Of the names under which a task's module returns the numbers of its samples' bins."""


class LossBins:
    """Gathers losses by bin between two log lines.

    Args:
        names: For each kind of bin, the names of its bins; numbers stand for those of a kind without names.
    """

    def __init__(self, names: Mapping[str, Sequence[str]] | None = None) -> None:
        self._names = names or {}
        self._sums: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0])

    def add(self, kind: str, bins: torch.Tensor, losses: torch.Tensor) -> None:
        """Count samples.

        Args:
            kind: What is told apart, such as "timestep".
            bins: Numbers of the samples' bins, (N,).
            losses: Their losses, (N,).
        """
        for number, loss in zip(bins.tolist(), losses.tolist(), strict=True):
            entry = self._sums[kind, int(number)]
            entry[0] += loss
            entry[1] += 1

    def figures(self) -> dict[str, float]:
        """Mean loss in each bin that got samples since the last call, as "loss_by_KIND/NAME"."""
        result = {}
        for (kind, number), (total, count) in sorted(self._sums.items()):
            names = self._names.get(kind)
            result[f"loss_by_{kind}/{names[number] if names else number}"] = total / count
        self._sums.clear()
        return result


def noise_level_bins(levels: torch.Tensor, count: int = 10) -> torch.Tensor:
    """Numbers of the bins (B,) that noise levels (B,) in [0, 1] fall in, if [0, 1] is divided evenly."""
    return (levels * count).long().clamp(0, count - 1)


def noise_level_names(count: int = 10) -> list[str]:
    """Names of the bins of `noise_level_bins`: "0-0.1" and so on."""
    return [f"{number / count:.2g}-{(number + 1) / count:.2g}" for number in range(count)]
