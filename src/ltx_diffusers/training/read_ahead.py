"""Batches that are read while the model still works on earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Read = Callable[[int, int, int], Any]
"""Reads a rank's share of a step: called with step, rank and number of processes, it gives the same each time."""


class ReadAhead:
    """Reads the batches of the next steps in threads; decoding doesn't hold Python's lock.

    What is read doesn't depend on it: a batch follows from its step alone.

    Args:
        read: Reads a batch. Called from several threads at once.
        steps: How many steps ahead, each in a thread; 0 reads each batch when it is asked for.
        total_steps: Where the run ends.
    """

    def __init__(self, read: Read, steps: int, total_steps: int) -> None:
        self.read = read
        self.steps = steps
        self.total_steps = total_steps
        self._pool = ThreadPoolExecutor(steps, "read-ahead") if steps else None
        self._coming: dict[tuple[int, int, int], Future] = {}

    def __call__(self, step: int, rank: int, world_size: int) -> Any:
        """The batch of a step; errors of its reading come up here, not before."""
        if self._pool is None:
            return self.read(step, rank, world_size)
        wanted = (step, rank, world_size)
        following = [
            (later, rank, world_size) for later in range(step, min(step + self.steps + 1, self.total_steps))
        ]
        for key in list(self._coming):  # of a process's other shares, those of these steps are still wanted
            if not step <= key[0] <= step + self.steps:
                self._coming.pop(key).cancel()
        for key in following:
            if key not in self._coming:
                self._coming[key] = self._pool.submit(self.read, *key)
        if wanted not in self._coming:  # beyond the end
            return self.read(*wanted)
        return self._coming.pop(wanted).result()
