"""Draws of a training pass: they belong to the sample, whatever batch it is in."""

import torch

from ltx_diffusers.functional.draws import Draws


def drawn(draws: Draws) -> torch.Tensor:
    """All that a pass may draw for its samples, in this order, (B, 9)."""
    parts = [draws.normal((2, 3)).flatten(1), draws.uniform()[:, None], draws.normal((2,))]
    return torch.cat(parts, dim=1)


def test_a_sample_gets_the_same_in_any_batch():
    whole = drawn(Draws.of_samples(7, 3, range(10, 14)))
    for numbers in ([10], [11, 12], [13, 10]):
        part = drawn(Draws.of_samples(7, 3, numbers))
        assert torch.equal(part, whole[[number - 10 for number in numbers]])


def test_samples_steps_and_seeds_differ_and_what_is_shared_is_the_same():
    assert len(drawn(Draws.of_samples(0, 0, range(64))).flatten().unique()) == 64 * 9
    assert not torch.equal(drawn(Draws.of_samples(0, 0, [1])), drawn(Draws.of_samples(1, 0, [1])))

    def shared(seed: int, step: int, numbers: list[int]) -> torch.Tensor:
        return torch.rand(4, generator=Draws.of_samples(seed, step, numbers).shared)

    assert torch.equal(shared(0, 5, [1, 2]), shared(0, 5, [3]))
    assert not torch.equal(shared(0, 5, [1]), shared(0, 6, [1]))
    own = torch.rand(4, generator=Draws.of_samples(0, 0, [5]).samples[0])
    assert not torch.equal(own, shared(0, 5, [1]))


def test_numbers_have_the_distributions_they_name():
    draws = Draws.of_samples(0, 0, range(4000))
    normal, uniform = draws.normal((3,)), draws.uniform()
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03
    assert uniform.shape == (4000,) and uniform.min() >= 0 and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.02 and abs(uniform.std() - 12**-0.5) < 0.01


def test_one_generator_can_be_split():
    def split(seed: int) -> torch.Tensor:
        return drawn(Draws.split(torch.Generator().manual_seed(seed), 3))

    first = split(0)
    assert torch.equal(first, split(0)) and not torch.equal(first, split(1))
    assert len(first.flatten().unique()) == first.numel()
