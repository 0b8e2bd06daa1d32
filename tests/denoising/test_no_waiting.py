"""After its first step the loop asks the device for nothing, so that a GPU is never waited for."""

from __future__ import annotations

import pytest
import torch
from helpers.transformers import FRAME_RATE, GRID, TINY
from torch.utils._python_dispatch import TorchDispatchMode

from ltx_diffusers import LTXFlowMatchScheduler, LTXTransformer3DModel
from ltx_diffusers.denoising.conditions import FirstFrameCondition
from ltx_diffusers.denoising.forecast import Forecasting
from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance, SpatioTemporalGuidance
from ltx_diffusers.denoising.loop import denoise
from ltx_diffusers.denoising.samplers import samplers
from ltx_diffusers.denoising.state import at_noise_level, from_noise
from ltx_diffusers.denoising.velocity import GuidedVelocity, TextFeatures
from ltx_diffusers.functional.coordinates import Placement

WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim")
"""Operators whose result the host needs: each waits for all that a GPU was given before."""

METHODS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")
"""Ways to the host that need no operator on a CPU."""


class Waited(AssertionError):
    """Something asked for a value."""


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait, while it is on."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in WAITING:
            raise Waited(name)
        return function(*args, **kwargs or {})


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in METHODS:

        def refused(*args, name=name, **kwargs):
            raise Waited(name)

        monkeypatch.setattr(torch.Tensor, name, refused)


def a_loop(first_frame: bool, guidance, forecasting: Forecasting | None = None):
    placement = Placement(FRAME_RATE, causal=True)
    noise = torch.randn(1, 8, *GRID, generator=torch.Generator().manual_seed(0))
    state = from_noise(noise, placement)
    if first_frame:
        state = FirstFrameCondition(torch.ones_like(noise[:, :, :1])).apply_to(state)
    torch.manual_seed(1)
    transformer = LTXTransformer3DModel(**TINY, causal_temporal_positioning=True).eval()
    mask = (torch.arange(6) < 4)[None]
    texts = {text: TextFeatures(torch.randn(1, 6, 32), mask) for text in ("positive", "negative")}
    scheduler = LTXFlowMatchScheduler(schedule="uniform")
    scheduler.set_timesteps(8)
    return (
        at_noise_level(state, 1.0),
        GuidedVelocity(transformer, texts, guidance, None, None, forecasting),
        scheduler,
    )


@pytest.mark.parametrize("first_frame", [False, True], ids=["text", "first frame"])
@pytest.mark.parametrize("sampler", [None, "euler", "heun"])
@pytest.mark.parametrize(
    "guidance",
    [ClassifierFreeGuidance(1.0), ClassifierFreeGuidance(3.0), SpatioTemporalGuidance(3.0, stg_blocks=(1,))],
    ids=["none", "text", "spatio-temporal"],
)
@torch.no_grad()
def test_no_step_but_the_first_waits(monkeypatch, first_frame, sampler, guidance):
    state, velocity, scheduler = a_loop(first_frame, guidance)
    mode, steps = NoWaiting(), []

    def after_step(index, timestep, state):
        if index == 0:
            refuse(monkeypatch)
            mode.__enter__()
        steps.append(index)
        return state

    sampler = None if sampler is None else samplers.get(sampler)()
    try:
        denoise(
            state, velocity, scheduler, sampler=sampler, condition_noise_scale=0.1, on_step_end=after_step
        )
    finally:
        if steps:
            mode.__exit__(None, None, None)
        monkeypatch.undo()
    assert steps == list(range(8))


@torch.no_grad()
def test_the_check_sees_what_waits(monkeypatch):
    with NoWaiting(), pytest.raises(Waited):
        torch.ones(3).nonzero()
    with NoWaiting(), pytest.raises(Waited):
        bool(torch.ones(1))
    refuse(monkeypatch)
    with pytest.raises(Waited):
        torch.ones(3).tolist()
    monkeypatch.undo()


@torch.no_grad()
def test_foretelling_asks_for_one_number_a_step(monkeypatch):
    state, velocity, scheduler = a_loop(False, ClassifierFreeGuidance(3.0), Forecasting(0.5))
    asked = []
    plain = torch.Tensor.__float__
    monkeypatch.setattr(
        torch.Tensor, "__float__", lambda tensor: asked.append(tensor.numel()) or plain(tensor)
    )
    denoise(state, velocity, scheduler)
    assert velocity.forecast.foretold > 0
    assert set(asked) == {1}
    assert len(asked) < len(scheduler.timesteps)
