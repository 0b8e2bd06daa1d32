"""Tiny autoencoders of the released kinds, with random weights that exercise every branch."""

from __future__ import annotations

import torch
from torch import nn

from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ltx_diffusers.models.autoencoders.released import RELEASED

VERSIONS = tuple(RELEASED)
LATENT_CHANNELS = 8


def tiny_config(version: str, **changes) -> dict:
    """The config of a release with 1/16 of its channels and one residual block where it has several."""
    config = dict(RELEASED[version], latent_channels=LATENT_CHANNELS)
    for name in ("block_out_channels", "decoder_block_out_channels"):
        config[name] = tuple(channels // 16 for channels in config[name])
    # Two blocks in one stage, so that the order of a stage's blocks matters.
    config["layers_per_block"] = (1, 2, 1, 1, 1)
    config["decoder_layers_per_block"] = (1, 2, 1, 1, 1)[-len(config["decoder_layers_per_block"]) :]
    return config | changes


def diffusers_config(config: dict) -> dict:
    """The fields of `config` that Diffusers' class has."""
    return {name: value for name, value in config.items() if not name.startswith("default_")}


def tiny_autoencoder(version: str, seed: int = 0, **changes) -> AutoencoderKLLTX:
    """A tiny autoencoder with random weights, noise scales and latent statistics."""
    torch.manual_seed(seed)
    model = AutoencoderKLLTX(**tiny_config(version, **changes)).eval()
    for name, parameter in model.named_parameters():
        # Zero when built: the noise would not be seen. The others' scale suits a wide model.
        if "per_channel_scale" in name:
            nn.init.normal_(parameter)
    model.latents_mean.normal_()
    model.latents_std.uniform_(0.5, 2.0)
    return model


def noise_levels(version: str, batch: int) -> torch.Tensor | None:
    """Different noise levels for the samples of a batch, or None if the release takes none."""
    if not RELEASED[version]["timestep_conditioning"]:
        return None
    return torch.linspace(0.02, 0.18, batch)


def make_pointwise(model: nn.Module, others: float = 0.0) -> None:
    """Multiply all taps of the convolutions but the one on the output's own position by `others`.

    At 0 each latent depends on its own block of pixels only, and the other way round, so that tiling is exact.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
            causal = (
                model.config.encoder_causal if name.startswith("encoder") else model.config.decoder_causal
            )
            own = module.weight.data[:, :, 2 if causal else 1, 1, 1].clone()
            module.weight.data.mul_(others)
            module.weight.data[:, :, 2 if causal else 1, 1, 1] = own * 3


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    return (torch.linalg.vector_norm(value - reference) / torch.linalg.vector_norm(reference)).item()
