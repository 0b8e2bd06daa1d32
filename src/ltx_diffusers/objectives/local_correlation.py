"""SSVAE's local correlation regularisation (LCR, arXiv 2512.05394): neighbouring latents are to be alike.

Smooth latents have a spectrum that is easier to learn for a diffusion model. Constants follow the published code,
which differs from the paper's text.
"""

from __future__ import annotations

from typing import Literal

import torch

from ..errors import InputError
from ..functional.local_correlation import Average, local_correlation
from ..geometry import VideoSize
from . import objectives
from .vae_objective import Balance, PosteriorPass, VAEObjective


@objectives.register("local-correlation")
class LocalCorrelation(VAEObjective):
    """SSVAE's LCR: how far the local correlation of the posterior's mean is below a threshold; 0 above it.

    Published: weight 0.1 * 0.02 = 0.002 and the adaptive balance of the encoder's last convolution. Its gradient there
    is then 0.2 % of the reconstruction loss's while it is active; short runs need more.

    Reduction: with the scope "batch", as published, the correlation is averaged over the batch (the process's
    share of it) before the hinge, and each sample gets the same loss; with "sample" each sample has its own.

    Args:
        threshold: Correlation that is enough.
        window: Latent frames, rows and columns of the windows behind the first frame, whose own are one frame deep.
        average: How the first frame and the others are put together; see `functional.local_correlation`.
        scope: "batch" or "sample".

    Raises:
        InputError: If a setting is impossible.
    """

    default_balance = Balance("adaptive", "encoder", 1e8)

    def __init__(
        self,
        threshold: float = 0.75,
        window: tuple[int, int, int] = (2, 2, 2),
        average: Average = "average",
        scope: Literal["batch", "sample"] = "batch",
    ) -> None:
        super().__init__()
        if len(window) != 3 or min(window) < 1 or window[1] * window[2] < 2:
            raise InputError(
                "windows of local correlation need three sizes, and two latents or more in a frame",
                got=window,
            )
        if average not in ("average", "frames", "windows") or scope not in ("batch", "sample"):
            raise InputError(
                "unknown average or scope of local correlation",
                got=f"{average!r}, {scope!r}",
                expected="average, frames or windows; batch or sample",
            )
        self.threshold = threshold
        self.window = tuple(window)
        self.average = average
        self.couples_batch = scope == "batch"
        self._correlation: torch.Tensor | None = None

    def check_latents(self, size: VideoSize) -> None:
        """Refuse latents that the windows don't fill. Raises: `InputError`."""
        depth, height, width = self.window
        if size.height % height or size.width % width or (size.frames - 1) % depth:
            raise InputError(
                "the objective 'local-correlation' can't divide the latents into windows",
                got=f"latents of {size.frames}x{size.height}x{size.width}",
                expected=f"1 + {depth}k frames, rows and columns that are multiples of {height} and {width}",
                fix="choose another size of the clips, or other windows",
            )

    def on_posterior(self, posterior: PosteriorPass) -> torch.Tensor:
        """Loss of each sample, (B,)."""
        correlation = local_correlation(
            posterior.mean, self.window, average=self.average, over_batch=self.couples_batch
        )
        self._correlation = correlation.detach()
        if self.couples_batch:
            correlation = correlation.mean().expand(correlation.shape[0])
        return torch.relu(self.threshold - correlation)

    def diagnostics(self) -> dict[str, torch.Tensor]:
        """The correlation of each sample."""
        return {} if self._correlation is None else {"correlation": self._correlation}
