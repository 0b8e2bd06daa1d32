"""The block lists of official VAE configs, and the same structure in our configs.

An official encoder or decoder is a flat list of blocks [name, options]; the decoder's is listed from the output back
and built in reverse. Ours are stages: residual blocks, with a change of resolution and a change of channels where the
official list has a "compress_..." and a "res_x_y" block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import CheckpointError, InputError
from ..models.autoencoders.decoder import decoder_stages
from ..models.autoencoders.encoder import CONV_BLOCK, RESIDUAL_BLOCK, encoder_stages
from .renames import VAE_LAYOUTS, VaeLayout

Block = tuple[str, dict[str, Any]]
"""An official block: its name and options."""

MAX_LAYERS = 64
MAX_BLOCKS = 64
MAX_CHANNELS = 2**16
"""Bounds of what a file may ask for, far above every release."""

_RESIDUAL_KINDS = {
    "compress_space_res": "spatial",
    "compress_time_res": "temporal",
    "compress_all_res": "spatiotemporal",
}
_SPATIAL = ("conv", "spatial", "spatiotemporal")
_TEMPORAL = ("conv", "temporal", "spatiotemporal")
_OPTIONS = {
    "res_x": ("num_layers", "inject_noise"),
    "res_x_y": ("multiplier", "inject_noise"),
    "compress_all": ("residual", "multiplier"),
    **dict.fromkeys(_RESIDUAL_KINDS, ("multiplier",)),
}


class OfficialBlocks(NamedTuple):
    """The official form of our VAE config."""

    encoder: list[tuple[str, Block]]
    """Our module and the official block, as they run."""
    decoder: list[tuple[str, Block]]
    """The same of the decoder, as they run."""
    encoder_base_channels: int
    """Channels after the encoder's first convolution."""
    decoder_base_channels: int
    """Channels before the decoder's last convolution."""

    @property
    def encoder_list(self) -> list[Block]:
        """The list in the official config."""
        return [block for _, block in self.encoder]

    @property
    def decoder_list(self) -> list[Block]:
        """The list in the official config: from the output back."""
        return [block for _, block in reversed(self.decoder)]

    @property
    def layout(self) -> VaeLayout:
        """Where each official block is in our modules."""
        return VaeLayout(tuple(place for place, _ in self.encoder), tuple(place for place, _ in self.decoder))


class _Stage(NamedTuple):
    """A stage as a block list describes it."""

    layers: dict[str, Any]
    compress: Block | None
    change: dict[str, Any] | None


def official_blocks(config: Mapping[str, Any]) -> OfficialBlocks:
    """The official blocks of one of our VAE configs, one that our class can build, each with our module's name.

    Raises:
        CheckpointError: If the official class can't express it.
    """
    try:
        down = encoder_stages(
            config["block_out_channels"],
            config["down_block_types"],
            config["spatio_temporal_scaling"],
            config["downsample_type"],
        )
        up = decoder_stages(
            config["decoder_block_out_channels"],
            config["decoder_layers_per_block"],
            config["decoder_spatio_temporal_scaling"],
            config["decoder_inject_noise"],
            config["upsample_residual"],
            config["upsample_factor"],
        )
    except InputError as error:
        raise CheckpointError(f"the VAE's structure is impossible: {error}") from None
    residual_names = {kind: name for name, kind in _RESIDUAL_KINDS.items()}
    encoder: list[tuple[str, Block]] = []
    for index, (channels, out, kind) in enumerate(down):
        place = f"down_blocks.{index}"
        encoder.append((place, ("res_x", {"num_layers": config["layers_per_block"][index]})))
        if kind in residual_names:
            options = {"multiplier": _factor(out, channels)}
            encoder.append((f"{place}.downsamplers.0", (residual_names[kind], options)))
            continue
        if kind == "conv":
            encoder.append((f"{place}.downsamplers.0", ("compress_all", {})))
        if out != channels:
            encoder.append((f"{place}.conv_out", ("res_x_y", {"multiplier": _factor(out, channels)})))
    encoder.append(("mid_block", ("res_x", {"num_layers": config["layers_per_block"][-1]})))

    def resnets(layers: int, noise: bool) -> Block:
        return ("res_x", {"num_layers": layers, "inject_noise": bool(noise)})

    channels = config["decoder_block_out_channels"][-1]
    decoder = [
        ("mid_block", resnets(config["decoder_layers_per_block"][-1], config["decoder_inject_noise"][-1]))
    ]
    for index, stage in enumerate(up):
        place = f"up_blocks.{index}"
        inner = stage.channels * stage.factor if stage.upsample else stage.channels
        if channels != inner:
            options = {"multiplier": _factor(channels, inner), "inject_noise": bool(stage.inject_noise)}
            decoder.append((f"{place}.conv_in", ("res_x_y", options)))
        if stage.upsample:
            options = {"residual": bool(stage.residual), "multiplier": stage.factor}
            decoder.append((f"{place}.upsamplers.0", ("compress_all", options)))
        decoder.append((place, resnets(stage.num_layers, stage.inject_noise)))
        channels = stage.channels
    return OfficialBlocks(encoder, decoder, config["block_out_channels"][0], channels)


