"""Names of tensors: the official ones and those of Diffusers' classes (and ours), as data, in both directions.

Names are those inside a part, without the prefixes of single files ("model.diffusion_model.", "vae.").

The transformer renames four modules wherever they stand in a path. The upsamplers have the same names on both sides.
The VAE's official encoder and decoder are flat lists of blocks; where each of them is in our modules depends on the
kind of VAE (see `VAE_LAYOUTS`). Official VAE files also hold statistics that no model uses, the official one neither:
the means of standard deviations, their ratio to the standard deviations of means, and the channels' numbers. They are
dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..errors import CheckpointError, InputError

PARTS = ("transformer", "vae", "spatial_upsampler", "temporal_upsampler")
"""Parts of checkpoints that have weights of ours."""

TRANSFORMER_MODULES = MappingProxyType(
    {"patchify_proj": "proj_in", "adaln_single": "time_embed", "q_norm": "norm_q", "k_norm": "norm_k"}
)
"""Official module -> ours."""

VAE_STATISTICS = MappingProxyType({"mean-of-means": "latents_mean", "std-of-means": "latents_std"})
"""Official statistic of the latents -> our buffer."""

DROPPED_STATISTICS = ("mean-of-stds", "mean-of-stds_over_std-of-means", "channel")
"""Official statistics that no model uses."""

VAE_HEAD_MODULES = MappingProxyType(
    {"last_time_embedder": "time_embedder", "last_scale_shift_table": "scale_shift_table"}
)
"""Official module of the decoder's output -> ours."""

_STATISTICS = "per_channel_statistics."
_FLAT = {"encoder": "down_blocks", "decoder": "up_blocks"}


class VaeLayout(NamedTuple):
    """Where the blocks of an official VAE are in ours."""

    encoder: tuple[str, ...]
    """Our module for each entry of `encoder.down_blocks`."""
    decoder: tuple[str, ...]
    """Our module for each entry of `decoder.up_blocks`, in the order in which they run."""


_CONV_ENCODER = (
    "down_blocks.0", "down_blocks.0.downsamplers.0", "down_blocks.0.conv_out",
    "down_blocks.1", "down_blocks.1.downsamplers.0", "down_blocks.1.conv_out",
    "down_blocks.2", "down_blocks.2.downsamplers.0",
    "down_blocks.3", "mid_block",
)  # fmt: skip
_RESIDUAL_ENCODER = (
    "down_blocks.0", "down_blocks.0.downsamplers.0",
    "down_blocks.1", "down_blocks.1.downsamplers.0",
    "down_blocks.2", "down_blocks.2.downsamplers.0",
    "down_blocks.3", "down_blocks.3.downsamplers.0",
    "mid_block",
)  # fmt: skip
_RESIDUAL_DECODER = (
    "mid_block",
    "up_blocks.0.upsamplers.0", "up_blocks.0",
    "up_blocks.1.upsamplers.0", "up_blocks.1",
    "up_blocks.2.upsamplers.0", "up_blocks.2",
)  # fmt: skip
_FIRST_DECODER = (
    "mid_block",
    "up_blocks.0",
    "up_blocks.1.upsamplers.0", "up_blocks.1",
    "up_blocks.2.conv_in", "up_blocks.2.upsamplers.0", "up_blocks.2",
    "up_blocks.3.conv_in", "up_blocks.3.upsamplers.0", "up_blocks.3",
)  # fmt: skip

VAE_LAYOUTS: Mapping[str, VaeLayout] = MappingProxyType(
    {
        "0.9.0": VaeLayout(_CONV_ENCODER, _FIRST_DECODER),
        "0.9.1": VaeLayout(_CONV_ENCODER, _RESIDUAL_DECODER),
        "0.9.5": VaeLayout(_RESIDUAL_ENCODER, _RESIDUAL_DECODER),
    }
)
"""The kinds of released VAEs, by the release that brought them."""


