"""Reading ahead: the same batches, errors in their turn, nothing beyond the end."""

from __future__ import annotations

import threading

import pytest

from ltx_diffusers.training.read_ahead import ReadAhead


@pytest.mark.parametrize("steps", [0, 1, 3, 50])
def test_batches_are_those_of_their_steps(steps: int) -> None:
    asked = []
    ahead = ReadAhead(lambda *key: asked.append(key) or key, steps, 10)
    order = [0, 1, 2, 3, 7, 8, 2, 3, 4, 5, 6, 7, 8, 9, 9, 11]  # a resumed run may start anywhere
    assert [ahead(step, 1, 2) for step in order] == [(step, 1, 2) for step in order]
    assert max(step for step, _, _ in asked if step != 11) == 9


def test_the_next_batch_is_read_while_the_first_is_used() -> None:
    second = threading.Event()

    def read(step: int, rank: int, world_size: int) -> int:
        if step == 1:
            second.set()
        return step

    ahead = ReadAhead(read, 1, 5)
    assert ahead(0, 0, 1) == 0
    assert second.wait(10)


def test_a_step_in_several_shares_reads_each_once() -> None:
    asked = []
    ahead = ReadAhead(lambda *key: asked.append(key) or key, 2, 6)
    for step in range(6):
        for share in range(3):
            assert ahead(step, share, 3) == (step, share, 3)
    assert sorted(asked) == [(step, share, 3) for step in range(6) for share in range(3)]


def test_an_error_comes_up_at_its_own_step() -> None:
    def read(step: int, rank: int, world_size: int) -> int:
        if step == 2:
            raise OSError("gone")
        return step

    ahead = ReadAhead(read, 3, 5)
    assert [ahead(step, 0, 1) for step in range(2)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        ahead(2, 0, 1)
    assert ahead(3, 0, 1) == 3
