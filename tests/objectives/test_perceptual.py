"""Perceptual losses: any distance, LPIPS only with its weights, the stand-in by its own name."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ltx_diffusers.errors import InputError
from ltx_diffusers.objectives.perceptual import LPIPS, Perceptual, RandomFeatures
from ltx_diffusers.objectives.vae import VAEPass


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def record(video, reconstruction):
    latents = torch.zeros(len(video), 2, 1, 1, 1)
    return VAEPass(video, reconstruction, latents, latents)


@pytest.mark.parametrize("chunk", [None, 2])
def test_any_distance_is_averaged_over_frames(chunk):
    def distance(result, original):
        return (result - original).flatten(1).abs().amax(1).reshape(-1, 1, 1, 1)

    video, reconstruction = draw(2, 3, 3, 4, 4), draw(2, 3, 3, 4, 4, seed=1)
    losses = Perceptual(distance, chunk)(record(video, reconstruction))
    expected = (video - reconstruction).abs().amax((1, 3, 4)).mean(1)
    torch.testing.assert_close(losses, expected)


def test_parts_give_the_same_gradient_and_keep_no_features():
    def losses_and_kept(chunk):
        kept = []
        reconstruction = draw(2, 3, 9, 32, 32, seed=1).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            losses = RandomFeatures(chunk=chunk)(record(draw(2, 3, 9, 32, 32), reconstruction))
        losses.sum().backward()
        return losses, reconstruction.grad, sum(kept)

    (whole, expected, all_kept), (parts, gradient, kept) = losses_and_kept(None), losses_and_kept(4)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(gradient, expected)
    assert kept < all_kept / 4


def test_the_stand_in_is_frozen_repeatable_and_blind_to_nothing_but_equality():
    video, other = draw(2, 3, 2, 16, 16), draw(2, 3, 2, 16, 16, seed=1)
    objective = RandomFeatures()
    assert not objective.state_dict() and not list(objective.parameters())
    losses = objective(record(video, other))
    assert torch.equal(losses, RandomFeatures()(record(video, other)))
    assert not torch.equal(losses, RandomFeatures(seed=1)(record(video, other)))
    assert torch.equal(objective(record(video, video)), torch.zeros(2))
    near = objective(record(video, video + 0.05 * other))
    assert (near > 0).all() and (near < losses / 4).all()
    assert (objective(record(video, 0.5 * video)) > near).all()  # contrast counts
    flat = torch.zeros_like(video)
    assert (
        objective(record(flat, flat + 0.01 * other)) < 1e-3
    ).all()  # and next to nothing is next to nothing


class FakeLPIPS(nn.Module):
    def __init__(self, net, verbose):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.net = net

    def forward(self, result, original):
        return self.weight * (result - original).square().mean((1, 2, 3), keepdim=True)


def test_lpips_is_asked_for_by_name_and_stays_frozen(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=FakeLPIPS))
    objective = LPIPS("alex")
    video, other = draw(2, 3, 2, 4, 4), draw(2, 3, 2, 4, 4, seed=1).requires_grad_()
    losses = objective(record(video, other))
    torch.testing.assert_close(losses, 2 * (video - other).square().mean((1, 3, 4)).mean(1))
    losses.sum().backward()
    network = objective._distance[0]
    assert network.net == "alex" and network.weight.grad is None and other.grad is not None


def test_missing_packages_and_weights_are_one_error_that_names_the_stand_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(InputError, match="needs the package.*random-features"):
        LPIPS()

    def offline(net, verbose):
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=offline))
    with pytest.raises(InputError, match="can't be fetched.*no route to host.*random-features"):
        LPIPS()
    with pytest.raises(InputError, match="unknown package"):
        LPIPS(package="piq")
