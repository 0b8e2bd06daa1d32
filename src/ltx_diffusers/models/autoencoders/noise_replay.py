"""Giving every slice of a batch and every tile in time the same injected noise.

In one step, the decoder draws noise once: one map for all frames, and for the whole batch unless there is a
generator per sample. Rewinding the generators keeps that true when the decoder runs piece by piece.
"""

from __future__ import annotations

import torch

from ...functional.generators import Generators


class NoiseReplay:
    """Remembers the states of generators and goes back to them.

    Args:
        generator: A generator, or one per sample, or None, for which there is nothing to rewind.
    """

    def __init__(self, generator: Generators) -> None:
        self.generator = generator
        sources = generator if isinstance(generator, list) else [generator]
        self._states = [(source, source.get_state()) for source in sources if source is not None]

    def rewind(self) -> None:
        """Put every generator back to the state that it had at first."""
        for source, state in self._states:
            source.set_state(state)


def noise_replays(
    generator: Generators, parts: list[slice], device: torch.device, piecewise: bool
) -> list[NoiseReplay]:
    """A replay for each part of a batch; the parts share one, unless each sample has its own generator.

    Args:
        generator: The caller's generator, one per sample, or None.
        parts: Parts of the batch, decoded one after the other.
        device: Where noise is drawn.
        piecewise: Whether noise must be drawn again for further pieces. Without a generator a new one is then
            seeded from torch's global state, which can't be rewound without disturbing others.
    """
    if isinstance(generator, list):
        return [NoiseReplay(generator[part]) for part in parts]
    if generator is None and piecewise:
        generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
    return [NoiseReplay(generator)] * len(parts)
