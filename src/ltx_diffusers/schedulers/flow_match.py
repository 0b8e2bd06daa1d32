"""`LTXFlowMatchScheduler`: the noise levels that sampling visits, and the step from one to the next.

The model predicts the velocity v = e - x0 of the straight path x = (1 - sigma) x0 + sigma e (paper section
2.3), so a step down to sigma' is x' = x - (sigma - sigma') v. Timesteps are sigmas times 1000
(`num_train_timesteps`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config

# Diffusers finds a saved component's base class by its name in the component's own module.
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from ..errors import InputError, UnknownNameError
from ..functional.generators import Generators
from ..functional.sigmas import (
    check_count,
    check_schedule,
    clamp_mu,
    next_sigmas,
    schedules,
    sd3_mu,
    shift_odds,
    stretch_to_terminal,
    uniform,
)
from . import foreign_configs
from .levels import Levels, append_axes, check_allowed, draw_noise, listed_levels, sigma_of

SHIFTS = ("sd3", "simple-diffusion")


class LTXFlowMatchScheduler(SchedulerMixin, ConfigMixin):
    """Euler sampler for rectified flow with LTX-Video's schedules, for whole samples or token by token.

    A schedule is built in three stages: a base of N sigmas from 1 downwards (`schedule`), a shift towards
    noise that grows with the number of tokens (`shifting`), and a stretch that sets the last sigma
    (`shift_terminal`). Releases 0.9.0 and 0.9.1 use "uniform", "sd3" and 0.1, later ones "linear-quadratic"
    without shift or stretch.

    `from_config` and `from_pretrained` also take configs of Diffusers' `FlowMatchEulerDiscreteScheduler` and
    of the official `RectifiedFlowScheduler`; keyword arguments override single fields, as in
    `from_config(diffusers_config, schedule="linear-quadratic")`.

    Differences from Diffusers' class, all in favour of the released model's own sampler: `step` looks the
    next sigma up by value, so it has no hidden counter and no wait for the device; one step works with a
    stretch; token-wise steps take the velocity with its own sign (see `negated_per_token_output`); the result
    has the dtype of `sample`.

    Args:
        num_train_timesteps: Timesteps are sigmas times this.
        schedule: Name in `functional.sigmas.schedules`: "uniform", "linear-quadratic", "constant-shift", or a
            plugin's.
        schedule_options: Keyword arguments of that schedule: {"threshold": 0.025, "linear_steps": None} for
            "linear-quadratic", {"shift": 3.0} for "constant-shift".
        shifting: Shift by resolution: None, "sd3" or "simple-diffusion".
        base_image_seq_len, base_shift: A point of SD3's line mu(tokens). Named as in Diffusers, whose
            pipelines read these fields. "simple-diffusion" has its factor 1 at `base_image_seq_len` tokens.
        max_image_seq_len, max_shift: The other point of SD3's line.
        clamp_shift: Hold SD3's mu between `base_shift` and `max_shift` rather than follow the line beyond.
        shift_terminal: The last sigma before 0, in (0, 1), or None to leave it where the shift puts it.
        stochastic_sampling: Whether each step goes to the predicted clean sample and adds fresh noise for the
            next level (distilled 0.9.6), instead of following the velocity.
        allowed_inference_steps: Sigmas that the model was distilled for, 4 digits; others are refused.
            None: any.
        default_num_inference_steps: Steps when `set_timesteps` gets neither a number nor a list.
        default_guidance_scale: The model's guidance scale, for pipelines; the scheduler doesn't use it.
        negated_per_token_output: Whether `model_output` is -v whenever `per_token_timesteps` is given. Only
            Diffusers' `LTXConditionPipeline` calls its scheduler like that.

    Raises:
        InputError: If a value is out of range; UnknownNameError for an unknown schedule or shift.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        schedule: str = "linear-quadratic",
        schedule_options: dict[str, Any] | None = None,
        shifting: str | None = None,
        base_image_seq_len: int = 1024,
        max_image_seq_len: int = 4096,
        base_shift: float = 0.95,
        max_shift: float = 2.05,
        clamp_shift: bool = False,
        shift_terminal: float | None = None,
        stochastic_sampling: bool = False,
        allowed_inference_steps: list[float] | None = None,
        default_num_inference_steps: int | None = None,
        default_guidance_scale: float | None = None,
        negated_per_token_output: bool = False,
    ) -> None:
        _check_options(schedule, schedule_options or {})
        if shifting is not None and shifting not in SHIFTS:
            raise UnknownNameError(
                "unknown shifting", got=repr(shifting), expected=f"None or one of {SHIFTS}"
            )
        if shift_terminal is not None and not 0 < shift_terminal < 1:
            raise InputError("shift_terminal must be None or in (0, 1)", got=shift_terminal)
        if not 0 < base_image_seq_len < max_image_seq_len:
            raise InputError(
                "the line of the shift needs two token counts",
                got=f"base_image_seq_len={base_image_seq_len}, max_image_seq_len={max_image_seq_len}",
                expected="0 < base_image_seq_len < max_image_seq_len",
            )
        if allowed_inference_steps is not None and len(allowed_inference_steps) == 0:
            raise InputError(
                "allowed_inference_steps allows nothing", got="an empty list", expected="None for any"
            )
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self._begin_index: int | None = None
        self._next_sigma: Tensor | None = None
        # The training grid, for code that reads `timesteps` before `set_timesteps`, as with Diffusers'
        # schedulers.
        self._set_sigmas(uniform(num_train_timesteps), None)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | None = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> LTXFlowMatchScheduler | tuple[LTXFlowMatchScheduler, dict[str, Any]]:
        """A scheduler from a config of this class, of Diffusers' or of the official one (by `_class_name`).

        Args:
            config: The config.
            return_unused_kwargs: Whether to return the keyword arguments that no field takes, too.
            **kwargs: Fields of this class that override the config's.

        Raises:
            InputError: If the config belongs to another scheduler or asks for what this class lacks.
        """
        if isinstance(config, Mapping):
            config = foreign_configs.own_config(config, cls.__name__)
        return super().from_config(config, return_unused_kwargs, **kwargs)

    @classmethod
    def from_diffusers_config(cls, config: Mapping[str, Any], **kwargs: Any) -> LTXFlowMatchScheduler:
        """The equal of Diffusers' `FlowMatchEulerDiscreteScheduler` with this config; see `from_config`."""
        return cls.from_config(foreign_configs.from_diffusers(config), **kwargs)

    @classmethod
    def from_official_config(cls, config: Mapping[str, Any], **kwargs: Any) -> LTXFlowMatchScheduler:
        """The equal of the official `RectifiedFlowScheduler` with this config; see `from_config`.

        Released files keep `allowed_inference_steps` next to this config: pass it on as a keyword argument.
        """
        return cls.from_config(foreign_configs.from_official(config), **kwargs)

    def to_diffusers_config(self) -> dict[str, Any]:
        """Config of Diffusers' `FlowMatchEulerDiscreteScheduler` with the same schedule.

        Raises:
            InputError: If that class can't express it.
        """
        return foreign_configs.to_diffusers(self.config)

    def to_official_config(self) -> dict[str, Any]:
        """Config of the official `RectifiedFlowScheduler` with the same schedule.

        Raises:
            InputError: If that class can't express it.
        """
        return foreign_configs.to_official(self.config)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Levels | None = None,
        timesteps: Levels | None = None,
        mu: float | None = None,
        num_tokens: int | None = None,
    ) -> None:
        """Choose the noise levels of the next run: the configured schedule, or an explicit list.

        An explicit list is final, with one exception for Diffusers' pipelines: `sigmas` together with `mu`
        are a base in place of the configured one, still to be shifted and stretched. Diffusers' LTXPipeline
        always passes uniform `sigmas` with `mu`, so in it a "linear-quadratic" scheduler runs uniform steps;
        LTXConditionPipeline passes linear-quadratic `timesteps`.

        Args:
            num_inference_steps: Steps N, at least 1; `default_num_inference_steps` if nothing is given.
            device: Where `timesteps` and `sigmas` are kept.
            sigmas: Explicit noise levels in (0, 1], falling. They may end in a 0, which is no step
                of its own.
            timesteps: The same as timesteps in (0, 1000]; never shifted.
            mu: Logarithm of SD3's shift factor, in place of the one that follows from `num_tokens`.
            num_tokens: Tokens of one sample, for the shift by resolution.

        Raises:
            InputError: If the numbers can't be a schedule, contradict each other, aren't allowed for this
                model, or the shift needs a token count.
        """
        if sigmas is not None and timesteps is not None:
            raise InputError("both sigmas and timesteps were given", expected="one of them")
        if timesteps is not None:
            levels = listed_levels(timesteps) / self.config.num_train_timesteps
        elif sigmas is not None:
            levels = listed_levels(sigmas)
            check_schedule(levels)
            if mu is not None:
                levels = self._shifted(self._constant_shifted(levels), mu, num_tokens)
        else:
            levels = self._scheduled(num_inference_steps, mu, num_tokens)
        listed = sigmas is not None or timesteps is not None
        if listed and num_inference_steps is not None and num_inference_steps != levels.numel():
            raise InputError(
                "the number of steps differs from the list's",
                got=f"{num_inference_steps} steps, a list of {levels.numel()}",
                fix="leave num_inference_steps out",
            )
        check_schedule(levels.float())
        check_allowed(levels, self.config.allowed_inference_steps)
        self._set_sigmas(levels, device)
        self.num_inference_steps = levels.numel()
        self._begin_index = None
        self._next_sigma = None

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        *,
        per_token_timesteps: Tensor | None = None,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Go from the current noise level to the next scheduled one below it.

        The current level needn't be a scheduled one. With `per_token_timesteps` every token goes from its own
        level to the largest scheduled one below; tokens at 0 stay as they are. Computed in float32 (float64
        for float64 samples), without waiting for the device.

        Args:
            model_output: Velocity v = e - x0, like `sample`.
            timestep: Timestep in [0, 1000], float: one for all, or (B,). Not used if `per_token_timesteps`
                is given.
            sample: Noisy latents (B, L, C), or (B, C, F, H, W) without `per_token_timesteps`.
            per_token_timesteps: Timesteps (B, L) in [0, 1000], or (B, 1) for all tokens of a sample.
            generator: Source of the noise of `stochastic_sampling`, one, or a list with one per sample.
            return_dict: Whether to return an output object rather than a tuple.

        Returns:
            The next sample in `sample`'s dtype, as `.prev_sample` or in a tuple.

        Raises:
            InputError: If `set_timesteps` wasn't called, or a shape, dtype or number of generators is wrong.
        """
        if self.num_inference_steps is None:
            raise InputError("the scheduler has no schedule yet", fix="call set_timesteps first")
        if model_output.shape != sample.shape:
            raise InputError(
                "model_output and sample differ in shape",
                got=tuple(model_output.shape),
                expected=tuple(sample.shape),
            )
        dtype = torch.promote_types(sample.dtype, torch.float32)
        scale = self.config.num_train_timesteps
        x, velocity = sample.to(dtype), model_output.to(dtype)
        if per_token_timesteps is None:
            current = sigma_of(timestep, x, scale, per_token=False)
        else:
            current = sigma_of(per_token_timesteps, x, scale, per_token=True)
            velocity = -velocity if self.config.negated_per_token_output else velocity
        following = next_sigmas(self.sigmas.to(x.device), current)
        self._next_sigma = following
        current, following = append_axes(current, x), append_axes(following, x)
        if self.config.stochastic_sampling:
            clean = x - current * velocity
            noise = draw_noise(clean, generator)
            result = (1 - following) * clean + following * noise
        else:
            result = x - (current - following) * velocity
        result = result.to(sample.dtype)
        return SchedulerOutput(prev_sample=result) if return_dict else (result,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: float | Tensor) -> Tensor:
        """Mix clean samples with noise: (1 - sigma) x0 + sigma e.

        Args:
            original_samples: Clean latents (B, L, C) or (B, C, F, H, W).
            noise: Gaussian noise like it.
            timesteps: Timesteps in [0, 1000], scheduled or not: one for all, (B,), or (B, L) for (B, L, C).

        Returns:
            Noisy samples in `original_samples`' dtype.

        Raises:
            InputError: If the shapes don't fit.
        """
        if noise.shape != original_samples.shape:
            raise InputError(
                "noise and samples differ in shape",
                got=tuple(noise.shape),
                expected=tuple(original_samples.shape),
            )
        dtype = torch.promote_types(original_samples.dtype, torch.float32)
        x, noise = original_samples.to(dtype), noise.to(dtype)
        per_token = isinstance(timesteps, Tensor) and timesteps.ndim == 2
        sigma = append_axes(sigma_of(timesteps, x, self.config.num_train_timesteps, per_token=per_token), x)
        return ((1 - sigma) * x + sigma * noise).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: float | Tensor, noise: Tensor) -> Tensor:
        """`add_noise` with the order of arguments of Diffusers' flow-matching schedulers.

        Raises:
            InputError: If the shapes don't fit.
        """
        return self.add_noise(sample, noise, timestep)

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """`sample` as it is: rectified flow needs no scaling. Part of Diffusers' scheduler interface."""
        return sample

    @property
    def begin_index(self) -> int | None:
        """The index given to `set_begin_index`."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Note where in `timesteps` a run starts. `step` needs no such hint; only `step_index` reports it."""
        self._begin_index = begin_index

    @property
    def step_index(self) -> int | None:
        """Index in `sigmas` of the noise level reached (after token-wise steps: the lowest).

        Reading it waits for the device.
        """
        if self._next_sigma is None:
            return self._begin_index
        above = self.sigmas > self._next_sigma.min().to(self.sigmas.device)
        return int(above.sum())

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """Where a timestep stands in the schedule; waits for the device.

        Raises:
            InputError: If it isn't scheduled.
        """
        listed = self.timesteps if schedule_timesteps is None else schedule_timesteps
        distance = (listed - torch.as_tensor(timestep, device=listed.device)).abs()
        index = int(distance.argmin())
        if float(distance[index]) > 1e-3:
            raise InputError(
                "the timestep isn't in the schedule", got=float(timestep), expected=listed.tolist()
            )
        return index

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def _set_sigmas(self, levels: Tensor, device: str | torch.device | None) -> None:
        sigmas = torch.cat([levels, levels.new_zeros(1)])
        self.sigmas = sigmas.to(device=device, dtype=torch.float32)
        self.timesteps = self.sigmas[:-1] * self.config.num_train_timesteps

    def _scheduled(self, num_steps: int | None, mu: float | None, num_tokens: int | None) -> Tensor:
        if num_steps is None:
            num_steps = self.config.default_num_inference_steps
        if num_steps is None:
            raise InputError(
                "no number of steps was given and the model's config has no default",
                fix="give num_inference_steps",
            )
        base = schedules.get(self.config.schedule)(num_steps, **(self.config.schedule_options or {}))
        return self._shifted(base, mu, num_tokens)

    def _constant_shifted(self, base: Tensor) -> Tensor:
        if self.config.schedule != "constant-shift":
            return base
        return shift_odds(base, (self.config.schedule_options or {}).get("shift", 1.0))

    def _shifted(self, base: Tensor, mu: float | None, num_tokens: int | None) -> Tensor:
        """Stages 2 and 3 of the schedule: the shift by resolution and the stretch."""
        config = self.config
        if config.shifting is not None and num_tokens is None and (mu is None or config.shifting != "sd3"):
            raise InputError(f"the {config.shifting} shift depends on the resolution", fix="give num_tokens")
        if num_tokens is not None:
            check_count("num_tokens", num_tokens)
        if config.shifting == "sd3":
            if mu is None:
                line = {"base_tokens": config.base_image_seq_len, "max_tokens": config.max_image_seq_len}
                mu = sd3_mu(num_tokens, **line, base_shift=config.base_shift, max_shift=config.max_shift)
            if config.clamp_shift:
                mu = clamp_mu(mu, config.base_shift, config.max_shift)
            base = shift_odds(base, math.exp(float(mu)))
        elif config.shifting == "simple-diffusion":
            base = shift_odds(base, num_tokens / config.base_image_seq_len)
        return base if config.shift_terminal is None else stretch_to_terminal(base, config.shift_terminal)


def _check_options(schedule: str, options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(schedules.get(schedule)).bind(1, **options)
    except TypeError as error:
        raise InputError(
            f"the schedule {schedule!r} can't take these options", got=options, fix=str(error)
        ) from None
