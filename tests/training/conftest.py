"""What the training tests share."""

from pathlib import Path

import pytest
import torch
from helpers.tiny_runs import TINY_VAE

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
