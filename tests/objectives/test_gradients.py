"""Gradients of the objectives of a VAE against finite differences, in double precision.

That of local correlation, whose statistics are constants to the gradient, is tested in test_ssvae.py.
"""

from dataclasses import replace

import pytest
import torch

from ltx_diffusers.objectives import objectives
from ltx_diffusers.objectives.critic import Critic
from ltx_diffusers.objectives.vae import VAEPass

CASES = {
    "l1": {},
    "l2": {},
    "kl": {},
    "kl-sum": {"reduction": "sum"},
    "wavelet": {"band_weights": {"HHH": 3.0, "LLL": 0.0}, "levels": 2},
    "random-features": {"channels": (4, 5)},
    "gan": {"loss": "hinge"},
    "gan-logistic": {"loss": "logistic"},
    "reconstruction-gan": {"loss": "hinge"},
    "reconstruction-gan-logistic": {"loss": "logistic"},
}
NETWORKS = [
    {"name": "patch-3d", "options": {"channels": 2, "num_layers": 2, "num_time_layers": 1}},
    {"name": "patch-2d", "options": {"channels": 2, "num_layers": 1, "normalization": "none"}},
]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(case, **settings):
    name = next(name for name in sorted(objectives.list(), key=len, reverse=True) if case.startswith(name))
    if name.endswith("gan"):
        settings["discriminators"] = NETWORKS
    torch.manual_seed(0)
    return objectives.get(name)(**CASES.get(case, {}), **settings).double()


def record():
    return VAEPass(
        video=draw(2, 3, 3, 4, 4, seed=1),
        reconstruction=draw(2, 3, 3, 4, 4, seed=2).requires_grad_(),
        mean=draw(2, 4, 3, 2, 2, seed=3).requires_grad_(),
        logvar=draw(2, 4, 3, 2, 2, seed=4).requires_grad_(),
    )


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences(case):
    objective, given = build(case), record()
    for network in getattr(objective, "discriminators", ()):
        network.double().eval()
    names = ("reconstruction", "mean", "logvar")

    def loss(*values):
        return objective(replace(given, **dict(zip(names, values, strict=True)))).mean()

    inputs = tuple(getattr(given, name) for name in names)
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-6, fast_mode=True)
    gradients = torch.autograd.grad(loss(*inputs), inputs, allow_unused=True)
    assert any(value is not None and value.abs().sum() > 0 for value in gradients)


@pytest.mark.parametrize("case", ["gan", "reconstruction-gan", "reconstruction-gan-logistic"])
def test_the_critics_gradients_are_those_of_finite_differences(case):
    """With both penalties: the gradient of the gradient penalty too."""
    objective, given = build(case, r1=0.7, lecam=0.3), record()
    critic = Critic(objective).double().eval()
    critic.mean_of_originals.fill_(0.4)
    critic.mean_of_others.fill_(-0.2)
    parameters = tuple(critic.parameters())
    layer = parameters[0]

    def loss(weight):
        values = {name: value for name, value in critic.named_parameters() if value is not layer}
        name = next(name for name, value in critic.named_parameters() if value is layer)
        result = torch.func.functional_call(
            critic, values | {name: weight}, (given.video, given.reconstruction, None)
        )
        return result["loss"].mean()

    assert torch.autograd.gradcheck(loss, (layer.detach().clone().requires_grad_(),), fast_mode=True)
