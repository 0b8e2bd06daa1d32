"""The flow-matching objective: masked tokens don't count, samples don't mix."""

import torch

from ltx_diffusers.objectives import objectives
from ltx_diffusers.objectives.flow_matching import FlowPass


def test_mean_over_the_tokens_that_count():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    target = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    loss = objectives.get("flow-matching")()(FlowPass(prediction, target, mask))
    torch.testing.assert_close(loss[0], ((prediction[0] - target[0]) ** 2).mean())
    torch.testing.assert_close(loss[1], ((prediction[1, 2:] - target[1, 2:]) ** 2).mean())


def test_a_sample_of_conditions_only_costs_nothing():
    ones = torch.ones(1, 4, 2)
    assert objectives.get("flow-matching")()(FlowPass(ones, -ones, torch.zeros(1, 4))).item() == 0
