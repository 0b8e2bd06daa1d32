"""PSNR and SSIM against scikit-image and closed forms."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ltx_diffusers.errors import InputError, RegistrationError, UnknownNameError
from ltx_diffusers.evaluation import flicker, measures, psnr, ssim
from ltx_diffusers.evaluation.metrics import flicker_of_steps


@pytest.fixture
def videos() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.random((3, 24, 37, 3))
    noise = rng.normal(0, 1, reference.shape) * np.array([0.02, 0.1, 0.4])[:, None, None, None]
    return reference, np.clip(reference + noise, 0, 1)


def test_psnr_is_scikit_images(videos):
    expected = [peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(*videos, strict=True)]
    np.testing.assert_allclose(psnr(*videos), expected, rtol=1e-12)


def test_psnr_of_a_constant_shift_is_known():
    assert psnr(np.zeros((1, 4, 4, 3)), np.full((1, 4, 4, 3), 0.1)) == pytest.approx([20.0])


def test_equal_frames_have_infinite_psnr_and_ssim_one(videos):
    assert np.isinf(psnr(videos[0], videos[0])).all()
    np.testing.assert_allclose(ssim(videos[0], videos[0]), 1)


def test_ssim_is_scikit_images(videos):
    expected = [
        structural_similarity(
            a, b, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in zip(*videos, strict=True)
    ]
    np.testing.assert_allclose(ssim(*videos), expected, atol=1e-9)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_types_of_video_agree(videos, measure):
    reference, other = ((video * 255).round().astype(np.uint8) for video in videos)
    expected = measure(reference / 255, other / 255)
    np.testing.assert_allclose(measure(reference, other), expected)
    np.testing.assert_allclose(measure(torch.from_numpy(reference), other / 255), expected)
    np.testing.assert_allclose(measure(reference[1], other[1]), expected[1:2])
    coarse = torch.from_numpy(other / 255).bfloat16()
    np.testing.assert_allclose(measure(reference, coarse), expected, rtol=0.02)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_unequal_or_odd_shapes_are_refused(measure):
    video = np.zeros((2, 16, 16, 3))
    with pytest.raises(InputError, match="differ in shape"):
        measure(video, video[:1])
    with pytest.raises(InputError, match=r"expected \(F, H, W, 3\)"):
        measure(video[..., :1], video[..., :1])


def test_ssim_refuses_frames_smaller_than_its_window():
    with pytest.raises(InputError, match="11x11"):
        ssim(np.zeros((1, 10, 30, 3)), np.zeros((1, 10, 30, 3)))


def test_the_registry_holds_both_and_refuses_what_cant_be_called():
    assert measures.get("psnr") is psnr
    assert measures.get("ssim") is ssim
    with pytest.raises(UnknownNameError, match="psnr"):
        measures.get("psnrr")
    with pytest.raises(RegistrationError, match="can't be called"):
        measures.register("three")(3)


@pytest.mark.parametrize("name", measures.list())
def test_every_measure_gives_a_number_or_one_per_frame(videos, name):
    value = np.asarray(measures.get(name)(*videos), np.float64)
    assert value.shape in ((), (3,))
    assert np.isfinite(value).all()


def test_the_package_imports_no_torch():
    code = (
        "import sys, ltx_diffusers.evaluation, ltx_diffusers.evaluation.judge; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_flicker_is_what_changes_between_frames_otherwise_than_in_the_reference():
    rng = np.random.default_rng(0)
    reference = rng.uniform(0.2, 0.8, (5, 8, 8, 3))
    assert flicker(reference, reference) == 0
    assert flicker(reference, reference + 0.1) == pytest.approx(0)  # an error that stays isn't flicker
    unsteady = reference.copy()
    unsteady[1::2] += 0.1
    assert flicker(reference, unsteady) == pytest.approx(0.1 * 255)
    once = reference.copy()
    once[2] -= 0.2
    np.testing.assert_allclose(flicker_of_steps(reference, once), [0, 51, 51, 0], atol=1e-9)
    assert flicker(reference[:1], once[:1]) == 0
    assert measures.get("flicker") is flicker


def test_flicker_of_a_frozen_copy_is_the_motion_it_lacks():
    reference = np.zeros((3, 4, 4, 3))
    reference[1], reference[2] = 0.1, 0.4
    np.testing.assert_allclose(flicker_of_steps(reference, np.zeros_like(reference)), [25.5, 76.5])
