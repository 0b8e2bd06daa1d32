"""Samplers: how tokens go from one noise level to the next.

All work on rectified flow, x = (1 - sigma) x0 + sigma e, with the velocity v = e - x0: the clean prediction is
x0 = x - sigma v, and a straight step to the level s is x + (s - sigma) v. A sampler sees one contract,
`velocity(x, sigma)`, and may call it as often as it likes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from ..errors import InputError, RegistrationError
from ..functional.generators import Generators
from ..registry import Registry

Velocity = Callable[[Tensor, float], Tensor]
"""Velocity (B, L, C) of tokens (B, L, C) at a noise level."""

Draw = Callable[[], Tensor]
"""Gaussian noise (B, L, C), new at every call."""


class Sampler(Protocol):
    """Steps of one run. Every run works on a copy of its own (`own_copy`), so that it may remember earlier steps."""

    def step(self, velocity: Velocity, x: Tensor, sigma: float, following: float, draw: Draw) -> Tensor:
        """The tokens at the next noise level.

        Args:
            velocity: The model.
            x: Tokens (B, L, C) at `sigma`.
            sigma: Noise level, above 0.
            following: The next one, below it; 0 at the end.
            draw: Source of noise.
        """
        ...


def _check_sampler(name: str, entry: type[Sampler]) -> None:
    if not callable(getattr(entry, "step", None)):
        raise RegistrationError(
            f"the sampler {name!r} must be a class with step(velocity, x, sigma, following, draw)",
            got=getattr(entry, "__name__", entry),
        )


samplers: Registry[type[Sampler]] = Registry("sampler", _check_sampler)


def own_copy(sampler: Sampler) -> Sampler:
    """A sampler for one run, so that what it remembers doesn't reach the next one.

    Args:
        sampler: As the caller gave it; it is left as it is.

    Raises:
        InputError: If it isn't a sampler, or can't be copied.
    """
    if isinstance(sampler, type) or not callable(getattr(sampler, "step", None)):
        raise InputError(
            "a sampler must be an object with step(velocity, x, sigma, following, draw)",
            got=f"the class {sampler.__name__}" if isinstance(sampler, type) else repr(sampler),
            expected=f"such an object, or a name: {', '.join(samplers.list())}",
        )
    try:
        return copy.deepcopy(sampler)
    except (TypeError, RuntimeError) as error:
        raise InputError(
            "every run works on a copy of its sampler, and this one can't be copied",
            got=error,
            fix="give it a __deepcopy__, or keep what can't be copied out of it",
        ) from error


@samplers.register("euler")
class Euler:
    """A straight step along the velocity; one run of the model a step."""

    def step(self, velocity: Velocity, x: Tensor, sigma: float, following: float, draw: Draw) -> Tensor:
        """See `Sampler.step`."""
        return x + (following - sigma) * velocity(x, sigma)


@samplers.register("stochastic")
class Stochastic:
    """All the way to the clean prediction, and back up with new noise: how distilled models are sampled.

    One run of the model a step (official scheduler, `stochastic_sampling`).
    """

    def step(self, velocity: Velocity, x: Tensor, sigma: float, following: float, draw: Draw) -> Tensor:
        """See `Sampler.step`."""
        clean = x - sigma * velocity(x, sigma)
        return (1 - following) * clean + following * draw()


@samplers.register("euler-ancestral")
class EulerAncestral:
    """A step below the next level, then back up to it with new noise.

    With the clean part scaled from 1 - down to 1 - following, noise of the missing variance brings the tokens to
    exactly the next level's mixture.

    Args:
        eta: Share of the way below, 0 for plain Euler, 1 for the step down to following^2 / sigma.

    Raises:
        InputError: If eta is outside [0, 1].
    """

    def __init__(self, eta: float = 1.0) -> None:
        if not 0 <= eta <= 1:
            raise InputError("eta must be in [0, 1]", got=eta)
        self.eta = eta

    def step(self, velocity: Velocity, x: Tensor, sigma: float, following: float, draw: Draw) -> Tensor:
        """See `Sampler.step`."""
        down = following * (1 + (following / sigma - 1) * self.eta)
        x = x + (down - sigma) * velocity(x, sigma)
        if following == 0 or self.eta == 0:
            return x
        kept = (1 - following) / (1 - down)
        return kept * x + math.sqrt(following**2 - (down * kept) ** 2) * draw()


@samplers.register("heun")
class Heun:
    """The mean of the velocities at both ends of an Euler step; two runs of the model, one in the last step."""

    def step(self, velocity: Velocity, x: Tensor, sigma: float, following: float, draw: Draw) -> Tensor:
        """See `Sampler.step`."""
        first = velocity(x, sigma)
        ahead = x + (following - sigma) * first
        if following == 0:
            return ahead
        return x + (following - sigma) * (first + velocity(ahead, following)) / 2


@samplers.register("res-2s")
class ExponentialSecondOrder:
    """Second-order exponential integrator with the midpoint in log sigma ("res_2s"; arXiv 2308.02157).

    In l = -log sigma the tokens follow dx/dl = x0(x) - x, whose linear part is solved exactly. Two runs of the
    model a step, one in the last.
    """

    midpoint = 0.5

    def step(self, velocity: Velocity, x: Tensor, sigma: float, following: float, draw: Draw) -> Tensor:
        """See `Sampler.step`."""
        clean = x - sigma * velocity(x, sigma)
        if following == 0:
            return clean
        h, c = math.log(sigma / following), self.midpoint
        middle = sigma * math.exp(-c * h)
        ahead = math.exp(-c * h) * x + (1 - math.exp(-c * h)) * clean
        ahead_clean = ahead - middle * velocity(ahead, middle)
        phi_1 = -math.expm1(-h)  # h times phi_1(-h)
        phi_2 = (math.expm1(-h) + h) / h  # h times phi_2(-h)
        return math.exp(-h) * x + (phi_1 - phi_2 / c) * clean + phi_2 / c * ahead_clean


@samplers.register("gradient-estimation")
class GradientEstimation:
    """Euler with the velocity pushed away from the last step's (arXiv 2306.04848); one run of the model a step.

    Args:
        gamma: Weight of the new velocity against 1 - gamma of the last; 1 is plain Euler, 2 the paper's.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        self.gamma = gamma
        self._last: Tensor | None = None

    def step(self, velocity: Velocity, x: Tensor, sigma: float, following: float, draw: Draw) -> Tensor:
        """See `Sampler.step`."""
        current = velocity(x, sigma)
        estimate = current if self._last is None else self.gamma * current + (1 - self.gamma) * self._last
        self._last = current
        return x + (following - sigma) * estimate


class SchedulerSampler:
    """The steps of a scheduler, ours or any flow-matching one of Diffusers'; what pipelines use unless told.

    Args:
        scheduler: After its `set_timesteps`.
        generator: Source of its noise, one, or a list with one per sample.
    """

    def __init__(self, scheduler: Any, generator: Generators = None) -> None:
        self._scheduler = scheduler
        self._generator = generator
        self._timesteps = iter(scheduler.timesteps)

    def step(self, velocity: Velocity, x: Tensor, sigma: float, following: float, draw: Draw) -> Tensor:
        """See `Sampler.step`; the scheduler knows its next level and draws by itself."""
        timestep = next(self._timesteps)
        return self._scheduler.step(
            velocity(x, sigma), timestep, x, generator=self._generator, return_dict=False
        )[0]
