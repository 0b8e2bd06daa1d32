"""The configs in official files' metadata, as configs of our classes and back.

Official classes know more variants than were ever released. What ours can't compute is refused, never ignored; what
doesn't change the result is left out. Fields that the official classes don't know either are passed over as they do,
with a warning, except those of LTX-2, which would make another model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError, InputError
from ..schedulers import foreign_configs
from ..schedulers.flow_match import LTXFlowMatchScheduler
from .config_types import check_types
from .vae_blocks import config_of_blocks, official_blocks

logger = logging.getLogger(__name__)

# Field -> the official class's default, for the fields that mean the same in our config.
_TRANSFORMER_SHARED = {
    "num_attention_heads": 16,
    "attention_head_dim": 88,
    "in_channels": None,
    "out_channels": None,
    "num_layers": 1,
    "cross_attention_dim": None,
    "caption_channels": None,
    "attention_bias": False,
    "norm_elementwise_affine": True,
    "norm_eps": 1e-5,
    "activation_fn": "geglu",
    "causal_temporal_positioning": False,
}
_TRANSFORMER_NEEDED = ("in_channels", "cross_attention_dim", "caption_channels")
_ACTIVATIONS = ("gelu-approximate", "gelu")

# Field -> (the official class's default, the value that our class computes).
_TRANSFORMER_FIXED = {
    "adaptive_norm": ("single_scale_shift", "single_scale_shift"),
    "attention_type": ("default", "default"),
    "double_self_attention": (False, False),
    "num_vector_embeds": (None, None),
    "only_cross_attention": (False, False),
    "positional_embedding_max_pos": (None, [20, 2048, 2048]),
    "positional_embedding_theta": (None, 10000.0),
    "positional_embedding_type": ("rope", "rope"),
    "qk_norm": (None, "rms_norm"),
    "standardization_norm": ("layer_norm", "rms_norm"),
    "timestep_scale_multiplier": (None, 1000),
}
# Without effect on the result at inference.
_TRANSFORMER_IGNORED = (
    "dropout",
    "norm_num_groups",
    "num_embeds_ada_norm",
    "project_to_2d_pos",
    "upcast_attention",
    "use_linear_projection",
    "use_tpu_flash_attention",
)

# Switches of LTX-2 that change the computation without changing a tensor's name.
_LATER_FIELDS = (
    "apply_gated_attention",
    "cross_attention_adaln",
    "frequencies_precision",
    "rope_type",
    "share_ff",
    "use_middle_indices_grid",
)

_VAE_SHARED = {"in_channels": 3, "out_channels": 3, "patch_size": 1, "timestep_conditioning": False}
_VAE_FIXED = {
    "_class_name": ("CausalVideoAutoencoder", "CausalVideoAutoencoder"),
    "dims": (None, 3),
    "double_z": (True, True),
    "latent_log_var": ("per_channel", "uniform"),
    "norm_layer": ("group_norm", "pixel_norm"),
    "normalize_latent_channels": (False, False),
    "scaling_factor": (1.0, 1.0),
    "spatial_padding_mode": ("zeros", "zeros"),
    "use_quant_conv": (True, False),
}
_VAE_OWN = (
    "blocks",
    "encoder_blocks",
    "decoder_blocks",
    "encoder_base_channels",
    "decoder_base_channels",
    "latent_channels",
    "causal_decoder",
)
_DECODE_DEFAULTS = {"default_decode_timestep": 0.05, "default_decode_noise_scale": 0.025}
"""What every official config uses with a timestep-conditioned decoder."""

# Field -> default of the official class's `from_config`.
_UPSAMPLER_SHARED = {
    "in_channels": 4,
    "mid_channels": 128,
    "num_blocks_per_stage": 4,
    "dims": 2,
    "spatial_upsample": True,
    "temporal_upsample": False,
}
_UPSAMPLER_CLASS = "LatentUpsampler"


def transformer_from_official(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `LTXTransformer3DModel` for a config of the official `Transformer3DModel`.

    Raises:
        CheckpointError: If a field is missing, or asks for what our class doesn't compute.
    """
    where = "the transformer's config"
    _check_fields(where, config, _TRANSFORMER_FIXED, {*_TRANSFORMER_SHARED, *_TRANSFORMER_IGNORED})
    own = {name: config.get(name, default) for name, default in _TRANSFORMER_SHARED.items()}
    for name in _TRANSFORMER_NEEDED:
        if own[name] is None:
            raise CheckpointError(f"{where} lacks {name}")
    _check_sizes(where, own, "num_attention_heads", "attention_head_dim", "num_layers", *_TRANSFORMER_NEEDED)
    if own["activation_fn"] not in _ACTIVATIONS:
        raise _refused(where, "activation_fn", own["activation_fn"], " or ".join(map(repr, _ACTIVATIONS)))
    width = own["num_attention_heads"] * own["attention_head_dim"]
    if own["cross_attention_dim"] != width:
        raise _refused(where, "cross_attention_dim", own["cross_attention_dim"], f"heads x width = {width}")
    own["out_channels"] = own["out_channels"] or own["in_channels"]
    return {
        **own,
        "patch_size": 1,
        "patch_size_t": 1,
        "qk_norm": "rms_norm_across_heads",
        "attention_out_bias": True,
        "timestep_scale_multiplier": 1000.0,
    }


