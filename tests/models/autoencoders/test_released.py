"""The released sizes, built without memory for their weights."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ltx_diffusers.errors import RegistrationError, UnknownNameError
from ltx_diffusers.geometry import CompressionRatios
from ltx_diffusers.models.autoencoders import autoencoders
from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ltx_diffusers.models.autoencoders.released import RELEASED

# Millions of parameters of encoder and decoder, and tensors in a saved file, counted on the published weights.
SIZES = {"0.9.0": (180.4, 238.8, 190), "0.9.1": (180.4, 754.6, 294), "0.9.5": (694.1, 552.8, 226)}


def count_millions(module: torch.nn.Module) -> float:
    return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 1)


@pytest.mark.parametrize("version", RELEASED)
def test_sizes_are_those_of_the_published_weights(version):
    with torch.device("meta"):
        model = AutoencoderKLLTX(**RELEASED[version])
    assert (count_millions(model.encoder), count_millions(model.decoder), len(model.state_dict())) == SIZES[
        version
    ]


@pytest.mark.parametrize("version", RELEASED)
def test_ratios_follow_from_the_stages(version):
    config = RELEASED[version] | {"spatial_compression_ratio": None, "temporal_compression_ratio": None}
    with torch.device("meta"):
        model = AutoencoderKLLTX(**config)
    assert model.compression_ratios == CompressionRatios(8, 32, 32)
    assert (model.config.spatial_compression_ratio, model.config.temporal_compression_ratio) == (32, 8)


def test_given_ratios_win():
    with torch.device("meta"):
        model = AutoencoderKLLTX(spatial_compression_ratio=64, temporal_compression_ratio=16)
    assert model.compression_ratios == CompressionRatios(16, 64, 64)


def test_the_registry_builds_the_model():
    assert "ltx" in autoencoders.list()
    with torch.device("meta"):
        model = autoencoders.get("ltx")(latent_channels=16)
    assert isinstance(model, AutoencoderKLLTX)
    assert model.config.latent_channels == 16
    with pytest.raises(UnknownNameError, match="did you mean ltx"):
        autoencoders.get("ltxx")
    with pytest.raises(RegistrationError, match="can't be called"):
        autoencoders.register("broken")("not a model")


def test_listing_names_imports_no_torch():
    code = (
        "import sys; from ltx_diffusers.models.autoencoders import autoencoders; from "
        "ltx_diffusers.models.autoencoders.released import RELEASED; autoencoders.list(); "
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
