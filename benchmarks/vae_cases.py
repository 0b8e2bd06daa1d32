"""Encoding and decoding as cases of `benchmarks.run`.

`vae-decode` and `vae-encode` are a short video as each library codes it unless told otherwise. `-long` are all ways to
code a long one: in tiles, in time tiles ("framewise"), in the least memory that is exact ("least memory"), and taking
pieces as they come ("streamed": decoded frames go to memory that was there before, frames to encode come by eight).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ltx_diffusers import AutoencoderKLLTX
from ltx_diffusers.geometry import VideoSize, latent_size
from ltx_diffusers.models.autoencoders.layout import decoder_layout, encoder_layout
from ltx_diffusers.models.autoencoders.memory import frames_at_once, peak_numbers, pixel_choices

from .cases import TWO, Case, Models
from .floors import decode_flops, encode_flops
from .sizes import LATENT_CHANNELS, Size, Video

NOISE_LEVEL = 0.05
"""What a decoder that asks for it is told."""
WAYS = (
    "ours",
    "ours, least memory",
    "ours, streamed",
    "ours, tiled",
    "diffusers",
    "diffusers, tiled",
    "diffusers, framewise",
)


def least_budget(vae: AutoencoderKLLTX, video: VideoSize, item_bytes: int, decode: bool) -> int:
    """The smallest memory budget in which a video, its size in pixels, is coded exactly."""
    size = latent_size(video)
    if decode:
        layout = decoder_layout(vae.decoder, size.height, size.width)
        result = 3 * video.frames * video.height * video.width
    else:
        layout = encoder_layout(vae.encoder, video.height, video.width, vae.temporal_compression_ratio)
        result = (
            4 * LATENT_CHANNELS * size.frames * size.height * size.width
        )  # the moments, and what they're made of
    pieces = (frames_at_once(layout, pixels) for pixels in pixel_choices())
    return (result + min(peak_numbers(layout, each, size.frames) for each in pieces)) * item_bytes


def latents_of(video: Video, seed: int) -> torch.Tensor:
    """Random latents (1, C, F', H', W') of a video's size."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(1, LATENT_CHANNELS, *latent_size(VideoSize(*video)), generator=source)


def _decode(long: bool) -> Callable[[Models, str], Callable[[], torch.Tensor]]:
    def make(models: Models, target: str) -> Callable[[], torch.Tensor]:
        library, _, way = target.partition(", ")
        vae, size = models.get("vae", library), models.size
        video = size.long_video if long else size.short_video
        latents = latents_of(video, seed=4).to(models.device, models.dtype)
        level = None
        if size.vae["timestep_conditioning"]:
            level = torch.full((1,), NOISE_LEVEL, device=models.device, dtype=models.dtype)
        taken = torch.ones(1, 3, *video, dtype=models.dtype) if way == "streamed" else None

        def work() -> torch.Tensor:
            torch.manual_seed(2)  # of the noise that 0.9.1 injects
            if taken is None:
                return vae.decode(latents, level, return_dict=False)[0]
            done = 0
            for piece in vae.decode_stream(latents, level):
                taken[:, :, done : done + piece.shape[2]] = piece
                done += piece.shape[2]
            return taken

        return _in_this_way(work, vae, way, models, video, decode=True)

    return make


def _encode(long: bool) -> Callable[[Models, str], Callable[[], torch.Tensor]]:
    def make(models: Models, target: str) -> Callable[[], torch.Tensor]:
        library, _, way = target.partition(", ")
        vae, size = models.get("vae", library), models.size
        video = size.long_video if long else size.short_video
        given = torch.rand(1, 3, *video, generator=torch.Generator().manual_seed(5)) * 2 - 1
        given = given.to(models.device, models.dtype)

        def work() -> torch.Tensor:
            coded = vae.encode_stream(given.split(8, dim=2)) if way == "streamed" else vae.encode(given)
            return coded.latent_dist.mean

        return _in_this_way(work, vae, way, models, video, decode=False)

    return make


def _in_this_way(
    work: Callable[[], torch.Tensor],
    vae: torch.nn.Module,
    way: str,
    models: Models,
    video: Video,
    decode: bool,
) -> Callable[[], torch.Tensor]:
    """The work, with the settings of the VAE that a way needs for as long as it runs."""
    side, distance = models.size.tile

    @torch.no_grad()
    def worked() -> torch.Tensor:
        if way == "least memory":
            vae.enable_memory_budget(least_budget(vae, VideoSize(*video), models.dtype.itemsize, decode))
        if way == "tiled":
            vae.enable_tiling(
                side, side, tile_sample_stride_height=distance, tile_sample_stride_width=distance
            )
        if way == "framewise":  # encoding, too, goes by the name of decoding
            vae.use_framewise_decoding = True
        try:
            return work()
        finally:
            vae.use_tiling = vae.use_framewise_decoding = False
            if way == "least memory":
                vae.disable_memory_budget()

    return worked


def _flops(count: Callable[[Size, Video], float], long: bool) -> Callable[[Size], float]:
    return lambda size: count(size, size.long_video if long else size.short_video)


def _of_the_result(models: Models, result: torch.Tensor) -> dict[str, Any]:
    """How much of the peak is the result, but where pieces are taken."""
    return {"result_mb": round(result.nbytes / 1e6)}


CASES: dict[str, Case] = {
    "vae-decode": Case(_decode(False), TWO, _flops(decode_flops, False), facts=_of_the_result),
    "vae-encode": Case(_encode(False), TWO, _flops(encode_flops, False), facts=_of_the_result),
    "vae-decode-long": Case(_decode(True), WAYS, _flops(decode_flops, True), facts=_of_the_result),
    "vae-encode-long": Case(_encode(True), WAYS, _flops(encode_flops, True), facts=_of_the_result),
}
"""Cases by name."""
