"""Floating-point operations that the cases of `benchmarks.run` take, counted from the models.

Only products of matrices and convolutions count, the latter as they are defined: a method with fewer products, such as
Winograd's, may take less time than they do at the machine's peak.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLLTXVideo
from torch.utils.flop_counter import FlopCounterMode

from ltx_diffusers.geometry import VideoSize, latent_size

from .sizes import LATENT_CHANNELS, WORDS, Size, Video


def transformer_flops(size: Size, texts: int) -> float:
    """Operations of one step under some texts; what depends on no text, or no step, counts once."""
    config, tokens = size.transformer, size.latent.frames * size.latent.height * size.latent.width
    width = config["num_attention_heads"] * config["attention_head_dim"]
    # Four products of self-attention, two of cross-attention, eight of the feed-forward; scores and values.
    linear = 2 * tokens * width * width * (4 + 2 + 8)
    attention = 4 * tokens * tokens * width + 4 * tokens * max(WORDS.values()) * width
    in_common = 4 * tokens * tokens * width + 2 * tokens * width * (LATENT_CHANNELS + 4 * width)
    all_rows = texts * (config["num_layers"] * (linear + attention) + 4 * tokens * LATENT_CHANNELS * width)
    return all_rows - (texts - 1) * in_common


def decode_flops(size: Size, video: Video) -> float:
    """Operations of decoding a video as a whole."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        latents = torch.empty(1, LATENT_CHANNELS, *latent_size(VideoSize(*video)))
        _vae(size).decode(latents, torch.empty(1) if size.vae["timestep_conditioning"] else None)
    return counter.get_total_flops()


def encode_flops(size: Size, video: Video) -> float:
    """Operations of encoding a video as a whole."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        _vae(size).encode(torch.empty(1, 3, *video))
    return counter.get_total_flops()


def generation_flops(size: Size, from_image: bool) -> float:
    """Operations of a whole guided generation, without the text encoder's."""
    _, height, width = size.video
    encoding = encode_flops(size, (1, height, width)) if from_image else 0
    return encoding + size.steps * transformer_flops(size, 2) + decode_flops(size, size.video)


def _vae(size: Size) -> torch.nn.Module:
    """Diffusers' VAE on the current device."""
    return AutoencoderKLLTXVideo(
        **{name: value for name, value in size.vae.items() if not name.startswith("default_")}
    )
