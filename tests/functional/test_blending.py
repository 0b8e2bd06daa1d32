"""Joining overlapping tiles."""

from __future__ import annotations

import pytest
import torch

from ltx_diffusers.functional.blending import crossfade, merge_tiles


def test_a_crossfade_is_linear_and_symmetric():
    before, after = torch.zeros(1, 4), torch.ones(1, 4)
    faded = crossfade(before, after, dim=1)
    assert torch.allclose(faded, torch.tensor([[0.125, 0.375, 0.625, 0.875]]))
    assert torch.allclose(crossfade(after, before, dim=1), faded.flip(1))


@pytest.mark.parametrize("dim", [0, 2])
@pytest.mark.parametrize(("size", "stride"), [(6, 4), (6, 3), (6, 2), (6, 6)])
def test_tiles_of_a_tensor_join_to_that_tensor(dim, size, stride):
    whole = torch.randn(17, 3, 17)
    starts = [start for start in range(0, 17, stride) if start == 0 or start + size - stride < 17]
    tiles = [whole.narrow(dim, start, min(size, 17 - start)) for start in starts]
    assert torch.allclose(merge_tiles(tiles, size - stride, dim), whole)


def test_tiles_that_differ_meet_half_way():
    merged = merge_tiles([torch.zeros(5), torch.ones(4), torch.full((5,), 3.0)], overlap=1, dim=0)
    assert merged.tolist() == [0, 0, 0, 0, 0.5, 1, 1, 2, 3, 3, 3, 3]


def test_one_tile_is_returned_as_it_is():
    tile = torch.randn(3)
    assert merge_tiles([tile], overlap=2, dim=0) is tile
