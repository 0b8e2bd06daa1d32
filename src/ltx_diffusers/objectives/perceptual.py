"""Perceptual losses: distance of frames in the features of a frozen network.

Which network is always said: `lpips` needs trained weights and refuses to work without them, `random-features` is a
stand-in that needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import InputError
from . import objectives
from .vae_objective import VAEObjective, VAEPass

_BIAS = 0.3


class Perceptual(VAEObjective):
    """Distance of frames by any callable; the mean over frames.

    Args:
        distance: Takes two batches of frames (N, 3, H, W) in [-1, 1] and gives N distances, in any shape. A module is
            frozen and stays out of checkpoints.
        chunk: Frames that are compared at a time, to save memory; their features are computed once more in the
            backward pass. None for all, whose features are kept.
    """

    is_reconstruction = True

    def __init__(
        self, distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], chunk: int | None = None
    ) -> None:
        super().__init__()
        if isinstance(distance, nn.Module):
            distance.requires_grad_(False).eval()
        self._distance = (distance,)  # in a tuple, a network isn't a part of this module
        self.chunk = chunk

    def on_reconstruction(self, record: VAEPass) -> torch.Tensor:
        """Loss of each sample, (B,)."""
        distance, device = self._distance[0], record.reconstruction.device
        if isinstance(distance, nn.Module) and any(p.device != device for p in distance.parameters()):
            distance.to(device)
        batch, _, frames = record.video.shape[:3]
        originals, results = (
            video.transpose(1, 2).flatten(0, 1) for video in (record.video, record.reconstruction)
        )
        if self.chunk is None:
            return distance(results, originals).reshape(batch, frames).mean(1)
        parts = [
            # Parts save memory only if their features aren't kept for the backward pass.
            checkpoint(distance, result, original, use_reentrant=False, preserve_rng_state=False).reshape(-1)
            for result, original in zip(results.split(self.chunk), originals.split(self.chunk), strict=True)
        ]
        return torch.cat(parts).unflatten(0, (batch, frames)).mean(1)


@objectives.register("lpips")
class LPIPS(Perceptual):
    """LPIPS with its trained weights (arXiv 1801.03924); the mean over frames.

    Args:
        network: "vgg", as autoencoders are usually trained with, "alex" or "squeeze".
        package: Where it comes from: "lpips" or "torchmetrics".
        chunk: Frames that are compared at a time; None for all.

    Raises:
        InputError: If the package or the weights of its network aren't there and can't be fetched.
    """

    def __init__(
        self,
        network: Literal["vgg", "alex", "squeeze"] = "vgg",
        package: Literal["lpips", "torchmetrics"] = "lpips",
        chunk: int | None = None,
    ) -> None:
        if package not in _BUILDERS:
            raise InputError(
                "unknown package for LPIPS", got=repr(package), expected=f"one of {', '.join(_BUILDERS)}"
            )
        try:
            distance = _BUILDERS[package](network)
        except ImportError as error:
            raise InputError(
                f"the objective 'lpips' needs the package {error.name or package}",
                fix=f'pip install "ltx-diffusers[train]" {package} torchvision, or use the objective'
                " 'random-features', which is something else but needs no weights",
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(
                "the weights of LPIPS' network can't be fetched",
                got=str(error)[:200],
                fix="fetch them once where there is a network, or use the objective 'random-features'",
            ) from error
        super().__init__(distance, chunk)


@objectives.register("random-features")
class RandomFeatures(Perceptual):
    """Stand-in for LPIPS without trained weights: squared distance in the features of a fixed random network.

    The frames pass a pyramid of strided convolutions whose weights are drawn once from `seed`. As in LPIPS, each
    position's features are scaled to length 1, squared differences are summed over channels and averaged over
    positions; here also over the stages. It feels structure at several scales, but not what people find alike: don't
    read its values as LPIPS.

    Args:
        seed: Of the network's weights.
        channels: Channels of each stage; each halves rows and columns.
        chunk: Frames that are compared at a time; None for all.
    """

    def __init__(
        self, seed: int = 0, channels: tuple[int, ...] = (16, 32, 64, 64), chunk: int | None = None
    ) -> None:
        super().__init__(RandomFeatureDistance(seed, tuple(channels)), chunk)


class RandomFeatureDistance(nn.Module):
    """Distances (N,) of frames (N, 3, H, W) in the features of a fixed random network.

    Args:
        seed: Of its weights.
        channels: Channels of each stage.
    """

    def __init__(self, seed: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kernels, self.biases = nn.ParameterList(), nn.ParameterList()
        last = 3
        for width in channels:
            kernel = torch.randn(width, last, 3, 3, generator=generator)
            self.kernels.append(nn.Parameter(kernel * (2 / (9 * last)) ** 0.5))
            # Without biases, scaling to length 1 would forget contrast and blow up what little flat grounds hold.
            self.biases.append(nn.Parameter(_BIAS * torch.randn(width, generator=generator)))
            last = width

    def forward(self, result: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        """Distance of each pair of frames, (N,)."""
        total: torch.Tensor | float = 0.0
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            kernel, bias = kernel.to(result.dtype), bias.to(result.dtype)
            result, original = (
                F.leaky_relu(F.conv2d(x, kernel, bias, stride=2, padding=1), 0.2) for x in (result, original)
            )
            difference = F.normalize(result, dim=1) - F.normalize(original, dim=1)
            total = total + difference.square().sum(1).mean((1, 2))
        return total / len(self.kernels)


def _from_lpips(network: str) -> nn.Module:
    import lpips

    return lpips.LPIPS(net=network, verbose=False)


class _TorchMetricsDistance(nn.Module):
    """`torchmetrics`' LPIPS network, frame by frame instead of averaged."""

    def __init__(self, network: str) -> None:
        super().__init__()
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        self.network = _NoTrainLpips(net=network)

    def forward(self, result: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        """Distance of each pair of frames, (N,)."""
        return self.network(result, original).reshape(-1)


_BUILDERS: dict[str, Callable[[str], nn.Module]] = {
    "lpips": _from_lpips,
    "torchmetrics": _TorchMetricsDistance,
}
