"""The moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel


class WeightAverage:
    """A moving average of weights (Diffusers' `EMAModel`), which is what gets validated and exported.

    Args:
        parameters: The weights; parts of them if the model is sharded.
        decay: 0 keeps no average: the weights themselves count.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters) if decay > 0 else []
        self._ema = EMAModel(self._parameters, decay=decay, use_ema_warmup=True, power=3 / 4)

    @property
    def shadow_params(self) -> list[torch.Tensor]:
        """The averages, in the order of the parameters; none without a decay."""
        return self._ema.shadow_params

    def step(self) -> None:
        """Take the weights after a step in."""
        if self._parameters:
            self._ema.step(self._parameters)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged weights."""
        self._ema.store(self._parameters)
        self._ema.copy_to(self._parameters)
        try:
            yield
        finally:
            self._ema.restore(self._parameters)

    def to(self, device: torch.device) -> None:
        """Move the averages."""
        self._ema.to(device)

    def state_dict(self) -> dict:
        """Averages and settings, as `EMAModel` has them."""
        return self._ema.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned. An average that was not kept before begins with today's weights."""
        decay = self._ema.decay
        self._ema.load_state_dict(state)
        self._ema.decay = decay
        if len(self._ema.shadow_params) != len(self._parameters):
            self._ema.shadow_params = [parameter.detach().clone() for parameter in self._parameters]
