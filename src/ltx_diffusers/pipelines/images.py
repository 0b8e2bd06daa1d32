"""Images given to a pipeline: checked, resized, encoded to latents of one frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..errors import InputError
from ..functional.latents import normalize_latents


def split_images(image: Any) -> list[Image.Image | Tensor]:
    """A list of single images from what a caller may give.

    Args:
        image: One image, a batch of them as one array, or a list. An image is a PIL image, an array (H, W, 3)
            or a tensor (3, H, W); numbers are uint8, or floats in [0, 1].

    Returns:
        PIL images, or tensors (3, H, W), uint8 or floats in [0, 1].

    Raises:
        InputError: If something isn't such an image.
    """
    if isinstance(image, (np.ndarray, torch.Tensor)) and image.ndim == 4:
        image = list(image)
    images = image if isinstance(image, (list, tuple)) else [image]
    if not images:
        raise InputError("no image was given", got=image)
    return [_single(entry) for entry in images]


def as_pil(picture: Image.Image | Tensor) -> Image.Image:
    """One of `split_images`' pictures as a PIL image in RGB."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    pixels = picture if picture.dtype == torch.uint8 else (picture * 255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.detach().permute(1, 2, 0).cpu().numpy()))


def check_images(image: Any, num_prompts: int) -> None:
    """Check the images of a call.

    Raises:
        InputError: If they aren't images, or neither one nor one for each prompt.
    """
    if image is None:
        raise InputError("image-to-video needs an image", fix="pass image, or use LTXPipeline")
    count = len(split_images(image))
    if count not in (1, num_prompts):
        raise InputError(
            "image must be one image or one for each prompt",
            got=f"{count} images",
            expected=f"1 or {num_prompts}",
        )


def pixel_frames(image: Any, height: int, width: int) -> Tensor:
    """Images as frames (N, 3, 1, height, width) in [-1, 1], stretched to that size.

    PIL images are resized by Lanczos filtering as in Diffusers; arrays and tensors by antialiased bicubic
    filtering, where Diffusers takes the nearest pixel.

    Raises:
        InputError: If something isn't an image.
    """
    frames = torch.stack([_resized(entry, height, width) for entry in split_images(image)])
    return (2 * frames - 1).unsqueeze(2)


def encode_frames(
    vae: Any,
    frames: Tensor,
    videos_per_image: int,
    generator: torch.Generator | list[torch.Generator] | None,
) -> Tensor:
    """Normalised latents of first frames, one for each video.

    The latents are drawn from the VAE's distribution, as in the official pipeline and Diffusers. A list of
    generators draws for each video, as single calls would; one generator draws for each image.

    Args:
        vae: Ours or Diffusers'.
        frames: (N, 3, 1, H, W) in [-1, 1], on the device where the VAE runs. An offloaded VAE's own `device` is
            another.
        videos_per_image: Each image serves so many videos in a row.
        generator: One, or one for each video.

    Returns:
        (N * videos_per_image, C, 1, H', W') float32.
    """
    drawn = []
    for index, frame in enumerate(frames):
        posterior = vae.encode(frame[None].to(vae.dtype)).latent_dist
        if isinstance(generator, list):
            own = generator[index * videos_per_image : (index + 1) * videos_per_image]
            drawn += [posterior.sample(one) for one in own]
        else:
            drawn += [posterior.sample(generator)] * videos_per_image
    scaling = vae.config.scaling_factor
    return normalize_latents(torch.cat(drawn).float(), vae.latents_mean, vae.latents_std, scaling)


def _single(image: Any) -> Image.Image | Tensor:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        channels_last = image.ndim == 3 and image.shape[2] == 3
        # A copy, because arrays may be read-only or flipped, as in pixels[..., ::-1].
        tensor = torch.from_numpy(image.copy()).permute(2, 0, 1) if channels_last else None
    elif isinstance(image, torch.Tensor):
        tensor = image if image.ndim == 3 and image.shape[0] == 3 else None
    else:
        raise InputError("an image must be a PIL image, an array or a tensor", got=type(image).__name__)
    if tensor is None:
        raise InputError(
            "an image has the wrong shape",
            got=tuple(image.shape),
            expected="(height, width, 3) as an array, (3, height, width) as a tensor",
        )
    if not tensor.numel():
        raise InputError("an image has no pixels", got=tuple(image.shape))
    if tensor.dtype == torch.uint8:
        return tensor  # a clip in floats would be four times as large
    if not tensor.is_floating_point() or not bool(((tensor >= 0) & (tensor <= 1)).all()):
        raise InputError(
            "an image's values are out of range",
            got=f"{tensor.dtype} from {tensor.min().item():.3g} to {tensor.max().item():.3g}",
            expected="uint8, or floats in [0, 1]",
        )
    return tensor.float()


def _resized(image: Image.Image | Tensor, height: int, width: int) -> Tensor:
    """(3, height, width) float32 in [0, 1]."""
    if isinstance(image, Image.Image):
        image = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    image = image / 255 if image.dtype == torch.uint8 else image
    if image.shape[1:] == (height, width):
        return image.cpu()
    resized = functional.interpolate(image[None].cpu(), (height, width), mode="bicubic", antialias=True)
    return resized[0].clamp(0, 1)
