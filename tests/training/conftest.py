"""What the training tests share."""

from pathlib import Path

import pytest
import torch
from helpers.tiny_runs import TINY_VAE
from tiny import tiny_components

from ltx_diffusers import LTXPipeline
from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX


@pytest.fixture(scope="session")
def tiny_vae_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    vae = AutoencoderKLLTX(**TINY_VAE)
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    vae.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline on disk, to train on from; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("base")
    LTXPipeline(**tiny_components(causal=True, statistics=True)).save_pretrained(folder)
    return folder