def vae_family(config: Mapping[str, Any]) -> str | VaeLayout:
    """The kind of one of our VAE configs for `renames`: a release's name, or the layout of another structure.

    Raises:
        CheckpointError: If it has no official form.
    """
    layout = official_blocks(config).layout
    return next((name for name, known in VAE_LAYOUTS.items() if known == layout), layout)


def config_of_blocks(
    encoder_blocks: Any,
    decoder_blocks: Any,
    encoder_base_channels: Any,
    decoder_base_channels: Any,
    patch_size: int,
) -> dict[str, Any]:
    """The fields of our VAE config that follow from official block lists.

    Args:
        encoder_blocks: The official list.
        decoder_blocks: The official list, from the output back.
        encoder_base_channels: Channels after the encoder's first convolution.
        decoder_base_channels: Channels before the decoder's last convolution.
        patch_size: Side of the patches in pixels, for the compression ratio.

    Raises:
        CheckpointError: If our class can't build them.
    """
    for channels in (encoder_base_channels, decoder_base_channels):
        if type(channels) is not int or not 0 < channels < MAX_CHANNELS:
            raise CheckpointError(
                "the VAE's base channels aren't a number of channels", got=str(channels)[:100]
            )
    encoder, decoder = _normalised(encoder_blocks), _normalised(decoder_blocks)
    config = _encoder_config(encoder, encoder_base_channels, patch_size)
    config |= _decoder_config(decoder, decoder_base_channels)
    # Whatever our fields can't hold (a channel change before the middle block, mixed kinds) shows up on the way back.
    back = official_blocks(config)
    for given, built in ((encoder, back.encoder_list), (decoder, back.decoder_list)):
        if given != [_normalise(block) for block in built]:
            raise CheckpointError("this library can't build the VAE's list of blocks", got=str(given)[:300])
    return config


def _encoder_config(blocks: Sequence[Block], channels: int, patch_size: int) -> dict[str, Any]:
    stages, mid = _stages(blocks)
    residual = any(stage.compress and stage.compress[0] in _RESIDUAL_KINDS for stage in stages)
    out_channels, kinds = [channels], []
    for stage in stages:
        kind = None
        if stage.compress is not None:
            name, options = stage.compress
            kind = _RESIDUAL_KINDS.get(name, "conv")
            channels *= options.get("multiplier", 1) if name in _RESIDUAL_KINDS else 1
        channels *= stage.change["multiplier"] if stage.change else 1
        kinds.append(kind)
        out_channels.append(channels)
    return {
        # The older kind's last stage keeps its channels, so that its list has one entry less.
        "block_out_channels": tuple(out_channels if residual else out_channels[:-1]),
        "down_block_types": ((RESIDUAL_BLOCK if residual else CONV_BLOCK),) * len(stages),
        "layers_per_block": (*(stage.layers["num_layers"] for stage in stages), mid["num_layers"]),
        "spatio_temporal_scaling": tuple(kind is not None for kind in kinds),
        "downsample_type": tuple(kind or ("spatiotemporal" if residual else "conv") for kind in kinds),
        "spatial_compression_ratio": patch_size * 2 ** sum(kind in _SPATIAL for kind in kinds),
        "temporal_compression_ratio": 2 ** sum(kind in _TEMPORAL for kind in kinds),
    }


