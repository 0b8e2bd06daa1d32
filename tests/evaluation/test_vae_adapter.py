"""Ours and Diffusers' autoencoders behind one interface."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from helpers.linear_autoencoders import Halved, Lossless
from tiny import vae_config
from torch import nn

from ltx_diffusers import AutoencoderKLLTX
from ltx_diffusers.errors import InputError
from ltx_diffusers.evaluation.reconstruction import reconstruct
from ltx_diffusers.evaluation.vae_adapter import (
    VideoAutoencoder,
    first_latent_is_one_frame,
    load_autoencoder,
)
from ltx_diffusers.geometry import CompressionRatios

SMALL = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "latent_channels": 4}
TINY = {
    "AutoencoderKLCogVideoX": {
        **SMALL,
        "down_block_types": ("CogVideoXDownBlock3D",) * 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 4,
        "norm_num_groups": 2,
    },
    "AutoencoderKLWan": {
        "base_dim": 3,
        "z_dim": 16,
        "dim_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
    },
    "AutoencoderKLHunyuanVideo": {
        **SMALL,
        "down_block_types": ("HunyuanVideoDownBlock3D",) * 4,
        "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
        "norm_num_groups": 4,
    },
    "AutoencoderKL": {
        **SMALL,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": 4,
    },
    "AutoencoderDC": {
        "latent_channels": 4,
        "encoder_block_types": "ResBlock",
        "decoder_block_types": "ResBlock",
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "encoder_qkv_multiscales": ((), ()),
        "decoder_qkv_multiscales": ((), ()),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "upsample_block_type": "interpolate",
        "downsample_block_type": "stride_conv",
    },
    "AutoencoderKLLTXVideo": vae_config(True, "0.9.0"),
}


def tiny(name: str) -> nn.Module:
    torch.manual_seed(0)
    return getattr(diffusers, name)(**TINY[name]).eval()


def video(frames: int = 9, side: int = 32) -> torch.Tensor:
    return torch.rand(1, 3, frames, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("name", "latent_frames", "ratio"),
    [
        ("AutoencoderKLCogVideoX", 3, 8),
        ("AutoencoderKLWan", 3, 8),
        ("AutoencoderKLHunyuanVideo", 3, 8),
        ("AutoencoderKLLTXVideo", 2, 32),
        ("AutoencoderKL", 9, 8),
        ("AutoencoderDC", 9, 2),
    ],
)
@torch.no_grad()
def test_it_does_what_the_class_does(name, latent_frames, ratio):
    model = tiny(name)
    autoencoder = VideoAutoencoder(model)
    size = (9, 32, 32)
    autoencoder.check_size(*size)
    encoded = autoencoder.check_round_trip(*size)
    assert encoded.mean.shape[2:] == (latent_frames, 32 // ratio, 32 // ratio)
    assert encoded.variance is None or encoded.variance.shape == encoded.mean.shape
    facts = autoencoder.describe(encoded, size)
    assert facts["class"] == name
    assert facts["parameters"]["all"] == sum(weight.numel() for weight in model.parameters())
    assert facts["first_latent_is_one_frame"] == (latent_frames < 9)
    assert json.loads(json.dumps(facts)) == facts

    clip = video()
    latents = autoencoder.encode(clip).mean
    copy = autoencoder.decode(latents, torch.Generator().manual_seed(1))
    assert copy.shape == clip.shape
    assert copy.dtype == torch.float32
    if name == "AutoencoderKLLTXVideo":
        expected = reconstruct(model, clip, torch.Generator().manual_seed(1))
    elif autoencoder.is_image_model:
        pictures = [model.encode(clip[:, :, frame])[0] for frame in range(9)]
        pictures = [
            entry.mode() if hasattr(entry, "mode") and name != "AutoencoderDC" else entry
            for entry in pictures
        ]
        expected = torch.stack([model.decode(entry)[0] for entry in pictures], 2).clamp(-1, 1)
    else:
        expected = model.decode(model.encode(clip).latent_dist.mode()).sample.clamp(-1, 1)
    torch.testing.assert_close(copy, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_level_is_mixed_into_normalised_latents_and_told_to_the_decoder():
    torch.manual_seed(0)
    model = AutoencoderKLLTX(**vae_config(True, "0.9.5")).eval()
    model.latents_mean.normal_()
    model.latents_std.uniform_(0.5, 2)
    autoencoder = VideoAutoencoder(model)
    assert autoencoder.takes_noise_level
    latents = autoencoder.encode(video()).mean
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    mean, std = (entry.view(1, -1, 1, 1, 1) for entry in (model.latents_mean, model.latents_std))
    mixed = (0.9 * (latents - mean) / std + 0.1 * noise) * std + mean
    expected = model.decode(mixed, torch.tensor([0.1])).sample.clamp(-1, 1)
    actual = autoencoder.decode(latents, torch.Generator().manual_seed(3), 0.1)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(autoencoder.decode(latents, torch.Generator().manual_seed(3), 0.0), actual)


def test_other_decoders_take_no_level():
    with pytest.raises(InputError, match="takes no noise level"):
        VideoAutoencoder(Lossless()).decode(torch.zeros(1, 48, 1, 2, 2), level=0.1)


def test_sizes_are_refused_with_the_nearest_valid_ones():
    autoencoder = VideoAutoencoder(tiny("AutoencoderKLLTXVideo"), "ltx")
    assert autoencoder.stated_ratios() == CompressionRatios(8, 32, 32)
    with pytest.raises(InputError, match=r"ltx takes a width.*use 32 or 64"):
        autoencoder.check_size(9, 32, 40)
    with pytest.raises(InputError, match=r"frames.*use 9 or 17"):
        autoencoder.check_size(10, 32, 32)
    assert VideoAutoencoder(tiny("AutoencoderKLWan")).stated_ratios() == CompressionRatios(4, 8, 8)


def test_what_comes_back_must_be_what_went_in():
    with pytest.raises(InputError, match=r"another size.*4 frames.*choose another number of frames"):
        VideoAutoencoder(Halved()).check_round_trip(8, 16, 16)
    # CogVideoX decodes two latent frames at a time: five frames come back as eight.
    with pytest.raises(InputError, match="got 8 frames"):
        VideoAutoencoder(tiny("AutoencoderKLCogVideoX")).check_round_trip(5, 32, 32)
    with pytest.raises(InputError, match="can't take 9 frames of 30x30"):
        VideoAutoencoder(Lossless(), "lossless").check_round_trip(9, 30, 30)


def test_what_is_no_video_autoencoder_is_refused():
    with pytest.raises(InputError, match="Linear without encode"):
        VideoAutoencoder(nn.Linear(1, 1))
    temporal = diffusers.AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",), block_out_channels=(32,), layers_per_block=1
    )
    with pytest.raises(InputError, match="also needs num_frames"):
        VideoAutoencoder(temporal)


@pytest.mark.parametrize(
    ("frames", "latent", "own"),
    [
        (17, 3, True),
        (17, 5, True),
        (9, 3, True),
        (19, 4, True),
        (16, 4, False),
        (17, 4, False),
        (1, 1, False),
        (9, 9, False),
    ],
)
def test_a_first_frame_of_its_own_shows_in_the_sizes(frames, latent, own):
    assert first_latent_is_one_frame(frames, latent) is own


def test_the_class_of_the_config_is_loaded(tmp_path: Path):
    for name in ("AutoencoderKLWan", "AutoencoderKLLTXVideo"):
        folder = tmp_path / name
        tiny(name).save_pretrained(folder)
        loaded = load_autoencoder(folder, None, folder / "config.json")
        assert type(loaded).__name__ == {"AutoencoderKLLTXVideo": "AutoencoderKLLTX"}.get(name, name)
        torch.testing.assert_close(loaded.state_dict(), tiny(name).state_dict())


def test_a_config_that_names_no_class_is_refused(tmp_path: Path):
    config = tmp_path / "config.json"
    for text, message in (
        ('{"_class_name": "Nothing"}', "'Nothing'"),
        ("{}", "unknown class"),
        ("[]", "can't be read"),
        ("x", "can't be read"),
    ):
        config.write_text(text)
        with pytest.raises(InputError, match=message):
            load_autoencoder(tmp_path, None, config)
    config.write_text('{"_class_name": "AutoencoderKLWan"}')
    with pytest.raises(InputError, match="can't be loaded as AutoencoderKLWan"):
        load_autoencoder(tmp_path, None, config)


def test_a_registered_class_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from ltx_diffusers.models.autoencoders import autoencoders

    class Mine:
        @classmethod
        def from_pretrained(cls, source, subfolder=None, **options):
            return SimpleNamespace(source=source, options=options)

    monkeypatch.setitem(autoencoders._entries, "mine", Mine)
    (tmp_path / "config.json").write_text('{"_class_name": "Mine"}')
    loaded = load_autoencoder(tmp_path, None, tmp_path / "config.json", dtype=torch.float32)
    assert loaded.source == tmp_path
    assert loaded.options == {"dtype": torch.float32}
