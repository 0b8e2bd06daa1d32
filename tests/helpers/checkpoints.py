"""Checkpoint files in official names, written from our models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from helpers.autoencoders import tiny_autoencoder
from safetensors.torch import save_file

from ltx_diffusers import AutoencoderKLLTX, LTXTransformer3DModel
from ltx_diffusers.conversion.official_configs import (
    scheduler_to_official,
    transformer_to_official,
    vae_to_official,
)
from ltx_diffusers.conversion.releases import RELEASES
from ltx_diffusers.conversion.renames import to_official
from ltx_diffusers.conversion.vae_blocks import vae_family

TRANSFORMER_PREFIX = "model.diffusion_model."
VAE_PREFIX = "vae."

TINY_TRANSFORMER = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "num_layers": 2,
    "caption_channels": 16,
}


def tiny_transformer(causal: bool | None, seed: int = 0) -> LTXTransformer3DModel:
    """A transformer of width 32 and two blocks, with random weights."""
    torch.manual_seed(seed)
    return LTXTransformer3DModel(**TINY_TRANSFORMER, causal_temporal_positioning=causal).eval()


def official_tensors(
    transformer: LTXTransformer3DModel | None = None,
    vae: AutoencoderKLLTX | None = None,
    prefixes: tuple[str, str] = (TRANSFORMER_PREFIX, VAE_PREFIX),
) -> dict[str, torch.Tensor]:
    """Tensors of models under their official names."""
    tensors = {}
    if transformer is not None:
        for name, tensor in transformer.state_dict().items():
            tensors[prefixes[0] + to_official("transformer", name)] = tensor
    if vae is not None:
        family = vae_family(vae.config)
        for name, tensor in vae.state_dict().items():
            tensors[prefixes[1] + to_official("vae", name, family)] = tensor
        ones = torch.ones(vae.config.latent_channels)
        for unused in ("mean-of-stds", "mean-of-stds_over_std-of-means", "channel"):
            tensors[f"{prefixes[1]}per_channel_statistics.{unused}"] = ones.clone()
    return tensors


def official_config(
    transformer: LTXTransformer3DModel | None = None,
    vae: AutoencoderKLLTX | None = None,
    release: str | None = None,
) -> dict:
    """What the metadata's "config" of an official file says."""
    config = {}
    if transformer is not None:
        config["transformer"] = transformer_to_official(transformer.config)
    if vae is not None:
        config["vae"] = vae_to_official(vae.config)
    if release is not None:
        settings = RELEASES[release].scheduler_config
        config["scheduler"] = scheduler_to_official(settings)
        if settings["allowed_inference_steps"] is not None:
            config["allowed_inference_steps"] = settings["allowed_inference_steps"]
    return config


def save_checkpoint(
    path: Path,
    release: str = "0.9.5",
    *,
    with_config: bool = True,
    change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]] | None = None,
) -> tuple[LTXTransformer3DModel, AutoencoderKLLTX]:
    """Write a tiny checkpoint of a release's kind; gives the models that are in it.

    Args:
        path: The file.
        release: Whose kind of VAE, coordinates and schedule.
        with_config: Whether the metadata has the config.
        change: Applied to the tensors before they are written.
    """
    transformer = tiny_transformer(RELEASES[release].causal)
    vae = tiny_autoencoder(RELEASES[release].vae)
    tensors = official_tensors(transformer, vae)
    if change is not None:
        tensors = change(tensors)
    metadata = {"config": json.dumps(official_config(transformer, vae, release))} if with_config else None
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    return transformer, vae


def same_tensors(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    """Whether two models have the same tensors, bit for bit, in the same dtypes."""
    first, second = left.state_dict(), right.state_dict()
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )
