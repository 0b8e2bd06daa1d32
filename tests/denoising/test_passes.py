"""What a loop finds out once: text that counts, rows in common, runs of tokens, memory; and that nothing else waits."""

from __future__ import annotations

from contextlib import contextmanager

import accelerate
import pytest
import torch
from accelerate.hooks import CpuOffload
from helpers.transformers import FRAME_RATE, GRID, TINY, relative_error
from torch.utils._python_dispatch import TorchDispatchMode

from ltx_diffusers import LTXFlowMatchScheduler, LTXTransformer3DModel
from ltx_diffusers.denoising import velocity as velocity_module
from ltx_diffusers.denoising.conditions import FirstFrameCondition
from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance, SpatioTemporalGuidance
from ltx_diffusers.denoising.loop import denoise
from ltx_diffusers.denoising.passes import fit_in_one_batch, rows_in_common, runs_of, without_padding
from ltx_diffusers.denoising.state import STRENGTH_RULES, at_noise_level, from_noise
from ltx_diffusers.denoising.velocity import GuidedVelocity, TextFeatures
from ltx_diffusers.functional.coordinates import Placement

GUIDANCES = {
    "none": ClassifierFreeGuidance(1.0),
    "text": ClassifierFreeGuidance(3.0),
    "perturbed": SpatioTemporalGuidance(3.0, stg_blocks=(0, 2)),
}


def run_of(strength: list[list[float]]):
    return runs_of(torch.tensor(strength))


def test_runs_end_where_any_sample_changes() -> None:
    runs = run_of([[1, 1, 0, 0, 0, 0.5], [1, 1, 1, 0, 0, 0]])
    assert runs.lengths == (2, 1, 2, 1)
    assert runs.first.tolist() == [0, 2, 3, 5]
    assert run_of([[0.0] * 7]).lengths == (7,)
    assert run_of([[float(i % 2) for i in range(40)]]) is None


def test_rows_in_common() -> None:
    coords = torch.randn(1, 3, 5).expand(4, 3, 5)
    assert rows_in_common(coords).shape == (1, 3, 5)
    other = coords.clone()
    other[2, 0, 0] += 1
    assert rows_in_common(other) is other


def test_padding_goes_where_no_row_reads() -> None:
    embeds = torch.arange(12.0).view(2, 6, 1)
    mask = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 1, 0]])
    short, left = without_padding(embeds, mask)
    assert short.flatten().tolist() == [1, 2, 4, 7, 8, 10]
    assert left.tolist() == [[1, 1, 0], [1, 0, 1]]
    short, left = without_padding(embeds, torch.tensor([[1, 1, 0, 0, 0, 0]] * 2))
    assert short.shape == (2, 2, 1) and left is None
    assert without_padding(embeds, torch.ones(2, 6, dtype=torch.bool))[1] is None


@pytest.mark.parametrize("mask", [[[1.0, 0.5, 0.0]], [[0.0, 0.0, 0.0]]], ids=["fractions", "nothing"])
def test_padding_stays_where_it_counts(mask) -> None:
    embeds, mask = torch.randn(1, 3, 2), torch.tensor(mask)
    assert without_padding(embeds, mask) == (embeds, mask)


def model_of() -> LTXTransformer3DModel:
    torch.manual_seed(0)
    return LTXTransformer3DModel(**TINY).eval()


def state_of(conditioned: bool, rate=FRAME_RATE, rule: str = "official"):
    torch.manual_seed(1)
    state = from_noise(torch.randn(2, 8, *GRID), Placement(rate, causal=True), strength_rule=rule)
    if conditioned:
        state = FirstFrameCondition(torch.randn(2, 8, 1, *GRID[1:]), 0.6).apply_to(state)
    return at_noise_level(state, 1.0)


def texts_of() -> dict[str, TextFeatures]:
    torch.manual_seed(2)
    masks = {
        "positive": [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]],
        "negative": [[1, 0, 0, 0, 0, 0]] * 2,
    }
    return {name: TextFeatures(torch.randn(2, 6, 32), torch.tensor(mask)) for name, mask in masks.items()}


@contextmanager
def plainly(monkeypatch):
    """The model without anything that is kept, shortened or shared."""
    with monkeypatch.context() as patch:
        patch.setattr(GuidedVelocity, "_ours", property(lambda self: False))
        yield


@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("conditioned", [False, True], ids=["text", "first frame"])
@pytest.mark.parametrize("rule", STRENGTH_RULES)
@pytest.mark.parametrize("rate", [FRAME_RATE, torch.tensor([24.0, 30.0])], ids=["one rate", "rates"])
@pytest.mark.parametrize("in_one_batch", [True, False], ids=["one batch", "in turn"])
@torch.no_grad()
def test_a_loop_gives_what_the_plain_model_gives(
    guidance, conditioned, rule, rate, in_one_batch, monkeypatch
) -> None:
    model, scheduler = model_of(), LTXFlowMatchScheduler()

    def result(**options) -> torch.Tensor:
        scheduler.set_timesteps(3)
        velocity = GuidedVelocity(model, texts_of(), GUIDANCES[guidance], **options)
        return denoise(state_of(conditioned, rate, rule), velocity, scheduler).tokens

    fast = result(in_one_batch=in_one_batch)
    with plainly(monkeypatch):
        expected = result()
    assert relative_error(fast, expected) < 1e-5


@torch.no_grad()
def test_texts_may_be_replaced_on_the_way(monkeypatch) -> None:
    velocity = GuidedVelocity(model_of(), texts_of(), ClassifierFreeGuidance(3.0))
    state, timestep = state_of(False), torch.tensor([500.0, 500.0])
    first = velocity(state, timestep)
    velocity.texts["positive"] = TextFeatures(torch.randn(2, 6, 32), torch.ones(2, 6))
    second = velocity(state, timestep)
    assert relative_error(second, first) > 1e-3
    with plainly(monkeypatch):
        assert relative_error(second, velocity(state, timestep)) < 1e-5


@torch.no_grad()
def test_passes_run_in_turn_where_a_batch_does_not_fit(monkeypatch) -> None:
    rows = []
    model = model_of()
    model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    for fits, expected in ((True, [4]), (False, [2, 2])):
        monkeypatch.setattr(velocity_module, "fit_in_one_batch", lambda *args, fits=fits: fits)
        GuidedVelocity(model, texts_of(), ClassifierFreeGuidance(3.0))(state_of(False), torch.ones(2))
        assert rows == expected
        rows.clear()


def test_the_memory_rule_grows_with_the_batch(monkeypatch) -> None:
    from ltx_diffusers.denoising import passes

    model, tokens = model_of(), torch.zeros(1, 1000, 8)
    # 1000 tokens of 64 channels and 4 bytes, 16 times: 4.1 MB a row.
    monkeypatch.setattr(passes, "free_memory", lambda device: 9e6)
    assert fit_in_one_batch(model, 2, tokens)
    assert not fit_in_one_batch(model, 3, tokens)


def test_memory_is_counted_once_model_offloading_has_fetched_the_weights(monkeypatch) -> None:
    from ltx_diffusers.denoising import passes

    order, model = [], model_of()
    accelerate.cpu_offload_with_hook(model, "cpu")
    monkeypatch.setattr(CpuOffload, "pre_forward", lambda hook, module: order.append("weights"))
    monkeypatch.setattr(passes, "free_memory", lambda device: order.append("memory") or 9e6)
    fit_in_one_batch(model, 1, torch.zeros(1, 1000, 8))
    assert order == ["weights", "memory"]


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: values read, and results whose size depends on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert not any(name == waiting or name.startswith("unique") for waiting in self.WAITING), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("conditioned", [False, True], ids=["text", "first frame"])
@torch.no_grad()
def test_no_step_but_the_first_waits_for_the_device(conditioned) -> None:
    model, scheduler, mode = model_of(), LTXFlowMatchScheduler(), NoWaiting()
    scheduler.set_timesteps(4)
    velocity = GuidedVelocity(model, texts_of(), GUIDANCES["perturbed"])
    entered = []

    def after_step(index, timestep, state):
        if index == 0:
            mode.__enter__()
            entered.append(True)
        return state

    try:
        denoise(state_of(conditioned), velocity, scheduler, condition_noise_scale=0.1, on_step_end=after_step)
    finally:
        if entered:
            mode.__exit__(None, None, None)
    assert entered
