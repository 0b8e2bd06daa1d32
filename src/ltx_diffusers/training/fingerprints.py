"""Short names for models by their weights: what was computed with a model is never taken for another's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch

_LENGTH = 16


def vae_fingerprint(vae: torch.nn.Module) -> str:
    """Identifies what a VAE makes of a video: its encoder and the statistics that normalise latents.

    Weights count as bfloat16, so that a model is the same whether it was loaded in that or in float32. Its decoder
    doesn't count: latents stay right when it is trained on.
    """
    digest = hashlib.sha256()
    _add_tensors(digest, vae.encoder.state_dict().items())
    statistics = {name: getattr(vae, name).float() for name in ("latents_mean", "latents_std")}
    _add_tensors(digest, statistics.items())
    digest.update(str(float(vae.config.scaling_factor)).encode())
    return digest.hexdigest()[:_LENGTH]


def text_fingerprint(tokenizer: Any, text_encoder: torch.nn.Module, length: int) -> str:
    """Identifies what a text encoder makes of texts of up to `length` tokens: its weights and its vocabulary."""
    digest = hashlib.sha256()
    _add_tensors(digest, text_encoder.state_dict().items())
    digest.update(json.dumps([length, sorted(tokenizer.get_vocab().items())]).encode())
    return digest.hexdigest()[:_LENGTH]


def key_of(*what: Any) -> str:
    """A key of plain data: equal data have equal keys, in every process."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[: 2 * _LENGTH]


def _add_tensors(digest: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        plain = tensor.detach()
        if plain.is_floating_point():
            plain = plain.to(torch.bfloat16)
        digest.update(plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
