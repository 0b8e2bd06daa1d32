"""The "video DWT" loss: absolute error of space-time Haar sub-bands (arXiv 2501.00103, section 2.1).

A pixel loss hardly feels fine detail, whose energy is small; the sub-bands give it its own terms.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..errors import InputError
from ..functional.wavelets import BANDS, haar_3d, with_even_frames
from . import objectives
from .vae_objective import VAEObjective, VAEPass


@objectives.register("wavelet")
class Wavelet(VAEObjective):
    """Absolute error of the 8 Haar sub-bands in time and space; a weighted mean over bands of each band's mean.

    With all weights 1 it is the mean over all coefficients. The average of a band is over channels and positions; the
    sum over bands is divided by 8, so raising one weight doesn't lower the others. With several levels, the lowest
    band is transformed again, its weight passes to the bands that it becomes, and the losses of the levels are added.
    Clips with an odd number of frames count the first one twice. The emphasis on the foreground doesn't enter.

    Args:
        band_weights: Weights that aren't 1, by the name of the band: low or high along frames, rows and columns, such
            as {"LLL": 0.0, "HHH": 2.0}.
        levels: How often the lowest band is transformed again, plus one.

    Raises:
        InputError: If a band has no such name or a negative weight, or there isn't a level.
    """

    is_reconstruction = True

    def __init__(self, band_weights: Mapping[str, float] | None = None, levels: int = 1) -> None:
        super().__init__()
        weights = dict.fromkeys(BANDS, 1.0) | dict(band_weights or {})
        for name, weight in weights.items():
            if name not in BANDS:
                raise InputError(f"there is no wavelet band {name!r}", expected=f"one of {', '.join(BANDS)}")
            if weight < 0:
                raise InputError(f"the weight of the wavelet band {name!r} must be at least 0", got=weight)
        if levels < 1:
            raise InputError("a wavelet loss needs a level or more", got=levels)
        self.weights = [weights[name] for name in BANDS]
        self.levels = levels
        self._band_errors: torch.Tensor | None = None

    def on_reconstruction(self, record: VAEPass) -> torch.Tensor:
        """Loss of each sample, (B,)."""
        error = record.reconstruction - record.video  # the transform is linear
        loss = error.new_zeros(error.shape[0])
        for level in range(self.levels):
            bands = haar_3d(with_even_frames(error))
            means = bands.abs().flatten(2).mean(2)
            if level == 0:
                self._band_errors = means.detach()
            last = level == self.levels - 1
            weights = [
                weight if last or name != "LLL" else 0.0
                for name, weight in zip(BANDS, self.weights, strict=True)
            ]
            loss = loss + (means * means.new_tensor(weights)[:, None]).sum(0) / len(BANDS)
            error = bands[0]
        return loss

    def diagnostics(self) -> dict[str, torch.Tensor]:
        """Error of each band on the first level."""
        if self._band_errors is None:
            return {}
        return dict(zip(BANDS, self._band_errors, strict=True))
