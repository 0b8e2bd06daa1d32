"""Muon on convolutions against PyTorch's own on the same matrices; which weights go where; the rate's curve; AdamW with
its state in the main memory or in few bits."""

import copy
import itertools
import weakref

import pytest
import torch
from helpers.toy_task import take_steps, toy_run

from ltx_diffusers.errors import InputError
from ltx_diffusers.training.config import OptimizerConfig
from ltx_diffusers.training.optimizer import (
    MatrixMuon,
    OffloadedAdamW,
    build_optimizers,
    check_optimizer,
    learning_rate_share,
    set_learning_rate,
)


def test_a_convolution_is_trained_as_the_matrix_of_its_rows():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 4, 3, 3, 3))
    matrix = torch.nn.Parameter(weight.detach().clone().flatten(1))
    ours = MatrixMuon([weight], lr=0.1, weight_decay=0.01)
    oracle = torch.optim.Muon([matrix], lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        gradient = torch.randn_like(weight)
        weight.grad, matrix.grad = gradient.clone(), gradient.flatten(1).clone()
        ours.step()
        oracle.step()
    torch.testing.assert_close(weight.flatten(1), matrix, rtol=0, atol=0)


def test_state_round_trip_goes_on_bit_for_bit():
    torch.manual_seed(0)
    gradients = [torch.randn(4, 2, 3, 3, 3) for _ in range(4)]

    def run(steps, weight, optimizer):
        for gradient in steps:
            weight.grad = gradient.clone()
            optimizer.step()

    first = torch.nn.Parameter(torch.ones(4, 2, 3, 3, 3))
    optimizer = MatrixMuon([first], lr=0.1, weight_decay=0.0)
    run(gradients[:2], first, optimizer)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = MatrixMuon([second], lr=0.7, weight_decay=0.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(gradients[2:], first, optimizer)
    run(gradients[2:], second, resumed)
    assert torch.equal(first, second)


def test_every_parameter_has_one_optimizer():
    module = torch.nn.Sequential(
        torch.nn.Conv3d(3, 4, 3), torch.nn.Linear(4, 4), torch.nn.Embedding(5, 4), torch.nn.LayerNorm(4)
    )
    module[1].bias.requires_grad_(False)
    adamw, muon = build_optimizers(module, OptimizerConfig(name="muon"))
    assert {id(p) for p in muon.param_groups[0]["params"]} == {id(module[0].weight), id(module[1].weight)}
    others = {id(p) for p in adamw.param_groups[0]["params"]}
    assert others == {id(p) for p in (module[0].bias, module[2].weight, module[3].weight, module[3].bias)}
    (only,) = build_optimizers(module, OptimizerConfig(name="adamw"))
    assert len(only.param_groups[0]["params"]) == 6


def test_the_rate_beside_muon_is_for_muon_only():
    module = torch.nn.Linear(4, 4)
    rates = {
        name: [
            optimizer.param_groups[0]["lr"]
            for optimizer in build_optimizers(
                module, OptimizerConfig(name=name, learning_rate=1e-4, adamw_learning_rate=3e-3)
            )
        ]
        for name in ("adamw", "muon")
    }
    assert rates == {"adamw": [1e-4], "muon": [3e-3, 1e-4]}


def test_no_gradient_is_kept_until_the_next_step():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = MatrixMuon([weight], lr=0.1, weight_decay=0.0)
    weight.grad = torch.ones(2, 3)
    gradient = weakref.ref(weight.grad.untyped_storage())
    optimizer.step()
    optimizer.zero_grad()
    assert gradient() is None


def test_learning_rate_rises_and_falls():
    config = OptimizerConfig(warmup_steps=10, final_share=0.1)
    shares = [learning_rate_share(step, 100, config) for step in range(101)]
    assert shares[0] == pytest.approx(0.1) and shares[9] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(shares[10:]))
    assert shares[100] == pytest.approx(0.1)
    assert learning_rate_share(90, 100, OptimizerConfig(warmup_steps=10, schedule="constant")) == 1.0


def quadratic_steps(optimizer, weights, count=4):
    """Steps along the gradient of the squared distance from 1."""
    for _ in range(count):
        for weight in weights:
            weight.grad = 2 * (weight.detach() - 1)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_offloaded_steps_are_adamws(device):
    start = [torch.randn(5, 3), torch.randn(7)]
    ours, theirs = ([torch.nn.Parameter(w.clone().to(device)) for w in start] for _ in range(2))
    settings = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.01}
    offloaded = OffloadedAdamW(ours, **settings)
    plain = torch.optim.AdamW(theirs, **settings)
    quadratic_steps(offloaded, ours)
    quadratic_steps(plain, theirs)
    set_learning_rate(offloaded, 0.05)
    set_learning_rate(plain, 0.05)
    quadratic_steps(offloaded, ours)
    quadratic_steps(plain, theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    state = offloaded.state_dict()["adamw"]["state"]
    assert all(entry["exp_avg"].device.type == "cpu" for entry in state.values())


def test_an_offloaded_optimizer_goes_on_with_its_state_and_the_weights_as_they_are():
    first = [torch.nn.Parameter(torch.randn(5, 3))]
    optimizer = OffloadedAdamW(first, lr=0.1)
    quadratic_steps(optimizer, first)
    second = [torch.nn.Parameter(torch.zeros(5, 3))]
    resumed = OffloadedAdamW(second, lr=0.1)
    second[0].data.copy_(first[0].data)  # as when the model's weights are loaded first
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    quadratic_steps(optimizer, first)
    quadratic_steps(resumed, second)
    assert torch.equal(first[0], second[0])


def test_offloading_clips_before_it_steps(tmp_path):
    """In a whole run, where gradients are clipped after the backward pass: the same steps as without offloading."""
    runs = [
        toy_run(
            tmp_path / str(offload),
            optimizer={
                "name": "adamw",
                "learning_rate": 0.05,
                "warmup_steps": 0,
                "gradient_clip": 1e-3,
                "offload": offload,
            },
        )
        for offload in (False, True)
    ]
    plain, offloaded = (take_steps(run, 3) for run in runs)
    for ours, theirs in zip(offloaded, plain, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    runs[1].save()
    resumed = toy_run(tmp_path / "True", resume=True, optimizer=runs[1].config.optimizer.model_dump())
    assert take_steps(resumed, 2) == take_steps(runs[1], 2)


@pytest.mark.parametrize("name", ["adamw-8bit", "adamw-4bit"])
def test_few_bits_come_near_adamw_and_are_resumed(tmp_path, name):
    pytest.importorskip("torchao.optim")
    settings = {"learning_rate": 0.05, "warmup_steps": 0}
    with torch.compiler.set_stance("force_eager"):  # compiling their steps takes longer than this test may
        few, full = (
            toy_run(tmp_path / kind, optimizer={"name": kind} | settings) for kind in (name, "adamw")
        )
        wide = torch.nn.Linear(64, 64)  # averages of less than 4096 numbers keep all their bits
        (optimizer,) = build_optimizers(wide, few.config.optimizer)
        wide(torch.ones(1, 64)).sum().backward()
        optimizer.step()
        average = optimizer.state[wide.weight]["exp_avg"]
        assert sum(t.numel() * t.element_size() for t in average.__dict__.values() if torch.is_tensor(t)) < (
            1.5 * 4096
        )
        ours, theirs = take_steps(few, 3), take_steps(full, 3)
        assert [step["loss"] for step in ours] == pytest.approx([s["loss"] for s in theirs], rel=0.02)
        rate = few.player.optimizers[0].param_groups[0]["lr"]
        assert isinstance(rate, torch.Tensor) and rate.item() == pytest.approx(
            full.player.optimizers[0].param_groups[0]["lr"]
        )
        few.save()
        resumed = toy_run(tmp_path / name, resume=True, optimizer={"name": name} | settings)
        assert take_steps(resumed, 2) == take_steps(few, 2)


def test_few_bits_of_bitsandbytes_come_near_adamw_and_are_resumed(tmp_path):
    pytest.importorskip("bitsandbytes")
    wide = torch.nn.Linear(64, 64)  # averages of less than 4096 numbers keep all their bits
    config = OptimizerConfig(name="adamw-8bit-bnb", learning_rate=0.05, warmup_steps=0)
    settings = config.model_dump()
    (optimizer,) = build_optimizers(wide, config)
    wide(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    assert optimizer.state[wide.weight]["state1"].dtype == torch.uint8
    few = toy_run(tmp_path / "few", optimizer=settings)
    full = toy_run(tmp_path / "full", optimizer=settings | {"name": "adamw"})
    ours, theirs = take_steps(few, 3), take_steps(full, 3)
    assert [step["loss"] for step in ours] == pytest.approx([step["loss"] for step in theirs], rel=0.02)
    few.save()
    resumed = toy_run(tmp_path / "few", resume=True, optimizer=settings)
    assert take_steps(resumed, 2) == take_steps(few, 2)


def test_missing_packages_and_devices_are_named_before_any_work(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    config = OptimizerConfig(name="adamw-8bit-bnb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs bitsandbytes; pip install"):
        check_optimizer(config, gpu)
    with pytest.raises(InputError, match="needs torchao"):
        check_optimizer(OptimizerConfig(name="adamw-8bit"), cpu)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(InputError, match="works on a GPU only"):
        check_optimizer(OptimizerConfig(name="adamw-8bit-paged-bnb"), cpu)
    check_optimizer(OptimizerConfig(name="adamw-8bit-paged-bnb"), gpu)
    with pytest.raises(ValueError, match="offload works with name 'adamw'"):
        OptimizerConfig(name="muon", offload=True)
