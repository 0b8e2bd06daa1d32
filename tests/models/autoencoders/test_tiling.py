"""Encoding and decoding in tiles."""

from __future__ import annotations

import pytest
import torch
from helpers.autoencoders import (
    LATENT_CHANNELS,
    VERSIONS,
    make_pointwise,
    noise_levels,
    relative_error,
    tiny_autoencoder,
)

from ltx_diffusers.errors import InputError
from ltx_diffusers.models.autoencoders.tiling import TileAxis

SPACE = {
    "tile_sample_min_height": 96,
    "tile_sample_min_width": 64,
    "tile_sample_stride_height": 64,
    "tile_sample_stride_width": 32,
}
TIME = {"tile_sample_min_num_frames": 24, "tile_sample_stride_num_frames": 8}


@pytest.mark.parametrize("size", [SPACE, TIME, SPACE | TIME], ids=["space", "time", "both"])
@pytest.mark.parametrize("version", ["0.9.0", "0.9.5"])
def test_tiling_is_exact_if_latents_see_their_own_pixels_only(version, size):
    model = tiny_autoencoder(version)
    make_pointwise(model)
    video, temb = torch.randn(1, 3, 41, 160, 128), noise_levels(version, 1)
    with torch.no_grad():
        moments = model.encode(video).latent_dist.parameters
        output = model.decode(moments[:, :LATENT_CHANNELS], temb).sample
        model.enable_tiling(**size)
        tiled_moments = model.encode(video).latent_dist.parameters
        tiled_output = model.decode(moments[:, :LATENT_CHANNELS], temb).sample
    assert output.std() > 1e-3
    assert tiled_moments.shape == moments.shape
    assert tiled_output.shape == output.shape
    for latent_frame in range(moments.shape[2]):
        assert relative_error(tiled_moments[:, :, latent_frame], moments[:, :, latent_frame]) < 1e-5, (
            latent_frame
        )
    for frame in range(output.shape[2]):
        assert relative_error(tiled_output[:, :, frame], output[:, :, frame]) < 1e-5, frame


@pytest.mark.parametrize("version", VERSIONS)
def test_tiles_of_a_whole_model_come_close(version):
    model = tiny_autoencoder(version)
    make_pointwise(model, others=0.05)  # far pixels matter little
    for name, parameter in model.named_parameters():
        if "per_channel_scale" in name:
            parameter.data.zero_()
    video, temb = torch.randn(1, 3, 41, 128, 128), noise_levels(version, 1)
    with torch.no_grad():
        latents = model.encode(video).latent_dist.mode()
        output = model.decode(latents, temb).sample
        model.enable_tiling(96, 96, 24, 64, 64, 8)
        tiled_latents = model.encode(video).latent_dist.mode()
        tiled_output = model.decode(latents, temb).sample

    for tiled, whole in ((tiled_latents, latents), (tiled_output, output)):
        assert 0 < (tiled - whole).square().mean() < 0.02 * whole.var()


def test_tiles_cover_without_waste():
    axis = TileAxis("height", size=16, stride=8, ratio=8)
    assert list(axis.starts(8)) == [0]
    assert list(axis.starts(16)) == [0]
    assert list(axis.starts(24)) == [0, 8]
    assert list(axis.starts(40)) == [0, 8, 16, 24]
    assert list(axis.starts(17, extra=1)) == [0]
    assert list(axis.starts(25, extra=1)) == [0, 8]


def test_small_videos_are_coded_in_one_step():
    model = tiny_autoencoder("0.9.0")
    video = torch.randn(1, 3, 17, 32, 64)
    with torch.no_grad():
        expected = model(video).sample
        model.enable_tiling(64, 64, 16, 32, 32, 8)
        assert torch.equal(model(video).sample, expected)


def test_frames_turn_framewise_on_and_disable_turns_all_off():
    model = tiny_autoencoder("0.9.0")
    model.enable_tiling(64, 64, tile_sample_stride_height=32, tile_sample_stride_width=32)
    assert model.use_tiling
    assert not model.use_framewise_encoding
    assert not model.use_framewise_decoding
    model.enable_tiling(tile_sample_min_num_frames=32)
    assert model.use_framewise_encoding
    assert model.use_framewise_decoding
    assert (model.tile_sample_min_height, model.tile_sample_min_num_frames) == (64, 32)
    model.disable_tiling()
    assert not (model.use_tiling or model.use_framewise_encoding or model.use_framewise_decoding)
    model.enable_framewise(24, 16)
    assert not model.use_tiling
    assert (model.tile_sample_min_num_frames, model.tile_sample_stride_num_frames) == (24, 16)
    assert model.use_framewise_encoding
    assert model.use_framewise_decoding


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tile_sample_min_height": 500}, "tile_sample_min_height.*multiple of 32; got 500; use 512"),
        ({"tile_sample_stride_width": 440}, "tile_sample_stride_width.*use 448"),
        ({"tile_sample_min_num_frames": 17}, "tile_sample_min_num_frames.*multiple of 8; got 17; use 16"),
        ({"tile_sample_stride_num_frames": 0}, "tile_sample_stride_num_frames.*got 0; use 8"),
        (
            {"tile_sample_min_height": 256},
            "tile_sample_stride_height < tile_sample_min_height; got stride 448, size 256",
        ),
        ({"tile_sample_min_num_frames": 8}, "use tiles of at least 16"),
    ],
)
def test_bad_tile_sizes_are_refused_and_change_nothing(sizes, message):
    model = tiny_autoencoder("0.9.0")
    before = {name: value for name, value in vars(model).items() if name.startswith(("tile", "use_"))}
    with pytest.raises(InputError, match=message):
        model.enable_tiling(**sizes)
    assert before == {name: value for name, value in vars(model).items() if name.startswith(("tile", "use_"))}


def test_sizes_set_as_attributes_are_checked_when_used():
    model = tiny_autoencoder("0.9.0")
    model.use_tiling = True
    model.tile_sample_min_width = 100
    with pytest.raises(InputError, match="tile_sample_min_width"):
        model.encode(torch.zeros(1, 3, 1, 32, 32))


@pytest.mark.parametrize("seeded", [True, False])
def test_tiles_in_time_get_the_same_noise(seeded):
    """Injected noise is the same in all frames; if tiles drew their own, the picture's grain would jump."""
    model = tiny_autoencoder("0.9.1")
    latents = torch.randn(1, LATENT_CHANNELS, 1, 2, 2).expand(-1, -1, 6, -1, -1)
    model.enable_framewise(16, 8)
    with torch.no_grad():
        video = model.decode(
            latents, 0.05, generator=torch.Generator().manual_seed(1) if seeded else None
        ).sample
    # Where nothing changes from tile to tile, each tile must give the same 8 frames.
    assert relative_error(video[:, :, 17:25], video[:, :, 9:17]) < 1e-5
    assert relative_error(video[:, :, 25:33], video[:, :, 9:17]) < 1e-5
    assert video.std() > 0.1


def test_gradients_flow_through_tiles():
    model = tiny_autoencoder("0.9.5")
    model.enable_tiling(**SPACE, **TIME)
    video = torch.randn(1, 3, 33, 128, 96, requires_grad=True)
    model(video, 0.1).sample.square().mean().backward()
    assert (video.grad.abs().amax(dim=(0, 1, 3, 4)) > 0).all()
