"""The Haar transform: orthonormal, invertible, and with the bands where their names say."""

import pytest
import torch

from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.wavelets import BANDS, haar_3d, inverse_haar_3d, with_even_frames


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_inverse_gives_the_video_back():
    video = draw(2, 3, 4, 6, 8)
    bands = haar_3d(video)
    assert bands.shape == (8, 2, 3, 2, 3, 4)
    torch.testing.assert_close(inverse_haar_3d(bands), video, atol=1e-14, rtol=0)
    torch.testing.assert_close(haar_3d(inverse_haar_3d(bands)), bands, atol=1e-14, rtol=0)


def test_energy_is_kept():
    video = draw(1, 3, 4, 4, 4)
    torch.testing.assert_close(haar_3d(video).square().sum(), video.square().sum())


@pytest.mark.parametrize("index", range(8))
def test_each_band_holds_what_its_name_says(index):
    signs = torch.tensor([1.0, -1.0])
    axes = [signs if letter == "H" else torch.ones(2) for letter in BANDS[index]]
    video = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    expected = torch.zeros(8)
    expected[index] = 8**0.5
    torch.testing.assert_close(haar_3d(video[None, None])[:, 0, 0, 0, 0, 0], expected)


def test_a_picture_has_no_high_band_in_time():
    picture = draw(1, 3, 1, 4, 4)
    bands = haar_3d(with_even_frames(picture))
    assert torch.equal(bands[4:], torch.zeros_like(bands[4:]))
    assert with_even_frames(draw(1, 3, 9, 4, 4)).shape[2] == 10
    even = draw(1, 3, 4, 4, 4)
    assert with_even_frames(even) is even


def test_odd_sizes_and_missing_bands_are_refused():
    with pytest.raises(InputError, match="even"):
        haar_3d(draw(1, 3, 2, 5, 4))
    with pytest.raises(InputError, match="all sub-bands"):
        inverse_haar_3d(draw(7, 1, 3, 1, 2, 2))
