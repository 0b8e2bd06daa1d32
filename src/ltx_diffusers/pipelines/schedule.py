"""The noise levels of one call, on our scheduler or one of Diffusers'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import InputError
from ..functional.sigmas import linear_quadratic, sd3_mu, uniform
from ..schedulers.flow_match import LTXFlowMatchScheduler
from .release import is_untuned_uniform, warn_linear_quadratic
from .request import Request


def set_schedule(
    scheduler: Any,
    request: Request,
    *,
    num_tokens: int,
    vae_config: Mapping[str, Any],
    device: torch.device | str,
) -> None:
    """Choose the noise levels that this call visits.

    Ours takes explicit lists as they are. Diffusers' flow-matching schedulers go as in Diffusers' LTX pipelines:
    uniform sigmas, or the caller's, which the scheduler then shifts by the resolution if its config says so.

    Args:
        scheduler: Gets its `timesteps` and `sigmas` set.
        request: The call.
        num_tokens: Tokens of one video.
        vae_config: Tells the release where a scheduler of Diffusers' can't.
        device: Where the levels are kept.

    Raises:
        InputError: If the numbers can't be a schedule.
    """
    if isinstance(scheduler, LTXFlowMatchScheduler):
        scheduler.set_timesteps(
            request.num_inference_steps,
            device=device,
            sigmas=request.sigmas,
            timesteps=request.timesteps,
            num_tokens=num_tokens,
        )
        return
    scheduler.set_timesteps(
        sigmas=_base_sigmas(scheduler, request, vae_config),
        mu=_shift(scheduler.config, num_tokens) if scheduler.config.get("use_dynamic_shifting") else None,
        device=device,
    )
    if not bool(torch.isfinite(scheduler.sigmas).all()):
        raise InputError(
            f"{type(scheduler).__name__} can't make this schedule",
            got=f"{len(scheduler.timesteps)} steps, sigmas {scheduler.sigmas.tolist()}",
            fix="use more steps or LTXFlowMatchScheduler",
        )


def skip_steps(scheduler: Any, initial: int, final: int) -> None:
    """Leave out the first and the last steps of a schedule just set; from the last one left it goes to 0 at once.

    Args:
        scheduler: Ours or one of Diffusers'.
        initial: Steps left out at the start; the video then begins at a noise level below 1.
        final: Steps left out at the end.

    Raises:
        InputError: If no step is left.
    """
    steps = len(scheduler.timesteps)
    if initial < 0 or final < 0 or initial + final >= steps:
        raise InputError(
            "no step of the schedule is left",
            got=f"{initial} skipped at the start and {final} at the end of {steps}",
            expected=f"at most {steps - 1} in all",
        )
    kept = slice(initial, steps - final)
    scheduler.timesteps = scheduler.timesteps[kept]
    scheduler.sigmas = torch.cat([scheduler.sigmas[:-1][kept], scheduler.sigmas[-1:]])


def _base_sigmas(scheduler: Any, request: Request, vae_config: Mapping[str, Any]) -> list[float]:
    if request.sigmas is not None:
        return list(request.sigmas)
    if request.timesteps is not None:
        return [timestep / scheduler.config.num_train_timesteps for timestep in request.timesteps]
    if is_untuned_uniform(scheduler.config, vae_config):
        warn_linear_quadratic()
        return linear_quadratic(request.num_inference_steps).tolist()
    return uniform(request.num_inference_steps).tolist()


def _shift(config: Mapping[str, Any], num_tokens: int) -> float:
    return sd3_mu(
        num_tokens,
        base_tokens=config.get("base_image_seq_len", 256),
        max_tokens=config.get("max_image_seq_len", 4096),
        base_shift=config.get("base_shift", 0.5),
        max_shift=config.get("max_shift", 1.15),
    )
