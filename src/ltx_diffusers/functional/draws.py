"""The random numbers of a training pass, tied to its samples.

Each sample draws from a generator of its own, which follows from the run's seed and the sample's number alone. How a
batch is divided among processes then doesn't change what any of its samples gets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

_OF_A_SAMPLE, _OF_A_STEP = 1, 2
"""First words of the two kinds of seeds, so that step n and sample n don't share theirs."""


class Draws:
    """Sources of random numbers of one training pass.

    Args:
        samples: A generator for each sample of the batch.
        shared: One for what is drawn once for the whole batch; it is the same on all processes.
    """

    def __init__(self, samples: Sequence[torch.Generator], shared: torch.Generator) -> None:
        self.samples = list(samples)
        self.shared = shared

    @classmethod
    def of_samples(
        cls, seed: int, step: int, numbers: Iterable[int], device: torch.device | str = "cpu"
    ) -> Draws:
        """The draws of certain samples at a step of a run.

        Args:
            seed: Of the run.
            step: Step of the run, from 0; seeds what is shared.
            numbers: The samples' numbers, which no other samples of the run have.
            device: Where numbers are drawn.
        """
        samples = [_generator(device, _OF_A_SAMPLE, seed, number) for number in numbers]
        return cls(samples, _generator(device, _OF_A_STEP, seed, step))

    @classmethod
    def split(cls, generator: torch.Generator, count: int) -> Draws:
        """Draws of `count` samples that all follow from one generator, which goes on by `count` + 1 numbers."""
        seeds = torch.randint(2**62, (count + 1,), generator=generator, device=generator.device).tolist()
        *samples, shared = (torch.Generator(generator.device).manual_seed(seed) for seed in seeds)
        return cls(samples, shared)

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal numbers (B, *shape)."""
        return self._stack(torch.randn, shape)

    def uniform(self, shape: Sequence[int] = ()) -> torch.Tensor:
        """Numbers in [0, 1), (B, *shape)."""
        return self._stack(torch.rand, shape)

    def _stack(self, draw: object, shape: Sequence[int]) -> torch.Tensor:
        return torch.stack(
            [draw(tuple(shape), generator=source, device=source.device) for source in self.samples]
        )


def _generator(device: torch.device | str, *words: int) -> torch.Generator:
    seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device).manual_seed(seed)
