"""Names of tensors: both directions are inverse, and the official ones are those of the official package."""

from __future__ import annotations

import pytest
import torch

from ltx_diffusers.conversion.model_classes import shapes_of
from ltx_diffusers.conversion.official_configs import transformer_to_official, vae_to_official
from ltx_diffusers.conversion.renames import DROPPED_STATISTICS, VAE_LAYOUTS, to_diffusers, to_official
from ltx_diffusers.conversion.vae_blocks import vae_family
from ltx_diffusers.errors import CheckpointError, InputError
from ltx_diffusers.models.autoencoders.released import RELEASED as VAES
from ltx_diffusers.models.transformers.released import RELEASED as TRANSFORMERS


def vae_config(version: str) -> dict:
    return {"in_channels": 3, "out_channels": 3, **VAES[version]}


def transformer_config(size: str) -> dict:
    from ltx_diffusers import LTXTransformer3DModel

    with torch.device("meta"):
        return dict(LTXTransformer3DModel(**TRANSFORMERS[size], causal_temporal_positioning=True).config)


@pytest.mark.parametrize("version", VAES)
def test_a_vae_s_names_go_there_and_back(version):
    names = list(shapes_of("vae", VAES[version]))
    official = [to_official("vae", name, version) for name in names]
    assert len(set(official)) == len(names)
    assert [to_diffusers("vae", name, version) for name in official] == names
    assert not {name for name in official if "resnets" in name or "mid_block" in name or "samplers" in name}


@pytest.mark.parametrize("version", VAES)
def test_a_vae_s_official_names_are_the_official_package_s(version):
    official = pytest.importorskip("ltx_video.models.autoencoders.causal_video_autoencoder")
    with torch.device("meta"):
        model = official.CausalVideoAutoencoder.from_config(vae_to_official(vae_config(version)))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for statistic in ("mean-of-means", "std-of-means"):
        expected[f"per_channel_statistics.{statistic}"] = (128,)
    ours = shapes_of("vae", VAES[version])
    assert {to_official("vae", name, version): shape for name, shape in ours.items()} == expected


@pytest.mark.parametrize("size", TRANSFORMERS)
def test_a_transformer_s_official_names_are_the_official_package_s(size):
    official = pytest.importorskip("ltx_video.models.transformers.transformer3d")
    with torch.device("meta"):
        model = official.Transformer3DModel.from_config(transformer_to_official(transformer_config(size)))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ours = shapes_of("transformer", TRANSFORMERS[size])
    assert {to_official("transformer", name): shape for name, shape in ours.items()} == expected
    assert {to_diffusers("transformer", name): shape for name, shape in expected.items()} == ours


def test_the_layouts_are_those_of_the_released_configs():
    assert {version: vae_family(config) for version, config in VAES.items()} == {name: name for name in VAES}
    assert set(VAE_LAYOUTS) == set(VAES)


def test_unused_statistics_are_dropped():
    for name in DROPPED_STATISTICS:
        assert to_diffusers("vae", f"per_channel_statistics.{name}", "0.9.5") is None
    assert to_diffusers("vae", "per_channel_statistics.std-of-means", "0.9.5") == "latents_std"


def test_modules_are_renamed_wherever_they_stand():
    """LoRA files name modules, not tensors."""
    assert to_diffusers("transformer", "adaln_single.linear") == "time_embed.linear"
    assert (
        to_diffusers("transformer", "transformer_blocks.3.attn2.q_norm")
        == "transformer_blocks.3.attn2.norm_q"
    )
    assert to_official("transformer", "proj_in") == "patchify_proj"
    assert (
        to_official("transformer", "transformer_blocks.3.ff.net.0.proj")
        == "transformer_blocks.3.ff.net.0.proj"
    )
    # Only whole segments are names.
    assert to_diffusers("transformer", "my_q_norm.weight") == "my_q_norm.weight"


def test_upsamplers_have_the_same_names():
    for part in ("spatial_upsampler", "temporal_upsampler"):
        assert to_diffusers(part, "res_blocks.0.norm1.weight") == "res_blocks.0.norm1.weight"
        assert to_official(part, "upsampler.0.bias") == "upsampler.0.bias"


def test_what_can_t_be_renamed_is_named():
    with pytest.raises(InputError, match="unknown part of a checkpoint; got unet"):
        to_diffusers("unet", "x")
    with pytest.raises(InputError, match=r"unknown kind of VAE; got '0\.9\.4'"):
        to_diffusers("vae", "encoder.down_blocks.0.conv.weight", "0.9.4")
    with pytest.raises(CheckpointError, match=r"got encoder\.down_blocks\.9\.x; expected down_blocks 0 to 8"):
        to_diffusers("vae", "encoder.down_blocks.9.x", "0.9.5")
    with pytest.raises(CheckpointError, match="no place for this tensor"):
        to_official("vae", "decoder.up_blocks.3.resnets.0.x", "0.9.5")
