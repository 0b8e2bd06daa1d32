"""Configs of parts that follow from their tensors alone, for files without metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import CheckpointError
from ..models.autoencoders.released import RELEASED as RELEASED_VAES
from ..models.transformers.released import RELEASED as RELEASED_TRANSFORMERS
from .layouts import FoundPart
from .official_configs import transformer_from_official
from .tensors import TensorSource

_BLOCK = re.compile(r"(?:^|\.)transformer_blocks\.(\d+)\.")


def config_from_tensors(part: FoundPart, source: TensorSource) -> dict[str, Any]:
    """Config of our class for a part, if its tensors are those of a release.

    A transformer's `causal_temporal_positioning` is None: tensors don't tell it.

    Raises:
        CheckpointError: If they aren't.
    """
    if part.kind == "transformer":
        return _transformer(part, source)
    if part.kind == "vae":
        return _vae(part, source)
    return _upsampler(part, source)


def transformer_size(config: Mapping[str, Any]) -> str | None:
    """Name of the released size that a transformer's config has, or None."""
    for name, released in RELEASED_TRANSFORMERS.items():
        if all(config[field] == value for field, value in released.items()):
            return name
    return None


def check_depth(part: FoundPart, config: Mapping[str, Any], source: TensorSource) -> None:
    """Check that a config doesn't ask for more layers than there are tensors, before any layer is built.

    Raises:
        CheckpointError: If it does, or has no number of layers.
    """
    if part.kind == "vae":
        depths = [*config["layers_per_block"], *config["decoder_layers_per_block"]]
    else:
        depths = [config["num_layers" if part.kind == "transformer" else "num_blocks_per_stage"]]
    if not all(type(depth) is int and depth >= 0 for depth in depths) or sum(depths) > len(part.names):
        raise CheckpointError(
            f"{source.path}: the {part.kind.replace('_', ' ')}'s config asks for other layers than there are",
            got=str(depths)[:100],
            expected=f"what fits {len(part.names)} tensors",
        )


def block_count(names: Iterable[str]) -> int:
    """Number of different transformer blocks that names mention."""
    return len({match[1] for name in names if (match := _BLOCK.search(name))})


def _transformer(part: FoundPart, source: TensorSource) -> dict[str, Any]:
    first = "patchify_proj.weight" if part.naming == "official" else "proj_in.weight"
    width, channels = source.info(part.prefix + first).shape[:2]
    layers = block_count(part.names)
    for released in RELEASED_TRANSFORMERS.values():
        found = (width, channels, layers)
        if found == (released["cross_attention_dim"], released["in_channels"], released["num_layers"]):
            config = transformer_from_official(
                {
                    **released,
                    "activation_fn": "gelu-approximate",
                    "attention_bias": True,
                    "norm_elementwise_affine": False,
                    "norm_eps": 1e-6,
                    "positional_embedding_theta": 10000.0,
                    "positional_embedding_max_pos": [20, 2048, 2048],
                    "qk_norm": "rms_norm",
                    "standardization_norm": "rms_norm",
                    "timestep_scale_multiplier": 1000,
                }
            )
            return config | {"causal_temporal_positioning": None}
    raise CheckpointError(
        f"{source.path} has no config, and its transformer isn't of a released size",
        got=f"width {width}, {layers} blocks",
        expected=" or ".join(
            f"width {released['cross_attention_dim']}, {released['num_layers']} blocks"
            for released in RELEASED_TRANSFORMERS.values()
        ),
    )


def _vae(part: FoundPart, source: TensorSource) -> dict[str, Any]:
    """The released VAE that the tensors are of, told by the encoder's width and the decoder's time embedding."""
    inside = {part.inside(name): name for name in part.names}
    out = inside.get("encoder.conv_out.conv.weight")
    if out is None:
        raise CheckpointError(f"{source.path} holds only half of a VAE", expected="encoder and decoder")
    if source.info(out).shape[1] == 2048:
        version = "0.9.5"
    elif "decoder.last_scale_shift_table" in inside or "decoder.scale_shift_table" in inside:
        version = "0.9.1"
    else:
        version = "0.9.0"
    config = {
        "in_channels": 3,
        "out_channels": 3,
        "resnet_norm_eps": 1e-6,
        "scaling_factor": 1.0,
        "patch_size_t": 1,
    }
    decode = {"default_decode_timestep": None, "default_decode_noise_scale": None}
    return config | decode | RELEASED_VAES[version]


def _upsampler(part: FoundPart, source: TensorSource) -> dict[str, Any]:
    mid, channels, *kernel = source.info("initial_conv.weight").shape
    step = source.info("upsampler.0.weight").shape
    return {
        "in_channels": channels,
        "mid_channels": mid,
        "num_blocks_per_stage": len(
            {name.split(".")[1] for name in part.names if name.startswith("res_blocks.")}
        ),
        "dims": len(kernel),
        "spatial_upsample": part.kind == "spatial_upsampler",
        "temporal_upsample": part.kind == "temporal_upsampler" or step[0] == 8 * mid,
    }
