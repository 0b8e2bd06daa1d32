"""Our class for each part of a checkpoint, and the tensors that it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin

from ..errors import CheckpointError, InputError
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ..models.transformers.transformer_ltx import LTXTransformer3DModel
from ..models.upsamplers.latent_upsampler_ltx import LTXLatentUpsampler

MODEL_CLASSES: Mapping[str, type[ModelMixin]] = {
    "transformer": LTXTransformer3DModel,
    "vae": AutoencoderKLLTX,
    "spatial_upsampler": LTXLatentUpsampler,
    "temporal_upsampler": LTXLatentUpsampler,
}
"""Part -> our class."""


def model_class(kind: str) -> type[ModelMixin]:
    """Our class for a part.

    Raises:
        InputError: If there is none.
    """
    if kind not in MODEL_CLASSES:
        raise InputError("no model of ours", got=kind, expected=f"one of {', '.join(MODEL_CLASSES)}")
    return MODEL_CLASSES[kind]


def build_empty(kind: str, config: Mapping[str, Any], cls: type[ModelMixin] | None = None) -> ModelMixin:
    """Our model, of `cls` if given, without memory for its weights (on the meta device).

    Raises:
        CheckpointError: If the config is impossible.
    """
    try:
        with torch.device("meta"):
            return (cls or model_class(kind))(**config)
    except Exception as error:  # whatever layers of Diffusers and torch make of values that can't be
        raise CheckpointError(f"the {kind.replace('_', ' ')}'s config is impossible: {error}") from None


def shapes_of(kind: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors that our model with this config has, by name.

    Raises:
        CheckpointError: If the config is impossible.
    """
    return dict(_shapes(kind, json.dumps(dict(config), sort_keys=True)))


@lru_cache(maxsize=8)
def _shapes(kind: str, config: str) -> dict[str, tuple[int, ...]]:
    """`shapes_of` for a config as JSON; building a 13B model takes a quarter of a second, even without memory."""
    model = build_empty(kind, json.loads(config))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
