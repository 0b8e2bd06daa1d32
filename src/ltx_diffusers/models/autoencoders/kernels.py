"""The arithmetic of the autoencoder on tensors (B, F, H, W, C), whose channels lie side by side in memory.

In this layout norms are reductions over neighbours, frames are slices without a copy, and convolutions take their
input as it is (PyTorch calls it channels_last_3d). Nothing here records gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from . import fewer_products
from .causal_conv import is_plain_convolution
from .resnet import PIXEL_NORM_EPS

# Numbers that one step of a norm works on, so that its passes find them in the processor's cache.
_BLOCK = 1 << 19
# For fewer pixels in all frames, preparing the kernels costs more than it saves.
_LEAST_PIXELS = 512
LARGEST_KERNEL = 1 << 24
"""Entries of a kernel whose prepared copy, twice as large, is worth its memory: 134 MB."""


def convolve(conv: nn.Conv3d, padded: torch.Tensor, few_products: torch.Tensor | None = None) -> torch.Tensor:
    """Apply `conv`, which pads in space only, to `padded` (B, F, H, W, C), padded in time.

    A convolution that adapters or hooks have changed is called as the module that it is.

    Args:
        conv: The convolution.
        padded: Its input, contiguous.
        few_products: The kernels that `fewer_products.prepared_kernels` gave, to use that method.

    Returns:
        (B, F', H', W', C'), contiguous.
    """
    if few_products is not None:
        return _convolve_with_few_products(conv, padded, few_products)
    hidden = padded.permute(0, 4, 1, 2, 3)
    if not is_plain_convolution(conv):
        output = conv(hidden)
    else:
        on_cpu = hidden.device.type == "cpu" and hidden.dtype == torch.float32
        function = cpu_convolution() if on_cpu else F.conv3d
        output = function(hidden, conv.weight, conv.bias, conv.stride, conv.padding)
    return output.permute(0, 2, 3, 4, 1).contiguous()


def _convolve_with_few_products(conv: nn.Conv3d, padded: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    batch, length, height, width, _ = padded.shape
    frames = length - fewer_products.TAPS + 1
    output = padded.new_empty(batch, frames, height, width, conv.out_channels)
    # Fewer frames than a window gives are left to the plain way if that needs fewer products.
    rest = frames % fewer_products.FRAMES
    plain = rest if rest * fewer_products.TAPS <= fewer_products.WINDOW else 0
    main = frames - plain

    def in_space(images: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return by_onednn(images, kernel, None, (1, 1), conv.padding[1:])

    for sample, target in zip(padded, output, strict=True):
        source = sample[: main + fewer_products.TAPS - 1]
        fewer_products.convolve_in_time(source, kernels, conv.bias, in_space, target[:main])
    if plain:
        output[:, main:] = convolve(conv, padded[:, main:].contiguous())
    return output


def pays_with_few_products(conv: nn.Conv3d, padded: torch.Tensor) -> bool:
    """Whether `conv` of `padded` (B, F, H, W, C) is faster with fewer products, measured on a CPU.

    In bf16 it would be, too, but less precise than Diffusers is: 2 to 3 times the rounding error of a convolution.
    """
    if padded.device.type != "cpu" or padded.dtype != torch.float32 or not is_plain_convolution(conv):
        return False
    frames = padded.shape[1] - fewer_products.TAPS + 1
    pixels = frames * padded.shape[2] * padded.shape[3]
    return (
        conv.kernel_size == (3, 3, 3)
        and conv.stride == (1, 1, 1)
        and frames >= fewer_products.TAPS
        and pixels >= _LEAST_PIXELS
        and conv.weight.numel() <= LARGEST_KERNEL
        and cpu_convolution() is by_onednn
    )


def convolve_single(conv: nn.Conv3d, frame: torch.Tensor) -> torch.Tensor:
    """Apply a plain `conv` to a single frame (B, 1, H, W, C), all of whose padding in time is the frame itself."""
    weight = conv.weight.sum(dim=2)
    hidden = frame[:, 0].permute(0, 3, 1, 2)
    output = F.conv2d(hidden, weight, conv.bias, conv.stride[1:], conv.padding[1:])
    return output.permute(0, 2, 3, 1).unsqueeze(1).contiguous()


Convolution = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor | None, tuple[int, ...], tuple[int, ...]], torch.Tensor
]


@functools.cache
def cpu_convolution() -> Convolution:
    """The fastest way to convolve in fp32 on this processor that gives what `conv3d` gives.

    `conv3d` chooses a slow routine for small videos on one thread; oneDNN's, which it takes for larger ones, can be
    called by name. The name isn't part of PyTorch's documented interface, so it is tried once, and left alone if
    it is missing or gives anything else.

    Returns:
        A function of a video (B, C, F, H, W), weight, bias, stride and padding, as `conv3d`.
    """
    source = torch.Generator().manual_seed(0)
    video, weight, bias = (
        torch.randn(shape, generator=source) for shape in ((1, 4, 3, 5, 4), (8, 4, 3, 3, 3), (8,))
    )
    settings = ((2, 1, 1), (0, 1, 1))
    try:
        with torch.no_grad():
            found = by_onednn(video, weight, bias, *settings)
            agrees = torch.allclose(found, F.conv3d(video, weight, bias, *settings), rtol=1e-4, atol=1e-5)
    except (AttributeError, TypeError, RuntimeError):
        agrees = False
    return by_onednn if agrees else F.conv3d


def by_onednn(
    video: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> torch.Tensor:
    """`conv3d` by oneDNN, whatever the size of `video` (B, C, F, H, W); or `conv2d` of pictures (B, C, H, W)."""
    return torch.mkldnn_convolution(video, weight, bias, list(padding), list(stride), [1] * len(stride), 1)


def normalize_into(
    target: torch.Tensor,
    hidden: torch.Tensor,
    shift: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
) -> None:
    """Write silu(pixel_norm(hidden) * factor + shift) into `target`, computed in fp32.

    Args:
        target: (B, F, H, W, C); its frames must be contiguous.
        hidden: (B, F, H, W, C).
        shift: (B, C) in fp32, or None for 0.
        factor: (B, C) in fp32, or None for 1.
    """
    channels = hidden.shape[-1]
    for sample in range(hidden.shape[0]):
        rows, results = hidden[sample].reshape(-1, channels), target[sample].view(-1, channels)
        step = max(1, _BLOCK // channels)
        for start in range(0, rows.shape[0], step):
            block = rows[start : start + step].float()
            result = results[start : start + step]
            scale = torch.linalg.vector_norm(block, dim=1, keepdim=True)
            scale = scale.square_().div_(channels).add_(PIXEL_NORM_EPS).rsqrt_()
            work = result if result.dtype == torch.float32 else torch.empty_like(block)
            torch.mul(block, scale, out=work)
            if shift is not None:
                torch.addcmul(shift[sample], work, factor[sample], out=work)
            F.silu(work, inplace=True)
            if work is not result:
                result.copy_(work)


def expand_blocks(hidden: torch.Tensor, stride: tuple[int, int, int]) -> torch.Tensor:
    """Move channels into blocks of `stride`: (B, F, H, W, C s s s) to (B, F s, H s, W s, C)."""
    batch, frames, height, width, _ = hidden.shape
    t, h, w = stride
    blocks = hidden.unflatten(-1, (-1, t, h, w)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return blocks.reshape(batch, frames * t, height * h, width * w, -1)


def gather_blocks(hidden: torch.Tensor, stride: tuple[int, int, int]) -> torch.Tensor:
    """Inverse of `expand_blocks`: (B, F, H, W, C) to (B, F/s, H/s, W/s, C s s s)."""
    batch, frames, height, width, channels = hidden.shape
    t, h, w = stride
    blocks = hidden.reshape(batch, frames // t, t, height // h, h, width // w, w, channels)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(
        batch, frames // t, height // h, width // w, channels * t * h * w
    )


def patches_into(target: torch.Tensor, frames: torch.Tensor, patch_size: int) -> None:
    """Write the patches of `frames` (B, F, C, H, W) into `target` (B, F, H/p, W/p, C p p); as `patchify`."""
    p = patch_size
    patches = frames.unflatten(4, (-1, p)).unflatten(3, (-1, p)).permute(0, 1, 3, 5, 2, 6, 4)
    target.unflatten(-1, (frames.shape[2], p, p)).copy_(patches)


def pixels(hidden: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Turn `hidden` (B, F, H, W, C p p) into a view of it as (B, C, F, H, p, W, p): `unpatchify` before it copies."""
    p = patch_size
    return hidden.unflatten(-1, (-1, p, p)).permute(0, 4, 1, 2, 6, 3, 5)
