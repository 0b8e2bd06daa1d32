"""Local correlation against pairs counted one by one, and on signals whose value is known."""

from itertools import combinations

import pytest
import torch

from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.local_correlation import (
    local_correlation,
    standardize_channels,
    window_correlation,
)


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def vectors_of_window(latents):
    centred = latents - latents.mean(0, keepdim=True)
    vectors = centred.flatten(1)
    return vectors / vectors.norm(dim=0)


def test_it_is_the_mean_pearson_correlation_of_pairs():
    latents = draw(2, 6, 2, 4, 2)
    for sample in range(2):
        values = []
        for row in (0, 2):
            window = latents[sample, :, :, row : row + 2].flatten(1).T.numpy()
            table = torch.corrcoef(torch.from_numpy(window))
            values += [table[i, j] for i, j in combinations(range(8), 2)]
        expected = torch.stack(values).mean()
        torch.testing.assert_close(
            window_correlation(latents, (2, 2, 2))[sample], expected, atol=1e-7, rtol=0
        )


def test_the_windows_constant_part_holds_its_share_of_the_energy():
    """For N unit vectors with mean correlation rho, the window's DC has (1 + (N - 1) rho) / N of the energy."""
    latents = draw(1, 16, 2, 2, 2)
    vectors = vectors_of_window(latents[0])
    share = vectors.mean(1).square().sum() * 8 / vectors.square().sum()
    rho = window_correlation(latents, (2, 2, 2))[0]
    torch.testing.assert_close(share, (1 + 7 * rho) / 8, atol=1e-7, rtol=0)


def test_noise_has_none_and_constant_windows_have_all_of_it():
    noise = draw(8, 48, 5, 8, 8)
    assert local_correlation(noise).abs().max() < 0.02
    blocks = draw(1, 48, 3, 4, 4)
    first, others = blocks[:, :, :1], blocks[:, :, 1:]
    constant = torch.cat([first, others.repeat_interleave(2, dim=2)], dim=2)
    constant = constant.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    torch.testing.assert_close(local_correlation(constant), torch.ones(1, dtype=torch.float64))


def test_averages_weigh_the_first_frame_differently():
    latents = standardize_channels(draw(1, 8, 5, 2, 2))
    first = window_correlation(latents[:, :, :1], (1, 2, 2))
    others = window_correlation(latents[:, :, 1:], (2, 2, 2))
    for average, share in (("average", 1 / 2), ("frames", 1 / 5), ("windows", 1 / 3)):
        value = local_correlation(latents, average=average)
        torch.testing.assert_close(value, share * first + (1 - share) * others, atol=1e-6, rtol=1e-6)
    assert local_correlation(latents[:, :, :1]).shape == (1,)


def test_statistics_carry_no_gradient():
    latents = draw(2, 4, 1, 2, 2).requires_grad_()
    standardize_channels(latents).sum().backward()
    std = latents.detach().std((0, 2, 3, 4), unbiased=False)
    expected = (1 / (std + 1e-6))[None, :, None, None, None].expand_as(latents)
    torch.testing.assert_close(latents.grad, expected)


def test_windows_that_do_not_fill_the_latents_are_refused():
    with pytest.raises(InputError, match="must fill"):
        local_correlation(draw(1, 4, 2, 2, 2))
    with pytest.raises(InputError, match="must fill"):
        local_correlation(draw(1, 4, 3, 3, 2))
    with pytest.raises(InputError, match="two latents"):
        window_correlation(draw(1, 4, 2, 2, 2), (1, 1, 1))
