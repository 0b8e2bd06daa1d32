"""The report on reconstructions, of autoencoders whose errors are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.linear_autoencoders import Lossless
from tiny import vae_config

from ltx_diffusers import AutoencoderKLLTX
from ltx_diffusers.data.clips import Clip
from ltx_diffusers.errors import InputError
from ltx_diffusers.evaluation import measures
from ltx_diffusers.evaluation.latent_report import MOST_DB
from ltx_diffusers.evaluation.reconstruction_report import DECODE_LEVELS, measure_reconstruction
from ltx_diffusers.evaluation.resources import Usage, memory_in_use
from ltx_diffusers.evaluation.vae_adapter import VideoAutoencoder


def clips(count: int = 3, frames: int = 4, side: int = 32) -> list[Clip]:
    rng = np.random.default_rng(0)
    return [
        Clip(
            frames=rng.uniform(0.3, 0.7, (frames, side, side, 3)).astype(np.float32),
            caption="",
            name=f"clip{index}.mp4",
        )
        for index in range(count)
    ]


def test_a_perfect_autoencoder_has_no_error():
    report, shown = measure_reconstruction(VideoAutoencoder(Lossless()), clips(), num_shown=2)
    figures = report["figures"]["default"]
    assert figures["psnr"]["mean"] == figures["psnr"]["worst"] == MOST_DB
    assert figures["ssim"]["mean"] == pytest.approx(1)
    assert figures["flicker"]["mean"] == 0
    assert set(report["figures"]) == {"default"}
    assert set(figures) == set(measures.list())
    assert report == json.loads(json.dumps(report, allow_nan=False))
    assert [clip.original.shape for clip in shown] == [(4, 32, 32, 3)] * 2
    np.testing.assert_array_equal(shown[0].original, shown[0].copy)


def test_known_errors_are_found_by_frame():
    """In [-1, 1] an error of 20/127.5 on every second frame is 20 grey levels: a known PSNR, a flicker of 20."""
    model = Lossless(flicker=20 / 127.5)
    report, _ = measure_reconstruction(VideoAutoencoder(model), clips())
    expected = 20 * np.log10(255 / 20)
    by_frame = report["by_frame"]["default"]
    assert by_frame["psnr"] == pytest.approx([MOST_DB, expected, MOST_DB, expected], abs=1e-3)
    assert by_frame["flicker"] == pytest.approx([20, 20, 20], abs=1e-3)
    figures = report["figures"]["default"]
    assert figures["psnr"]["mean"] == pytest.approx((MOST_DB + expected) / 2, abs=1e-3)
    assert figures["flicker"]["worst"] == pytest.approx(20, abs=1e-3)
    steady, _ = measure_reconstruction(VideoAutoencoder(Lossless(repeat_error=20 / 127.5)), clips())
    assert steady["figures"]["default"]["flicker"]["mean"] == pytest.approx(0, abs=1e-4)
    assert steady["figures"]["default"]["psnr"]["mean"] == pytest.approx(expected, abs=1e-3)


def test_the_worst_clips_are_shown_worst_first():
    class WorseAndWorse(Lossless):
        """Adds a larger error to every clip; the first decoding is of the check."""

        def decode(self, latents):
            self.repeat_error = 0.01 * self.decoded
            return super().decode(latents)

    report, shown = measure_reconstruction(VideoAutoencoder(WorseAndWorse()), clips(4), num_shown=2)
    assert [clip.name for clip in shown] == ["clip3.mp4", "clip2.mp4"]
    worst = report["figures"]["default"]["psnr"]["worst"]
    assert worst == pytest.approx(-shown[0].error, abs=1e-3)


def test_a_denoising_decoder_is_tried_at_levels():
    torch.manual_seed(0)
    model = AutoencoderKLLTX(**vae_config(True, "0.9.5")).eval()
    read, steps = clips(2, frames=9), []
    report, _ = measure_reconstruction(VideoAutoencoder(model), read, on_clip=lambda: steps.append(1))
    assert list(report["figures"]) == ["default", *(f"{level:g}" for level in DECODE_LEVELS)]
    assert len(steps) == 2
    # No settings of its own: those of the released models, a level of 0.05 with less noise.
    means = {label: figures["psnr"]["mean"] for label, figures in report["figures"].items()}
    assert len(set(means.values())) == len(means)
    few, _ = measure_reconstruction(VideoAutoencoder(model), read, levels=(0.1,))
    assert few["figures"]["0.1"] == report["figures"]["0.1"]
    assert list(few["figures"]) == ["default", "0.1"]
    other, _ = measure_reconstruction(VideoAutoencoder(model), read, levels=(0.1,), seed=1)
    assert other["figures"]["0.1"] != few["figures"]["0.1"]


def test_further_measures_are_measured_too():
    report, _ = measure_reconstruction(
        VideoAutoencoder(Lossless()), clips(), extra={"mine": lambda a, b: np.arange(len(a)) + 2.0}
    )
    assert report["figures"]["default"]["mine"]["mean"] == 3.5
    assert report["figures"]["default"]["mine"]["worst"] is None  # nobody knows which end is the bad one
    assert report["by_frame"]["default"]["mine"] == [2, 3, 4, 5]


def test_pictures_have_no_flicker_by_frame():
    report, _ = measure_reconstruction(VideoAutoencoder(Lossless()), clips(frames=1))
    assert "flicker" not in report["by_frame"]["default"]
    assert report["figures"]["default"]["flicker"]["mean"] == 0


def test_bad_input_is_refused():
    autoencoder = VideoAutoencoder(Lossless())
    with pytest.raises(InputError, match="no clips"):
        measure_reconstruction(autoencoder, [])
    with pytest.raises(InputError, match="takes no noise level"):
        measure_reconstruction(autoencoder, clips(), levels=(0.1,))
    assert autoencoder.model.decoded == 0
    with pytest.raises(InputError, match="one size"):
        measure_reconstruction(autoencoder, [*clips(1), *clips(1, side=16)])


def test_resources_are_those_of_the_work():
    device = torch.device("cpu")
    before = memory_in_use(device)
    with Usage(device) as small:
        torch.ones(1)
    with Usage(device) as large:
        torch.ones(64 * 2**20 // 4)
    assert 0 <= small.seconds < 5
    if before is None or large.peak_bytes is None:
        pytest.skip("this system can't say how much memory is in use")
    assert large.peak_bytes - before > 60 * 2**20
    assert small.peak_bytes - before < 30 * 2**20


def test_speed_is_counted_without_the_first_clip():
    report, _ = measure_reconstruction(VideoAutoencoder(Lossless()), clips())
    used = report["resources"]["decode"]
    assert used["frames_per_second"] == pytest.approx(4 / used["seconds_per_clip"], rel=1e-4)
    assert used["megapixels_per_second"] == pytest.approx(
        4 * 32 * 32 / 1e6 / used["seconds_per_clip"], rel=1e-4
    )
