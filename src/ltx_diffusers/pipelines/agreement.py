"""Calls that several processes make together: whether they are the same, and a common source of noise."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InputError
from .request import Request

_PLAIN = (str, int, float, bool, type(None))


def shared_groups(components: Sequence[Any]) -> list[dist.ProcessGroup]:
    """The groups of processes that this one shares its components' work with; empty if it is alone."""
    return [group for part in components for group in getattr(part, "parallel_groups", ())]


def agreed(request: Request, speed: str, components: Sequence[Any], device: torch.device) -> Request:
    """A checked call, the same on all processes that share its work.

    Processes that draw different noise would mix parts of different videos. Where no generator is given and torch's
    global states differ, all take a generator with the first process's seed.

    Args:
        request: This process's call.
        speed: The pipeline's, which decides which steps are computed.
        components: Those that may share work: transformer and VAE.
        device: Where noise is drawn.

    Raises:
        InputError: If another process makes another call, or has another speed or other generators; on every process.
    """
    may_choose = request.generator is None
    for group in shared_groups(components):
        mine = _told(request, device) | {"speed": speed}
        everyones: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(everyones, mine, group)
        differing = sorted(name for name in mine if any(other[name] != mine[name] for other in everyones))
        if differing == ["generator"] and may_choose:
            seed = [int(torch.randint(2**62, ()))]
            dist.broadcast_object_list(seed, group=group, group_src=0)
            request = request.replaced(generator=torch.Generator(device).manual_seed(seed[0]))
        elif differing:
            raise InputError(
                "processes that share their work must make the same call",
                got=f"different {', '.join(differing)}",
                fix="give each process the same arguments and speed, and generators with the same seeds",
            )
    return request


def _told(request: Request, device: torch.device) -> dict[str, Any]:
    """What is compared of a call: plain values, shapes, states of generators, and whether others are there."""
    found = {field.name: _simple(getattr(request, field.name)) for field in fields(request)}
    for name in found:
        if name.startswith("callback"):
            found[name] = None
    if request.generator is None:
        found["generator"] = _global_state(device)
    return found


def _simple(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, torch.Generator):
        return _digest(value.get_state())
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, (list, tuple)):
        return [_simple(entry) for entry in value]
    return type(value).__name__


def _global_state(device: torch.device) -> str:
    state = (
        torch.get_rng_state()
        if device.type == "cpu"
        else torch.get_device_module(device).get_rng_state(device)
    )
    return _digest(state)


def _digest(state: Tensor) -> str:
    return hashlib.sha256(state.cpu().numpy().tobytes()).hexdigest()
