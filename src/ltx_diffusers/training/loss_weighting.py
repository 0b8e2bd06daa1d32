"""How much a sample's loss counts by its noise level: apart from the density that the level is drawn from.

A weighting is a class whose objects, called with sigmas (B,), return weights (B,). The loss that it weighs is the
squared error of the velocity v = noise - clean, which is sigma^-2 times that of the clean prediction.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import InputError, RegistrationError
from ..registry import Registry


class LossWeighting(Protocol):
    """What the registry takes: a class whose objects weigh noise levels."""

    def __call__(self, sigma: Tensor) -> Tensor:
        """Weights (B,) of the losses of samples at noise levels (B,) in (0, 1)."""


def _check_weighting(name: str, entry: type[LossWeighting]) -> None:
    if not isinstance(entry, type) or "__call__" not in dir(entry):
        raise RegistrationError(
            f"the loss weighting {name!r} must be a class whose objects are called with sigmas", got=entry
        )


loss_weightings: Registry[type[LossWeighting]] = Registry("loss weighting", _check_weighting)


def build_loss_weighting(name: str, **options: Any) -> LossWeighting:
    """The weighting called `name` with these options.

    Raises:
        UnknownNameError: If there is none.
        InputError: If it can't take the options.
    """
    kind = loss_weightings.get(name)
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        raise InputError(
            f"the loss weighting {name!r} can't take these options", got=options, fix=str(error)
        ) from None
    return kind(**options)


@loss_weightings.register("none")
class NoWeighting:
    """Every level counts alike: the velocity's own error, as in the paper."""

    def __call__(self, sigma: Tensor) -> Tensor:
        """Ones (B,)."""
        return torch.ones_like(sigma)


@loss_weightings.register("min-snr")
class MinSNR:
    """min(SNR, gamma) on the error of the clean prediction (Hang et al. 2023, section 3.3), for straight paths.

    There the signal-to-noise ratio is ((1 - sigma) / sigma)^2, so the velocity's error gets
    min((1 - sigma)^2, gamma sigma^2): little at both ends, most where the ratio is gamma.

    Args:
        gamma: Where the ratio is cut.

    Raises:
        InputError: If gamma isn't positive.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise InputError("gamma must be positive", got=gamma)
        self.gamma = gamma

    def __call__(self, sigma: Tensor) -> Tensor:
        """Weights (B,)."""
        return torch.minimum((1 - sigma) ** 2, self.gamma * sigma**2)


@loss_weightings.register("cosmap")
class CosMap:
    """2 / (pi (1 - 2 sigma + 2 sigma^2)): the middle counts twice as much as the ends (SD3, section 3.1)."""

    def __call__(self, sigma: Tensor) -> Tensor:
        """Weights (B,)."""
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))