def transformer_to_official(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config of the official `Transformer3DModel` for one of `LTXTransformer3DModel`.

    Raises:
        CheckpointError: If the official class can't express it, or it doesn't state whether coordinates are causal.
    """
    where = "our transformer's config"
    fixed = {
        "patch_size": 1,
        "patch_size_t": 1,
        "qk_norm": "rms_norm_across_heads",
        "attention_out_bias": True,
        "timestep_scale_multiplier": 1000.0,
    }
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise CheckpointError(
                f"{where} has no official equal", got=f"{name} = {config[name]!r}", expected=value
            )
    if config.get("causal_temporal_positioning") is None:
        raise CheckpointError(
            f"{where} doesn't state causal_temporal_positioning, which official files must",
            expected="False for 0.9.0 and 0.9.1, True for 0.9.5 and later",
            fix="say which release it is",
        )
    official = {name: config[name] for name in _TRANSFORMER_SHARED}
    official["out_channels"] = config["out_channels"] or config["in_channels"]
    return {
        "_class_name": "Transformer3DModel",
        **official,
        **{name: value for name, (_, value) in _TRANSFORMER_FIXED.items()},
        "dropout": 0.0,
        "norm_num_groups": 32,
        "num_embeds_ada_norm": 1000,
        "upcast_attention": False,
        "use_linear_projection": False,
    }


def vae_from_official(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `AutoencoderKLLTX` for a config of the official `CausalVideoAutoencoder`.

    Raises:
        CheckpointError: If a field is missing, or asks for what our class doesn't compute.
    """
    where = "the VAE's config"
    _check_fields(where, config, _VAE_FIXED, {*_VAE_SHARED, *_VAE_OWN})
    own = {name: config.get(name, default) for name, default in _VAE_SHARED.items()}
    own["latent_channels"] = config.get("latent_channels")
    _check_sizes(where, own, "in_channels", "out_channels", "patch_size", "latent_channels")
    blocks = config.get("blocks")
    own |= config_of_blocks(
        config.get("encoder_blocks", blocks),
        config.get("decoder_blocks", blocks),
        config.get("encoder_base_channels", 128),
        config.get("decoder_base_channels", 128),
        own["patch_size"],
    )
    conditioned = own["timestep_conditioning"]
    return {
        **own,
        "patch_size_t": 1,
        "resnet_norm_eps": 1e-6,
        "scaling_factor": 1.0,
        "encoder_causal": True,
        "decoder_causal": config.get("causal_decoder", False),
        **(_DECODE_DEFAULTS if conditioned else dict.fromkeys(_DECODE_DEFAULTS)),
    }


def vae_to_official(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config of the official `CausalVideoAutoencoder` for one of `AutoencoderKLLTX`.

    Raises:
        CheckpointError: If the official class can't express it.
    """
    fixed = {
        "patch_size_t": 1,
        "resnet_norm_eps": 1e-6,
        "scaling_factor": 1.0,
        "encoder_causal": True,
        "shared_log_variance": True,
    }
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise CheckpointError(
                "our VAE's config has no official equal", got=f"{name} = {config[name]!r}", expected=value
            )
    blocks = official_blocks(config)
    return {
        **{name: value for name, (_, value) in _VAE_FIXED.items()},
        **{name: config[name] for name in _VAE_SHARED},
        "latent_channels": config["latent_channels"],
        "encoder_blocks": [list(block) for block in blocks.encoder_list],
        "decoder_blocks": [list(block) for block in blocks.decoder_list],
        "encoder_base_channels": blocks.encoder_base_channels,
        "decoder_base_channels": blocks.decoder_base_channels,
        "causal_decoder": config["decoder_causal"],
    }


def upsampler_from_official(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `LTXLatentUpsampler` for a config of the official `LatentUpsampler`.

    Raises:
        CheckpointError: If a value can't be used.
    """
    where = "the upsampler's config"
    _check_fields(
        where, config, {"_class_name": (_UPSAMPLER_CLASS, _UPSAMPLER_CLASS)}, set(_UPSAMPLER_SHARED)
    )
    own = {name: config.get(name, default) for name, default in _UPSAMPLER_SHARED.items()}
    _check_sizes(where, own, "in_channels", "mid_channels", "num_blocks_per_stage")
    if own["dims"] not in (2, 3):
        raise _refused(where, "dims", own["dims"], "2 or 3")
    if not (own["spatial_upsample"] or own["temporal_upsample"]):
        raise _refused(where, "spatial_upsample and temporal_upsample", "neither", "one of them")
    return own


def upsampler_to_official(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config of the official `LatentUpsampler` for one of `LTXLatentUpsampler`."""
    return {"_class_name": _UPSAMPLER_CLASS, **{name: config[name] for name in _UPSAMPLER_SHARED}}


def scheduler_from_official(
    config: Mapping[str, Any], allowed_inference_steps: list[float] | None = None
) -> dict[str, Any]:
    """Arguments of `LTXFlowMatchScheduler` for the metadata's "scheduler" and "allowed_inference_steps".

    Raises:
        CheckpointError: If a value is unknown.
    """
    if not isinstance(config, Mapping):
        raise CheckpointError("the scheduler's config must be an object", got=type(config).__name__)
    try:
        own = foreign_configs.from_official(config)
    except (InputError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f"the scheduler's config can't be used: {error}") from None
    check_scheduler(own)
    if allowed_inference_steps is not None:
        numbers = isinstance(allowed_inference_steps, list) and allowed_inference_steps
        if not numbers or not all(
            type(value) in (int, float) and 0 <= value <= 1 for value in allowed_inference_steps
        ):
            raise CheckpointError(
                "allowed_inference_steps must be noise levels in [0, 1]",
                got=str(allowed_inference_steps)[:100],
            )
        own["allowed_inference_steps"] = [float(value) for value in allowed_inference_steps]
    return own


def check_scheduler(config: Mapping[str, Any]) -> None:
    """Check arguments of `LTXFlowMatchScheduler`.

    Raises:
        CheckpointError: If one has the wrong type, or a value that the class doesn't take.
    """
    where = "the scheduler's config"
    check_types(where, LTXFlowMatchScheduler, config)
    try:
        LTXFlowMatchScheduler(**config)
    except InputError as error:
        raise CheckpointError(f"{where} can't be used: {error}") from None


def scheduler_to_official(config: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata's "scheduler" for a config of `LTXFlowMatchScheduler`.

    `allowed_inference_steps` stands beside it in official files, not in it.

    Raises:
        CheckpointError: If the official class can't express the schedule.
    """
    defaults = {"schedule_options": None, "clamp_shift": False, "shift_terminal": None, "shifting": None}
    line = {"base_image_seq_len": 1024, "max_image_seq_len": 4096, "base_shift": 0.95, "max_shift": 2.05}
    try:
        return foreign_configs.to_official({"num_train_timesteps": 1000, **defaults, **line, **config})
    except InputError as error:
        raise CheckpointError(str(error)) from None


def _check_fields(where: str, config: Any, fixed: Mapping[str, tuple[Any, Any]], known: set[str]) -> None:
    """Check that fields with one possible value have it, and that no unknown field asks for anything."""
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{where} must be an object", got=type(config).__name__)
    for name, (default, expected) in fixed.items():
        if config.get(name, default) != expected:
            raise _refused(where, name, config.get(name, default), repr(expected))
    for name, value in config.items():
        # A switch that is off (None, False, 0 or nothing) asks for nothing.
        if name in known or name in fixed or name.startswith("_") or not value:
            continue
        if name in _LATER_FIELDS:
            raise CheckpointError(
                f"{where} has a field of models after LTX-Video 0.9.8", got=f"{name} = {str(value)[:100]}"
            )
        logger.warning("%s has a field that isn't known and not used: %s = %s", where, name, str(value)[:100])


def _check_sizes(where: str, config: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if type(config[name]) is not int or not 0 < config[name] < 2**20:
            raise _refused(where, name, config[name], "a positive whole number")


def _refused(where: str, name: str, got: object, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{where} asks for what this library doesn't compute: {name}", got=str(got)[:100], expected=expected
    )
