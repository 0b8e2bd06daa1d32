"""Densities that training draws its noise levels from, registered by name in `timestep_densities`.

A density is a class whose objects have `sample(num_samples, *, num_tokens, generator, device, stratified)`
and return sigmas in the open interval (0, 1). Each draw is the image of one uniform number under the inverse
of the distribution function, so that any density can be stratified: with `stratified`, the N uniform numbers
of a call fall into the N equal parts of (0, 1), one each, in random order.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import InputError, RegistrationError
from ..functional.sigmas import check_count, sd3_mu
from ..registry import Registry

# Nearest to 0 and 1 that a float32 sigma comes.
_EDGE = 2.0**-24


class TimestepDensity(Protocol):
    """What the registry takes: a class whose objects sample noise levels."""

    def sample(
        self,
        num_samples: int,
        *,
        num_tokens: int | Tensor,
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
        stratified: bool = False,
    ) -> Tensor:
        """Draw sigmas.

        Args:
            num_samples: How many, B.
            num_tokens: Tokens of one sample: one count, or a tensor (B,).
            generator: Source of randomness.
            device: Where the result lies.
            stratified: Whether the draws of this call share (0, 1) out evenly.

        Returns:
            Sigmas (B,), float32, in (0, 1).
        """


def _check_density(name: str, entry: type[TimestepDensity]) -> None:
    if not isinstance(entry, type) or not callable(getattr(entry, "sample", None)):
        raise RegistrationError(
            f"the timestep density {name!r} must be a class with a method `sample`", got=entry
        )


timestep_densities: Registry[type[TimestepDensity]] = Registry("timestep density", _check_density)


def build_timestep_density(name: str, **options: Any) -> TimestepDensity:
    """The density called `name` with these options.

    Raises:
        UnknownNameError: If there is none.
        InputError: If it can't take the options.
    """
    kind = timestep_densities.get(name)
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        raise InputError(
            f"the timestep density {name!r} can't take these options", got=options, fix=str(error)
        ) from None
    return kind(**options)


@timestep_densities.register("uniform")
class UniformDensity:
    """Every noise level alike, whatever the resolution."""

    def sample(
        self,
        num_samples: int,
        *,
        num_tokens: int | Tensor,
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
        stratified: bool = False,
    ) -> Tensor:
        """Draw sigmas; see `TimestepDensity.sample`.

        Raises:
            InputError: If a count is out of range.
        """
        check_count("num_samples", num_samples)
        _token_counts(num_tokens, num_samples)
        return _finish(draw_uniform(num_samples, generator, stratified), device)


@timestep_densities.register("logit-normal")
class LogitNormalDensity:
    """sigmoid(N(mu, std)), moved towards noise as the token count grows (paper section 3; SD3, section 3.1).

    mu is the same line in the token count as SD3's shift of inference schedules. With `clip_percentiles`, the
    distribution is stretched linearly so that these percentiles of it fall on 0 and 1, what lies below `eps`
    is reflected there and what lies above 1 is held below 1; a share of the draws is uniform in (eps, 1). So
    no noise level is starved. That is the LTX-2 trainer's reading of the LTX-Video paper's clipped density.
    With `clip_percentiles=None, uniform_share=0` it is the plain density of the LTX-Video trainer.

    Args:
        std: Standard deviation of the normal distribution.
        clip_percentiles: The two percentiles as shares in (0, 1), or None for no stretch.
        uniform_share: Share of uniform draws, in [0, 1].
        eps: The smallest stretched or uniform sigma, in [0, 0.5).
        base_tokens, base_shift: A point of the line mu(tokens).
        max_tokens, max_shift: The other point.
        clamp_shift: Hold mu between the two shifts, as LTX-2 does at the upper end; otherwise the line goes
            on.

    Raises:
        InputError: If a number is out of range.
    """

    def __init__(
        self,
        *,
        std: float = 1.0,
        clip_percentiles: tuple[float, float] | None = (0.005, 0.999),
        uniform_share: float = 0.1,
        eps: float = 1e-3,
        base_tokens: int = 1024,
        max_tokens: int = 4096,
        base_shift: float = 0.95,
        max_shift: float = 2.05,
        clamp_shift: bool = False,
    ) -> None:
        if not std > 0:
            raise InputError("the standard deviation must be positive", got=std)
        if clip_percentiles is not None and not 0 < clip_percentiles[0] < clip_percentiles[1] < 1:
            raise InputError("the percentiles must be two rising shares in (0, 1)", got=clip_percentiles)
        if not 0 <= uniform_share <= 1:
            raise InputError("the uniform share must be in [0, 1]", got=uniform_share)
        if not 0 <= eps < 0.5:
            raise InputError("eps must be in [0, 0.5)", got=eps)
        if not 0 < base_tokens < max_tokens:
            raise InputError("base_tokens must be below max_tokens", got=f"{base_tokens} and {max_tokens}")
        self.std = std
        self.clip_percentiles = clip_percentiles
        self.uniform_share = uniform_share
        self.eps = eps
        self.line = {
            "base_tokens": base_tokens,
            "max_tokens": max_tokens,
            "base_shift": base_shift,
            "max_shift": max_shift,
            "clamp": clamp_shift,
        }

    def sample(
        self,
        num_samples: int,
        *,
        num_tokens: int | Tensor,
        generator: torch.Generator | None = None,
        device: str | torch.device | None = None,
        stratified: bool = False,
    ) -> Tensor:
        """Draw sigmas; see `TimestepDensity.sample`.

        Raises:
            InputError: If a count is out of range or `num_tokens` doesn't fit `num_samples`.
        """
        check_count("num_samples", num_samples)
        draws = draw_uniform(num_samples, generator, stratified)
        mu = sd3_mu(_token_counts(num_tokens, num_samples).to(draws.device), **self.line)
        # One number both chooses the part of the mixture and, rescaled, is the draw in it. A part without a
        # share is never chosen; its divisor only has to differ from 0.
        is_uniform = draws < self.uniform_share
        shaped = self._shape((draws - self.uniform_share) / max(1 - self.uniform_share, _EDGE), mu)
        flat = self.eps + (1 - self.eps) * draws / max(self.uniform_share, _EDGE)
        return _finish(torch.where(is_uniform, flat, shaped), device)

    def _shape(self, share: Tensor, mu: Tensor) -> Tensor:
        """The logit-normal sigmas, stretched if so set, of shares in (0, 1) of the distribution."""
        logits = mu + self.std * torch.special.ndtri(share.clamp(_EDGE, 1 - _EDGE))
        if self.clip_percentiles is None:
            return torch.sigmoid(logits)
        low, high = torch.special.ndtri(torch.tensor(self.clip_percentiles, dtype=mu.dtype)).tolist()
        # In 1 - sigma, which keeps its digits where a large mu pushes everything against sigma = 1.
        cleanest, noisiest = torch.sigmoid(-(mu + self.std * low)), torch.sigmoid(-(mu + self.std * high))
        stretched = (cleanest - torch.sigmoid(-logits)) / (cleanest - noisiest)
        return torch.where(stretched < self.eps, 2 * self.eps - stretched, stretched)


def draw_uniform(num_samples: int, generator: torch.Generator | None, stratified: bool) -> Tensor:
    """Uniform numbers in [0, 1), float64, (N,), on the generator's device; stratified if so wanted."""
    device = None if generator is None else generator.device
    draws = torch.rand(num_samples, generator=generator, device=device, dtype=torch.float64)
    if not stratified:
        return draws
    strata = torch.randperm(num_samples, generator=generator, device=device)
    return (strata + draws) / num_samples


def _token_counts(num_tokens: int | Tensor, num_samples: int) -> Tensor:
    """Token counts as float64, () or (B,)."""
    if not isinstance(num_tokens, Tensor):
        check_count("num_tokens", num_tokens)
    counts = torch.as_tensor(num_tokens, dtype=torch.float64)
    if counts.ndim > 1 or (counts.ndim == 1 and counts.numel() != num_samples):
        raise InputError(
            "num_tokens must be one count, or one per sample",
            got=f"shape {tuple(counts.shape)}",
            expected=f"() or ({num_samples},)",
        )
    return counts


def _finish(sigmas: Tensor, device: str | torch.device | None) -> Tensor:
    return sigmas.to(device=device, dtype=torch.float32).clamp(_EDGE, 1 - _EDGE)
