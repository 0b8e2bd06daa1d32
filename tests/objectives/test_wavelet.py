"""The wavelet loss: what each band counts."""

import pytest
import torch

from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.wavelets import BANDS, haar_3d, inverse_haar_3d
from ltx_diffusers.objectives.vae import VAEPass
from ltx_diffusers.objectives.wavelet import Wavelet


def loss_of_error(error, **settings):
    latents = torch.zeros(len(error), 2, 1, 1, 1)
    objective = Wavelet(**settings)
    return objective(VAEPass(torch.zeros_like(error), error, latents, latents)), objective


@pytest.mark.parametrize("index", range(8))
def test_an_error_in_one_band_costs_that_bands_weight(index):
    bands = torch.zeros(8, 1, 3, 2, 2, 2)
    bands[index] = 0.5
    error = inverse_haar_3d(bands)
    weights = {name: float(number) for number, name in enumerate(BANDS)}
    loss, objective = loss_of_error(error, band_weights=weights)
    torch.testing.assert_close(loss, torch.tensor([0.5 * index / 8]))
    figures = objective.diagnostics()
    torch.testing.assert_close(figures[BANDS[index]], torch.tensor([0.5]))


def test_without_weights_it_is_the_mean_of_all_coefficients():
    error = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss_of_error(error)[0], haar_3d(error).abs().mean((0, 2, 3, 4, 5)))


def test_a_further_level_takes_the_place_of_the_lowest_band():
    error = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    one, _ = loss_of_error(error, band_weights={"LLL": 0.0})
    lowest, _ = loss_of_error(haar_3d(error)[0], band_weights={"LLL": 3.0})
    torch.testing.assert_close(loss_of_error(error, band_weights={"LLL": 3.0}, levels=2)[0], one + lowest)


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="no wavelet band 'HL'"):
        Wavelet({"HL": 1.0})
    with pytest.raises(InputError, match="at least 0"):
        Wavelet({"LLL": -1.0})
    with pytest.raises(InputError, match="a level"):
        Wavelet(levels=0)
