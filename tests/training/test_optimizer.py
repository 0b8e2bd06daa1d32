"""Muon on convolutions against PyTorch's own Muon on the same matrices; which weights go where; the rate's curve."""

import copy
import itertools

import pytest
import torch

from ltx_diffusers.training.config import OptimizerConfig
from ltx_diffusers.training.optimizer import MatrixMuon, build_optimizers, learning_rate_share


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


def test_learning_rate_rises_and_falls():
    config = OptimizerConfig(warmup_steps=10, final_share=0.1)
    shares = [learning_rate_share(step, 100, config) for step in range(101)]
    assert shares[0] == pytest.approx(0.1) and shares[9] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(shares[10:]))
    assert shares[100] == pytest.approx(0.1)
    assert learning_rate_share(90, 100, OptimizerConfig(warmup_steps=10, schedule="constant")) == 1.0