def _decoder_config(blocks: Sequence[Block], channels: int) -> dict[str, Any]:
    """`blocks` are listed from the output back, as are our lists."""
    stages, mid = _stages(blocks)
    out_channels, factors, residuals = [], [], []
    for stage in stages:
        options = stage.compress[1] if stage.compress else {"multiplier": 1, "residual": False}
        channels *= options["multiplier"]
        out_channels.append(channels)
        factors.append(options["multiplier"])
        residuals.append(options["residual"])
        channels *= stage.change["multiplier"] if stage.change else 1
    return {
        "decoder_block_out_channels": tuple(out_channels),
        "decoder_layers_per_block": (*(stage.layers["num_layers"] for stage in stages), mid["num_layers"]),
        "decoder_spatio_temporal_scaling": tuple(stage.compress is not None for stage in stages),
        "decoder_inject_noise": (*(stage.layers["inject_noise"] for stage in stages), mid["inject_noise"]),
        "upsample_residual": tuple(residuals),
        "upsample_factor": tuple(factors),
    }


def _stages(blocks: Sequence[Block]) -> tuple[list[_Stage], dict[str, Any]]:
    """Cut a list into stages (res_x, perhaps a compress_..., perhaps a res_x_y) and the middle's last res_x."""
    stages: list[_Stage] = []
    rest = list(blocks)
    while len(rest) > 1:
        name, layers = rest.pop(0)
        compress = rest.pop(0) if rest[0][0].startswith("compress") else None
        change = rest.pop(0)[1] if rest and rest[0][0] == "res_x_y" else None
        if name != "res_x" or not rest:
            break
        stages.append(_Stage(layers, compress, change))
    if len(rest) != 1 or rest[0][0] != "res_x" or not stages:
        raise CheckpointError(
            "this library can't build the VAE's list of blocks",
            got=str([name for name, _ in blocks]),
            expected="stages of res_x, compress_... and res_x_y, and a res_x at the end",
        )
    return stages, rest[0][1]


def _normalised(blocks: Any) -> list[Block]:
    if not isinstance(blocks, (list, tuple)) or not 1 < len(blocks) <= MAX_BLOCKS:
        raise CheckpointError("the VAE's config lacks its blocks", got=str(blocks)[:100])
    return [_normalise(block) for block in blocks]


def _normalise(block: Any) -> Block:
    """A block with all its options, those that were left out with the official defaults."""
    if not isinstance(block, (list, tuple)) or len(block) != 2 or block[0] not in list(_OPTIONS):
        raise CheckpointError(
            "this library can't build a block of the VAE",
            got=str(block)[:100],
            expected=f"[name, options], with a name of {', '.join(_OPTIONS)}",
        )
    name, options = block
    if not isinstance(options, Mapping):  # the old form: a number, which only counts layers
        options = {"num_layers": options} if name == "res_x" else {}
    unknown = {key: value for key, value in options.items() if key not in _OPTIONS[name] and value}
    if unknown:
        raise CheckpointError(
            "this library can't build a block of the VAE", got=f"{name} with {str(unknown)[:100]}"
        )
    values: dict[str, Any] = {}
    for option in _OPTIONS[name]:
        if option in ("inject_noise", "residual"):
            values[option] = bool(options.get(option, False))
            continue
        default = 1 if name == "compress_all" else 2
        value = options.get(option, None if option == "num_layers" else default)
        least = 0 if option == "num_layers" else 1
        if type(value) is not int or not least <= value <= MAX_LAYERS:
            raise CheckpointError(
                "a block of the VAE has a wrong number", got=f"{name}: {option} = {str(value)[:100]}"
            )
        values[option] = value
    return name, values


def _factor(large: int, small: int) -> int:
    if small <= 0 or large % small:
        raise CheckpointError(
            "the official VAE multiplies channels by whole numbers", got=f"{small} to {large} channels"
        )
    return large // small