def to_diffusers(part: str, official_name: str, vae_family: str | VaeLayout | None = None) -> str | None:
    """Our name (and Diffusers') of an official tensor or module.

    Args:
        part: One of `PARTS`.
        official_name: Its official name inside the part.
        vae_family: For the VAE: its kind, a key of `VAE_LAYOUTS`, or the layout of another one.

    Returns:
        Our name; None for a tensor that is dropped.

    Raises:
        CheckpointError: If the VAE has no such block.
        InputError: If the part or the kind of VAE is unknown.
    """
    if part == "transformer":
        return _rename_segments(official_name, TRANSFORMER_MODULES)
    if part != "vae":
        return _check_part(part, official_name)
    if official_name.startswith(_STATISTICS):
        return VAE_STATISTICS.get(official_name.removeprefix(_STATISTICS))
    side, _, rest = official_name.partition(".")
    if side not in _FLAT:
        return official_name
    first, _, inside = rest.partition(".")
    if first in VAE_HEAD_MODULES:
        return f"{side}.{_rename_segments(rest, VAE_HEAD_MODULES)}"
    if first != _FLAT[side]:
        return official_name
    index, _, inside = inside.partition(".")
    places = getattr(_layout(vae_family), side)
    if not index.isdecimal() or int(index) >= len(places):
        raise CheckpointError(
            "the VAE has a block that its kind doesn't have",
            got=official_name,
            expected=f"{_FLAT[side]} 0 to {len(places) - 1}",
        )
    segments = inside.split(".")
    segments = ["resnets" if segment == "res_blocks" else segment for segment in segments]
    inside = ".".join(segments)
    inside = inside.replace("conv_shortcut.", "conv_shortcut.conv.").replace("norm3.norm.", "norm3.")
    return f"{side}.{places[int(index)]}.{inside}"


def to_official(part: str, diffusers_name: str, vae_family: str | VaeLayout | None = None) -> str:
    """Official name of a tensor or module of ours (and of Diffusers'); the inverse of `to_diffusers`.

    Raises:
        CheckpointError: If the official VAE has no place for it.
        InputError: If the part or the kind of VAE is unknown.
    """
    if part == "transformer":
        return _rename_segments(diffusers_name, _inverse(TRANSFORMER_MODULES))
    if part != "vae":
        return _check_part(part, diffusers_name)
    statistics = _inverse(VAE_STATISTICS)
    if diffusers_name in statistics:
        return _STATISTICS + statistics[diffusers_name]
    side, _, rest = diffusers_name.partition(".")
    if side not in _FLAT:
        return diffusers_name
    head = _inverse(VAE_HEAD_MODULES)
    if rest.partition(".")[0] in head:
        return f"{side}.{_rename_segments(rest, head)}"
    if rest.partition(".")[0] not in ("down_blocks", "up_blocks", "mid_block"):
        return diffusers_name
    # The longest place wins: "up_blocks.1.upsamplers.0" lies inside "up_blocks.1".
    places = getattr(_layout(vae_family), side)
    inside_of = [place for place in places if rest.startswith(f"{place}.")]
    if not inside_of:
        raise CheckpointError("the official VAE has no place for this tensor", got=diffusers_name)
    place = max(inside_of, key=len)
    inside = rest.removeprefix(f"{place}.").replace("conv_shortcut.conv.", "conv_shortcut.")
    segments = ["res_blocks" if segment == "resnets" else segment for segment in inside.split(".")]
    inside = ".".join(segments).replace("norm3.", "norm3.norm.")
    return f"{side}.{_FLAT[side]}.{places.index(place)}.{inside}"


def _rename_segments(name: str, renames: Mapping[str, str]) -> str:
    return ".".join(renames.get(segment, segment) for segment in name.split("."))


def _inverse(renames: Mapping[str, str]) -> dict[str, str]:
    return {ours: official for official, ours in renames.items()}


def _check_part(part: str, name: str) -> str:
    if part not in PARTS:
        raise InputError("unknown part of a checkpoint", got=part, expected=f"one of {', '.join(PARTS)}")
    return name


def _layout(family: str | VaeLayout | None) -> VaeLayout:
    if isinstance(family, VaeLayout):
        return family
    if family not in VAE_LAYOUTS:
        raise InputError("unknown kind of VAE", got=repr(family), expected=f"one of {', '.join(VAE_LAYOUTS)}")
    return VAE_LAYOUTS[family]
