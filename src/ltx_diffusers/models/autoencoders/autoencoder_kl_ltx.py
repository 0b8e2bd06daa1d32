"""The video autoencoder of LTX-Video: 32x32x8 compression to 128 channels (arXiv 2501.00103, section 2.1).

Weights and config are those of Diffusers' `AutoencoderKLLTXVideo`, so that each loads what the other saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook

from ...errors import InputError
from ...functional.generators import Generators
from ...geometry import CompressionRatios, check_video_size
from ..publishing import PublishesToHub
from ..recorded import ReadsRecordedSettings
from ..single_file import SingleFileMixin
from .blocks import downsample_stride
from .bounded import CodesInBoundedMemory
from .config_checks import check_lengths
from .decoder import Decoder3d, decoder_stages
from .encoder import CONV_BLOCK, Encoder3d, encoder_stages
from .noise_replay import noise_replays
from .tiling import Tiling
from .time_shares import DecodesOnManyProcesses


class AutoencoderKLLTX(
    DecodesOnManyProcesses,
    CodesInBoundedMemory,
    PublishesToHub,
    ReadsRecordedSettings,
    ModelMixin,
    AutoencoderMixin,
    ConfigMixin,
    SingleFileMixin,
):
    """Causal video autoencoder with one log-variance for all channels and, from 0.9.1, a denoising decoder.

    Args:
        in_channels: Channels of the video to encode.
        out_channels: Channels of the decoded video.
        latent_channels: Channels of the latents.
        block_out_channels: Channels of the encoder's stages (see `encoder_stages`).
        down_block_types: Per encoder stage "LTXVideoDownBlock3D" (0.9.0, 0.9.1) or "LTXVideo095DownBlock3D".
        decoder_block_out_channels: Channels of the decoder's stages, from the output back.
        layers_per_block: Residual blocks per encoder stage, then of the middle block.
        decoder_layers_per_block: The same for the decoder, from the output back.
        spatio_temporal_scaling: Per encoder stage, whether it downsamples.
        decoder_spatio_temporal_scaling: Per decoder stage, from the output back, whether it upsamples.
        decoder_inject_noise: Per decoder stage, from the output back, then of the middle block: whether its
            residual blocks add learned amounts of noise.
        downsample_type: Per encoder stage "conv", "spatial", "temporal" or "spatiotemporal".
        upsample_residual: Per decoder stage, from the output back, whether the upsampler has a residual path.
        upsample_factor: Per decoder stage, from the output back, the upsampler's divisor of the channels.
        timestep_conditioning: Whether the decoder is told the noise level of the latents (0.9.1 and later).
        patch_size: Side in pixels of the patches that enter the encoder.
        patch_size_t: Frames of these patches; 1, since a causal video has 8k + 1 frames.
        resnet_norm_eps: Epsilon of the LayerNorms on skip connections.
        scaling_factor: Factor of the latents, besides the statistics per channel.
        encoder_causal: Whether latents depend on earlier frames only.
        decoder_causal: Whether frames depend on earlier latents only.
        spatial_compression_ratio: Pixels per latent along height and width; None computes it from the stages.
        temporal_compression_ratio: Frames per latent; None computes it from the stages.
        default_decode_timestep: Noise level at which pipelines decode unless told otherwise, in [0, 1].
        default_decode_noise_scale: Share of noise that pipelines mix into normalised latents before decoding.
        shared_log_variance: Whether the posterior has one log-variance for all channels, as in all released
            models, or one for each: the ordinary posterior, for comparison, which only this class loads.

    The buffers `latents_mean` and `latents_std` (latent_channels,) normalise latents.

    Raises:
        InputError: If an entry of the config is unknown, missing or impossible.
    """

    _supports_gradient_checkpointing = True
    # `encode` and `decode` don't pass through the model's own `forward`, where group offloading would act.
    _group_offload_block_modules = ("encoder", "decoder")

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 128,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        down_block_types: tuple[str, ...] = (CONV_BLOCK,) * 4,
        decoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: tuple[int, ...] = (4, 3, 3, 3, 4),
        decoder_layers_per_block: tuple[int, ...] = (4, 3, 3, 3, 4),
        spatio_temporal_scaling: tuple[bool, ...] = (True, True, True, False),
        decoder_spatio_temporal_scaling: tuple[bool, ...] = (True, True, True, False),
        decoder_inject_noise: tuple[bool, ...] = (False, False, False, False, False),
        downsample_type: tuple[str, ...] = ("conv", "conv", "conv", "conv"),
        upsample_residual: tuple[bool, ...] = (False, False, False, False),
        upsample_factor: tuple[int, ...] = (1, 1, 1, 1),
        timestep_conditioning: bool = False,
        patch_size: int = 4,
        patch_size_t: int = 1,
        resnet_norm_eps: float = 1e-6,
        scaling_factor: float = 1.0,
        encoder_causal: bool = True,
        decoder_causal: bool = False,
        spatial_compression_ratio: int | None = None,
        temporal_compression_ratio: int | None = None,
        default_decode_timestep: float | None = None,
        default_decode_noise_scale: float | None = None,
        shared_log_variance: bool = True,
    ) -> None:
        super().__init__()
        if patch_size_t != 1:
            raise InputError("patch_size_t must be 1: a causal video has 8k + 1 frames", got=patch_size_t)
        num_up = len(decoder_block_out_channels)
        check_lengths(
            num_up,
            decoder_spatio_temporal_scaling=decoder_spatio_temporal_scaling,
            upsample_residual=upsample_residual,
            upsample_factor=upsample_factor,
        )
        check_lengths(
            num_up + 1,
            decoder_layers_per_block=decoder_layers_per_block,
            decoder_inject_noise=decoder_inject_noise,
        )
        stages = encoder_stages(
            block_out_channels, down_block_types, spatio_temporal_scaling, downsample_type
        )
        check_lengths(len(stages) + 1, layers_per_block=layers_per_block)
        self.encoder = Encoder3d(
            in_channels,
            latent_channels,
            stages,
            layers_per_block,
            patch_size,
            resnet_norm_eps,
            encoder_causal,
            shared_log_variance,
        )
        self.decoder = Decoder3d(
            latent_channels,
            out_channels,
            decoder_block_out_channels[-1],
            decoder_layers_per_block[-1],
            decoder_stages(
                decoder_block_out_channels,
                decoder_layers_per_block,
                decoder_spatio_temporal_scaling,
                decoder_inject_noise,
                upsample_residual,
                upsample_factor,
            ),
            patch_size,
            decoder_inject_noise[-1],
            timestep_conditioning,
            resnet_norm_eps,
            decoder_causal,
        )
        self.register_buffer("latents_mean", torch.zeros(latent_channels))
        self.register_buffer("latents_std", torch.ones(latent_channels))

        ratios = _compression_ratios([kind for _, _, kind in stages], patch_size)
        self.spatial_compression_ratio = spatial_compression_ratio or ratios.height
        self.temporal_compression_ratio = temporal_compression_ratio or ratios.time
        # Saved as numbers, because Diffusers' formula counts every stage as both spatial and temporal.
        self.register_to_config(
            spatial_compression_ratio=self.spatial_compression_ratio,
            temporal_compression_ratio=self.temporal_compression_ratio,
        )

        self.use_slicing = False
        self.use_tiling = False
        self.use_framewise_encoding = False
        self.use_framewise_decoding = False
        self.tile_sample_min_height = 512
        self.tile_sample_min_width = 512
        self.tile_sample_min_num_frames = 16
        self.tile_sample_stride_height = 448
        self.tile_sample_stride_width = 448
        self.tile_sample_stride_num_frames = 8

    @property
    def compression_ratios(self) -> CompressionRatios:
        """Frames, rows and columns of pixels for one latent."""
        side = self.spatial_compression_ratio
        return CompressionRatios(self.temporal_compression_ratio, side, side)

    def enable_tiling(
        self,
        tile_sample_min_height: int | None = None,
        tile_sample_min_width: int | None = None,
        tile_sample_min_num_frames: int | None = None,
        tile_sample_stride_height: int | None = None,
        tile_sample_stride_width: int | None = None,
        tile_sample_stride_num_frames: int | None = None,
    ) -> None:
        """Encode and decode videos larger than a tile in overlapping tiles, to save memory.

        None keeps a setting. A number of frames also turns on tiling in time (see `enable_framewise`).

        Args:
            tile_sample_min_height: Height of a tile in pixels; smaller videos aren't cut.
            tile_sample_min_width: Width of a tile in pixels.
            tile_sample_min_num_frames: Frames of a tile, after its first.
            tile_sample_stride_height: Distance in pixels of neighbouring tiles' starts.
            tile_sample_stride_width: The same along the width.
            tile_sample_stride_num_frames: The same in time, in frames.

        Raises:
            InputError: If a value isn't a positive multiple of the compression ratio, or a stride isn't
                smaller than its tile. Nothing is changed then.
        """
        framewise = tile_sample_min_num_frames is not None or tile_sample_stride_num_frames is not None
        sizes = {
            "tile_sample_min_height": tile_sample_min_height,
            "tile_sample_min_width": tile_sample_min_width,
            "tile_sample_min_num_frames": tile_sample_min_num_frames,
            "tile_sample_stride_height": tile_sample_stride_height,
            "tile_sample_stride_width": tile_sample_stride_width,
            "tile_sample_stride_num_frames": tile_sample_stride_num_frames,
        }
        self._set_tile_sizes(sizes, in_space=True, in_time=framewise)
        self.use_tiling = True
        if framewise:
            self.use_framewise_encoding = self.use_framewise_decoding = True

    def disable_tiling(self) -> None:
        """Encode and decode in one step again, in space and in time."""
        self.use_tiling = False
        self.disable_framewise()

    def enable_framewise(
        self,
        tile_sample_min_num_frames: int | None = None,
        tile_sample_stride_num_frames: int | None = None,
    ) -> None:
        """Encode and decode videos longer than a tile in tiles that overlap in time.

        None keeps a setting. For one direction only, set `use_framewise_encoding` or
        `use_framewise_decoding`.

        Args:
            tile_sample_min_num_frames: Frames of a tile, after its first.
            tile_sample_stride_num_frames: Distance in frames of neighbouring tiles' starts.

        Raises:
            InputError: As `enable_tiling`.
        """
        sizes = {
            "tile_sample_min_num_frames": tile_sample_min_num_frames,
            "tile_sample_stride_num_frames": tile_sample_stride_num_frames,
        }
        self._set_tile_sizes(sizes, in_space=False, in_time=True)
        self.use_framewise_encoding = self.use_framewise_decoding = True

    def disable_framewise(self) -> None:
        """Encode and decode all frames in one step again."""
        self.use_framewise_encoding = self.use_framewise_decoding = False

    @apply_forward_hook
    def encode(
        self, x: torch.Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Encode videos.

        Args:
            x: Videos (B, C, F, H, W) in [-1, 1], with F = 8k + 1, and H and W multiples of 32 (for the
                released models' compression ratios).
            return_dict: Whether to return an `AutoencoderKLOutput` instead of a tuple.

        Returns:
            The distribution of the latents, of shape (B, latent_channels, (F - 1) / 8 + 1, H / 32, W / 32).

        Raises:
            InputError: If the shape isn't valid.
        """
        self._check_video(x)
        check_video_size(*x.shape[2:], self.compression_ratios)
        parts = x.split(1) if self.use_slicing else [x]
        coder, tiling = self._encoder_for(parts[0], self._tiling(self.use_framewise_encoding))
        posterior = DiagonalGaussianDistribution(_join([tiling.encode(part, coder) for part in parts]))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(
        self,
        z: torch.Tensor,
        temb: torch.Tensor | float | None = None,
        return_dict: bool = True,
        generator: Generators = None,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Decode latents.

        Args:
            z: Latents (B, latent_channels, F', H', W'), not normalised.
            temb: Noise level of the latents in [0, 1], one for all or (B,). A model without timestep
                conditioning ignores it.
            return_dict: Whether to return a `DecoderOutput` instead of a tuple.
            generator: Source of the noise that some decoders inject (0.9.1): one draw for all samples, or,
                with a list of generators, one draw per sample.

        Returns:
            Videos (B, out_channels, 8 (F' - 1) + 1, 32 H', 32 W'), about [-1, 1].

        Raises:
            InputError: If a shape isn't valid, or `temb` is missing.
        """
        self._check_latents(z, generator)
        batch = z.shape[0]
        temb = self._noise_levels(temb, z)
        parts = [slice(i, i + 1) for i in range(batch)] if self.use_slicing else [slice(None)]
        coder, tiling = self._decoder_for(z[parts[0]], self._tiling(self.use_framewise_decoding))
        piecewise = self.decoder.injects_noise and (self.use_slicing or tiling.time is not None)
        videos = []
        for part, replay in zip(parts, noise_replays(generator, parts, z.device, piecewise), strict=True):
            levels = None if temb is None else temb[part]
            decoder = partial(coder, temb=levels, generator=replay.generator)
            videos.append(tiling.decode(z[part], decoder, before_time_tile=replay.rewind))
        decoded = _join(videos)
        return DecoderOutput(sample=decoded) if return_dict else (decoded,)

    def forward(
        self,
        sample: torch.Tensor,
        temb: torch.Tensor | float | None = None,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: Generators = None,
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Encode and decode videos.

        Args:
            sample: As in `encode`.
            temb: As in `decode`.
            sample_posterior: Whether to decode a draw from the latents' distribution instead of its mean.
            return_dict: Whether to return a `DecoderOutput` instead of a tuple.
            generator: Source of that draw and of injected noise; one per sample if a list.

        Returns:
            The reconstruction, shaped as `sample`.

        Raises:
            InputError: As `encode` and `decode`.
        """
        posterior = self.encode(sample).latent_dist
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(latents, temb, return_dict, generator)

    def _check_video(self, x: torch.Tensor) -> None:
        _check_dims("a video", x, self.config.in_channels)

    def _check_latents(self, z: torch.Tensor, generator: Generators) -> None:
        _check_dims("latents", z, self.config.latent_channels)
        if isinstance(generator, list) and len(generator) != z.shape[0]:
            raise InputError(
                "a list of generators needs one per sample", got=len(generator), expected=z.shape[0]
            )

    def _noise_levels(self, temb: torch.Tensor | float | None, z: torch.Tensor) -> torch.Tensor | None:
        """`temb` as (B,), or None if the decoder takes none."""
        if not self.config.timestep_conditioning:
            return None
        if temb is None:
            raise InputError(
                "this autoencoder's decoder needs the noise level of the latents",
                fix="pass temb in [0, 1] (0 for clean latents; 0.05 is usual)",
            )
        temb = torch.as_tensor(temb, device=z.device)
        temb = temb if temb.is_floating_point() else temb.float()
        if temb.ndim > 1 or temb.numel() not in (1, z.shape[0]):
            raise InputError(
                "temb has the wrong shape", got=tuple(temb.shape), expected=f"(), (1,) or ({z.shape[0]},)"
            )
        return temb.expand(z.shape[0])

    def _tiling(self, framewise: bool) -> Tiling:
        time = (self.tile_sample_min_num_frames, self.tile_sample_stride_num_frames)
        height = (self.tile_sample_min_height, self.tile_sample_stride_height)
        width = (self.tile_sample_min_width, self.tile_sample_stride_width)
        return Tiling.from_sizes(
            self.compression_ratios,
            time if framewise else None,
            height if self.use_tiling else None,
            width if self.use_tiling else None,
        )

    def _set_tile_sizes(self, sizes: dict[str, int | None], in_space: bool, in_time: bool) -> None:
        """Change the tile sizes that aren't None, after a check of the axes that will be cut."""
        new = {name: getattr(self, name) if size is None else size for name, size in sizes.items()}

        def axis(name: str, used: bool) -> tuple[int, int] | None:
            return (new[f"tile_sample_min_{name}"], new[f"tile_sample_stride_{name}"]) if used else None

        Tiling.from_sizes(
            self.compression_ratios,
            axis("num_frames", in_time),
            axis("height", in_space),
            axis("width", in_space),
        )
        for name, size in new.items():
            setattr(self, name, size)


def _compression_ratios(downsample_types: Sequence[str | None], patch_size: int) -> CompressionRatios:
    strides = [downsample_stride(kind) for kind in downsample_types if kind is not None]
    time, height, width = (
        prod(factors) for factors in zip((1, patch_size, patch_size), *strides, strict=True)
    )
    return CompressionRatios(time, height, width)


def _join(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _check_dims(what: str, tensor: torch.Tensor, channels: int) -> None:
    if tensor.ndim != 5 or tensor.shape[1] != channels or 0 in tensor.shape:
        raise InputError(
            f"{what} must be a tensor of (batch, channels, frames, height, width), none of them 0",
            got=tuple(tensor.shape),
            expected=f"{channels} channels",
        )
