"""Videos or latents to latents of higher resolution, by a trained upsampler."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from diffusers.pipelines.ltx.pipeline_output import LTXPipelineOutput
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from ..errors import InputError
from ..functional.generators import Generators
from ..functional.latent_statistics import match_statistics, tone_map
from ..functional.latents import denormalize_latents, normalize_latents
from ..geometry import CompressionRatios, check_video_size
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ..models.publishing import PublishesToHub
from ..models.upsamplers.latent_upsampler_ltx import LTXLatentUpsampler
from .decoding import decode_latents
from .frames import to_output
from .images import encode_frames, split_images
from .media import sides_of, video_pixels
from .request import OUTPUT_TYPES, is_number


class LTXLatentUpsamplePipeline(PublishesToHub, DiffusionPipeline):
    """Doubles the resolution of latents in space or in time.

    The call is that of Diffusers' pipeline, with two differences towards the official one: statistics are matched to
    the input's unless told otherwise, and everything but the upsampler works on normalised latents, where tone mapping
    and the decoder's noise belong. Latents for a second pass want no tone mapping.

    Args:
        vae: Ours or Diffusers'; the one that the latents came from.
        latent_upsampler: Ours or Diffusers'.
    """

    # Each name counts once: the upsampler leaves before the VAE decodes, which takes the most memory.
    model_cpu_offload_seq = "latent_upsampler->vae"

    def __init__(
        self,
        vae: AutoencoderKLLTX | AutoencoderKLLTXVideo,
        latent_upsampler: LTXLatentUpsampler | LTXLatentUpsamplerModel,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, latent_upsampler=latent_upsampler)

    @torch.no_grad()
    def __call__(
        self,
        video: Any = None,
        height: int | None = None,
        width: int | None = None,
        latents: Tensor | None = None,
        decode_timestep: float | list[float] = 0.0,
        decode_noise_scale: float | list[float] | None = None,
        adain_factor: float = 1.0,
        tone_map_compression_ratio: float = 0.0,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> LTXPipelineOutput | tuple:
        """Upsample one video, or latents of several.

        Args:
            video: 8k + 1 pictures of one size, both sides multiples of 32; not with `latents`.
            height: Not needed; if given with `video`, its height.
            width: The same for its width.
            latents: Normalised latents (B, C, F, H, W); not with `video`.
            decode_timestep: Noise level that a decoder with timestep conditioning is told, one or one for each video.
            decode_noise_scale: Share of noise mixed in for such a decoder; `decode_timestep` if None.
            adain_factor: Share of matching each channel's mean and deviation to the input's (official: 1).
            tone_map_compression_ratio: Tone mapping before decoding, 0 to 1.
            generator: Source of all random numbers, one, or a list with one for each video.
            output_type: "pil", "np", "pt" (videos in [0, 1]), or "latent" (normalised latents).
            return_dict: Whether to return an `LTXPipelineOutput` instead of a tuple.

        Returns:
            The videos or latents as `.frames`, or in a tuple.

        Raises:
            InputError: If an argument can't be used; before anything is computed.
        """
        if (video is None) == (latents is None):
            raise InputError("an upsampler needs either a video or latents")
        if output_type not in OUTPUT_TYPES:
            raise InputError("unknown output_type", got=output_type, expected=", ".join(OUTPUT_TYPES))
        for name, share in (
            ("tone_map_compression_ratio", tone_map_compression_ratio),
            ("adain_factor", adain_factor),
        ):
            if not is_number(share) or not 0 <= share <= 1:
                raise InputError(f"{name} must be in [0, 1]", got=share)
        count = 1 if latents is None else latents.shape[0]
        timestep = _listed("decode_timestep", decode_timestep, count)
        noise_scale = timestep
        if decode_noise_scale is not None:
            noise_scale = _listed("decode_noise_scale", decode_noise_scale, count)
        device = self._execution_device
        if video is not None:
            pixels = self._pixels(video, height, width)
            latents = encode_frames(self.vae, pixels[None].to(device), 1, generator)
        latents = latents.to(device, torch.float32)
        upsampled = upsample_latents(self.vae, self.latent_upsampler, latents, adain_factor)
        if output_type == "latent":
            frames = tone_map(upsampled, tone_map_compression_ratio)
        else:
            decoded = decode_latents(
                self.vae,
                upsampled,
                timestep=timestep,
                noise_scale=noise_scale,
                generator=generator,
                tone_map_compression=tone_map_compression_ratio,
            )
            frames = to_output(decoded, output_type, overwrite=True)
        self.maybe_free_model_hooks()
        return LTXPipelineOutput(frames=frames) if return_dict else (frames,)

    def _pixels(self, video: Any, height: int | None, width: int | None) -> Tensor:
        pictures = split_images(video)
        sides = sides_of(pictures[0])
        if (height or sides[0], width or sides[1]) != sides:
            raise InputError(
                "the video has another size",
                got=f"{sides[1]}x{sides[0]}",
                expected=f"{width or sides[1]}x{height or sides[0]}",
                fix="resize it first",
            )
        side = self.vae.spatial_compression_ratio
        ratios = CompressionRatios(self.vae.temporal_compression_ratio, side, side)
        check_video_size(len(pictures), *sides, ratios)
        return video_pixels(pictures)


@torch.no_grad()
def upsample_latents(vae: Any, upsampler: torch.nn.Module, latents: Tensor, match: float = 1.0) -> Tensor:
    """Normalised latents of higher resolution (B, C, F', H', W'), float32, without gradients.

    Args:
        vae: Has the channels' statistics.
        upsampler: Works on latents that aren't normalised, on its own device.
        latents: Normalised (B, C, F, H, W).
        match: Share of matching the statistics of each channel to the input's.
    """
    statistics = (vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    raw = denormalize_latents(latents, *statistics)
    upsampled = upsampler(raw.to(upsampler.device, upsampler.dtype)).to(latents.device, torch.float32)
    upsampled = normalize_latents(upsampled, *statistics)
    return match_statistics(upsampled, latents, match) if match else upsampled


def _listed(name: str, value: float | list[float], count: int) -> list[float]:
    """One number for each of `count` videos; raises InputError if they aren't so many, in [0, 1]."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count:
        raise InputError(
            f"{name} must be one value for all videos or one for each", got=len(values), expected=count
        )
    for entry in values:
        if not is_number(entry) or not 0 <= entry <= 1:
            raise InputError(f"{name} must be in [0, 1]", got=entry)
    return values
