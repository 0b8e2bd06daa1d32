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
        overlap: Positions that neighbours share; 0 just concatenates.
        dim: The dimension to join along.

    Returns:
        One tensor, `overlap * (len(tiles) - 1)` shorter along `dim` than all tiles together.
    """
    if len(tiles) == 1:
        return tiles[0]
    if overlap == 0:
        return torch.cat(list(tiles), dim=dim)
    pieces = []
    start = 0
    for i, tile in enumerate(tiles):
        size = tile.shape[dim]
        if i > 0:
            end_of_last = tiles[i - 1].narrow(dim, tiles[i - 1].shape[dim] - overlap, overlap)
            pieces.append(crossfade(end_of_last, tile.narrow(dim, 0, overlap), dim))
        stop = size - overlap if i + 1 < len(tiles) else size
        pieces.append(tile.narrow(dim, start, stop - start))
        start = overlap
    return torch.cat(pieces, dim=dim)
