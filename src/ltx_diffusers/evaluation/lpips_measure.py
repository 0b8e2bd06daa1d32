"""LPIPS as a measure of videos, where its weights are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..objectives.perceptual import LPIPS
from ..objectives.vae_objective import VAEPass

# Begin of the file names under which torchvision keeps the networks' weights.
_WEIGHTS = {"alex": "alexnet-", "vgg": "vgg16-", "squeeze": "squeezenet1_1-"}
_CHUNK = 16  # frames


def lpips_at_hand(network: str = "alex") -> str | None:
    """Why LPIPS can't be measured without fetching something; None if it can."""
    package = _package()
    if package is None:
        return "neither the package lpips nor torchmetrics with torchvision is installed"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not any(folder.glob(f"{_WEIGHTS[network]}*.pth")):
        return f"the weights of its network {network} aren't in {folder}"
    return None


def lpips_measure(network: str = "alex") -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """LPIPS (arXiv 1801.03924) of each frame: two videos (F, H, W, 3) in [0, 1] give (F,). Lower is better.

    Args:
        network: "alex", as it is usually reported, "vgg" or "squeeze". Its weights are fetched if they aren't there.

    Raises:
        InputError: If the package or the weights can't be had.
    """
    objective = LPIPS(network, _package() or "lpips", chunk=_CHUNK)

    @torch.no_grad()
    def measure(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
        none = torch.empty(0)  # it looks at no latents
        # Each frame as a sample of its own gives a value of its own.
        record = VAEPass(_frames(reference), _frames(other), none, none)
        return objective.on_reconstruction(record).numpy()

    return measure


def _package() -> str | None:
    if importlib.util.find_spec("torchvision") is None:
        return None
    return next((name for name in ("lpips", "torchmetrics") if importlib.util.find_spec(name)), None)


def _frames(video: np.ndarray) -> torch.Tensor:
    """(F, H, W, 3) in [0, 1] as videos of one frame, (F, 3, 1, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(video)).permute(0, 3, 1, 2)[:, :, None].float() * 2 - 1
