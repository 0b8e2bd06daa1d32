"""`AutoencoderKLLTX` against Diffusers' `AutoencoderKLLTXVideo` on shared random weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo
from helpers.autoencoders import (
    LATENT_CHANNELS,
    VERSIONS,
    diffusers_config,
    make_pointwise,
    noise_levels,
    relative_error,
    tiny_autoencoder,
    tiny_config,
)

from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX

TOLERANCE = 1e-5


def pair(version: str, **changes) -> tuple[AutoencoderKLLTX, AutoencoderKLLTXVideo]:
    ours = tiny_autoencoder(version, **changes)
    theirs = AutoencoderKLLTXVideo(**diffusers_config(tiny_config(version, **changes))).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("decoder_causal", [False, True])
@pytest.mark.parametrize(
    ("num_frames", "dtype", "tolerance"),
    [
        (9, torch.float32, TOLERANCE),
        # A single frame takes another way through the convolutions, whose rounding differs by more in float32: there
        # either library's gradients are about 1e-5 away from exact ones. (Both take norms in float32 even here.)
        (1, torch.float64, 1e-6),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_outputs_and_gradients_are_equal(version, num_frames, dtype, tolerance, decoder_causal):
    ours, theirs = (model.to(dtype) for model in pair(version, decoder_causal=decoder_causal))
    video = torch.randn(2, 3, num_frames, 64, 32, dtype=dtype)
    weights = torch.randn(2, 3, num_frames, 64, 32, dtype=dtype)
    results = []
    for model in (ours, theirs):
        inputs = video.clone().requires_grad_()
        moments = model.encode(inputs).latent_dist.parameters
        torch.manual_seed(1)  # Diffusers' decoder takes no generator: both draw from the global one
        output = model.decode(moments[:, :LATENT_CHANNELS], noise_levels(version, 2)).sample
        loss = (output * weights).mean() + moments.square().mean()
        loss.backward()
        results.append((moments, output, inputs.grad))
    for mine, reference in zip(*results, strict=True):
        assert relative_error(mine, reference) < tolerance

    references = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        # Theirs trains this constant of the released files; ours must not.
        if name == "decoder.timestep_scale_multiplier":
            assert not parameter.requires_grad
        else:
            assert parameter.grad.abs().max() > 0, f"{name} has no part in the test"
            assert relative_error(parameter.grad, references[name].grad) < tolerance, name


@pytest.mark.parametrize("version", VERSIONS)
def test_single_frames_are_equal(version):
    ours, theirs = pair(version)
    image = torch.randn(2, 3, 1, 64, 32)
    results = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        with torch.no_grad():
            results.append(model(image, noise_levels(version, 2)).sample)
    assert relative_error(*results) < TOLERANCE


@pytest.mark.parametrize("version", VERSIONS)
def test_half_precision_is_equal(version):
    ours, theirs = (model.bfloat16() for model in pair(version))
    video = torch.randn(1, 3, 9, 32, 32, dtype=torch.bfloat16)
    ours.use_pieces = False  # in pieces norms are taken in fp32, which is not equal but nearer to the truth
    results = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        with torch.no_grad():
            results.append(model(video, noise_levels(version, 1)).sample)
    assert torch.equal(*results)


@pytest.mark.parametrize("sample_posterior", [False, True])
@pytest.mark.parametrize("return_dict", [False, True])
def test_forward_takes_the_same_arguments(return_dict, sample_posterior):
    ours, theirs = pair("0.9.5")
    video = torch.randn(1, 3, 9, 32, 32)
    results = []
    for model in (ours, theirs):
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            output = model(video, torch.tensor([0.05]), sample_posterior, return_dict, generator)
        results.append(output.sample if return_dict else output[0])
    assert relative_error(*results) < TOLERANCE


@pytest.mark.parametrize("version", VERSIONS)
def test_weights_go_both_ways(version, tmp_path):
    ours, theirs = pair(version)
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())

    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    video = torch.randn(1, 3, 9, 32, 32)
    outputs = []
    for model in (
        ours,
        AutoencoderKLLTXVideo.from_pretrained(tmp_path / "ours"),
        AutoencoderKLLTX.from_pretrained(tmp_path / "theirs"),
        AutoencoderKLLTX.from_pretrained(tmp_path / "ours"),
    ):
        torch.manual_seed(1)
        with torch.no_grad():
            outputs.append(model(video, noise_levels(version, 1)).sample)
        assert torch.equal(model.latents_mean, ours.latents_mean)
        assert torch.equal(model.latents_std, ours.latents_std)
        assert (model.spatial_compression_ratio, model.temporal_compression_ratio) == (32, 8)
    for output in outputs[1:]:
        assert relative_error(output, outputs[0]) < TOLERANCE


def test_ratios_that_we_compute_are_saved_for_diffusers(tmp_path):
    config = tiny_config("0.9.5", spatial_compression_ratio=None, temporal_compression_ratio=None)
    # Diffusers counts four stages of factor 2 in each direction.
    theirs = AutoencoderKLLTXVideo(**diffusers_config(config))
    assert (theirs.spatial_compression_ratio, theirs.temporal_compression_ratio) == (64, 16)

    AutoencoderKLLTX(**config).save_pretrained(tmp_path)
    loaded = AutoencoderKLLTXVideo.from_pretrained(tmp_path)
    assert (loaded.spatial_compression_ratio, loaded.temporal_compression_ratio) == (32, 8)


def test_every_default_of_the_config_is_the_same():
    import inspect

    ours = inspect.signature(AutoencoderKLLTX.__init__).parameters
    theirs = inspect.signature(AutoencoderKLLTXVideo.__init__).parameters
    assert {name: ours[name].default for name in theirs} == {name: p.default for name, p in theirs.items()}
    for method in ("encode", "decode", "forward", "enable_tiling"):
        mine = list(inspect.signature(getattr(AutoencoderKLLTX, method)).parameters)
        reference = list(inspect.signature(getattr(AutoencoderKLLTXVideo, method)).parameters)
        assert mine[: len(reference)] == reference


@pytest.mark.parametrize("batch", [2, 3])
def test_slicing_gives_each_sample_its_noise_level_where_diffusers_fails(batch):
    ours, theirs = pair("0.9.5")
    latents, temb = torch.randn(batch, LATENT_CHANNELS, 2, 1, 1), noise_levels("0.9.5", batch)
    with torch.no_grad():
        expected = theirs.decode(latents, temb).sample
        ours.enable_slicing()
        assert relative_error(ours.decode(latents, temb).sample, expected) < TOLERANCE
        theirs.enable_slicing()
        # It loops over the pair (slices of z, slices of temb) instead of over pairs of slices.
        with pytest.raises((RuntimeError, ValueError)):
            theirs.decode(latents, temb)


def test_tiles_in_time_are_in_place_where_diffusers_lags_a_frame():
    """On a model whose frames depend on their own latent only, tiling must change nothing.

    Diffusers drops the last frame of each later tile; it is the first that repeats the tile before. So its
    video lags by one frame from the first seam on.
    """
    ours, theirs = pair("0.9.5")
    for model in (ours, theirs):
        make_pointwise(model)
    latents, temb = torch.randn(1, LATENT_CHANNELS, 6, 1, 1), torch.tensor([0.05])
    with torch.no_grad():
        whole = theirs.decode(latents, temb).sample
        ours.enable_tiling(tile_sample_min_num_frames=16, tile_sample_stride_num_frames=8)
        tiled = ours.decode(latents, temb).sample
        theirs.use_framewise_decoding = True  # its enable_tiling(tile_sample_min_num_frames=...) doesn't
        lagging = theirs.decode(latents, temb).sample
    assert tiled.shape == lagging.shape == whole.shape
    for frame in range(whole.shape[2]):
        assert relative_error(tiled[:, :, frame], whole[:, :, frame]) < TOLERANCE, frame
    # After 17 frames of the first tile, of which 8 fade into the next; frames 25.. come from later tiles alone.
    assert relative_error(lagging[:, :, 25:], whole[:, :, 25:]) > 0.1
    assert relative_error(lagging[:, :, 32], whole[:, :, 31]) < TOLERANCE


def test_framewise_encoding_is_its_own_switch():
    ours, theirs = pair("0.9.5")
    video = torch.randn(1, 3, 25, 32, 32)
    for model in (ours, theirs):
        model.use_framewise_encoding = True
    with torch.no_grad():
        whole = pair("0.9.5")[0].encode(video).latent_dist.mode()
        # Diffusers' encoder looks at use_framewise_decoding.
        assert relative_error(theirs.encode(video).latent_dist.mode(), whole) < TOLERANCE
        assert relative_error(ours.encode(video).latent_dist.mode(), whole) > 1e-4
        ours.use_framewise_encoding, ours.use_framewise_decoding = False, True
        assert relative_error(ours.encode(video).latent_dist.mode(), whole) < TOLERANCE
