"""Joining overlapping tiles of a tensor by linear crossfades."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def crossfade(before: torch.Tensor, after: torch.Tensor, dim: int) -> torch.Tensor:
    """Fade linearly along `dim` from `before` to `after`, two tensors of one shape.

    Position k of n weighs `after` by (k + 1/2) / n, so both count equally often.
    """
    size = after.shape[dim]
    weight = (torch.arange(size, device=after.device, dtype=torch.float32) + 0.5) / size
    shape = [1] * after.ndim
    shape[dim] = size
    return torch.lerp(before, after, weight.reshape(shape).to(after.dtype))


def merge_tiles(tiles: Sequence[torch.Tensor], overlap: int, dim: int) -> torch.Tensor:
    """Join `tiles` along `dim`, each sharing `overlap` positions with its neighbours, which are crossfaded.

    Args:
        tiles: Tensors that differ at most in their size along `dim`, each larger than `overlap`.
        overlap: Positions that neighbours share. More than half a tile is fine: then three or more overlap, and
            each fades into what the tiles before it gave.
        dim: The dimension to join along.

    Returns:
        One tensor, `overlap * (len(tiles) - 1)` shorter along `dim` than all tiles together.
    """
    pieces = []
    tail = tiles[0]
    for tile in tiles[1:]:
        size = tail.shape[dim]
        pieces.append(tail.narrow(dim, 0, size - overlap))
        faded = crossfade(tail.narrow(dim, size - overlap, overlap), tile.narrow(dim, 0, overlap), dim)
        tail = torch.cat([faded, tile.narrow(dim, overlap, tile.shape[dim] - overlap)], dim=dim)
    return torch.cat([*pieces, tail], dim=dim) if pieces else tail
