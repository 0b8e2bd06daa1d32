"""Objectives together: order of hooks, weights, starts, balances and the learned scale."""

import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from torch import nn

from ltx_diffusers.errors import InputError
from ltx_diffusers.objectives.balance import gradient_ratio, last_layer
from ltx_diffusers.objectives.composition import Composition, Term
from ltx_diffusers.objectives.latent_masking import LatentMasking
from ltx_diffusers.objectives.vae import KL, L1, L2, VAEPass
from ltx_diffusers.objectives.vae_objective import Balance, PosteriorPass, VAEObjective


class Model(nn.Module):
    """A "decoder" that scales and an "encoder" that scales."""

    def __init__(self):
        super().__init__()
        self.config = FrozenDict(latent_channels=2)
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.conv_out = nn.Conv3d(3, 2, 1)
        self.decoder.conv_out = nn.Conv3d(2, 3, 1)


class Scaled(VAEObjective):
    """The mean of the reconstruction's squares, times a factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def on_reconstruction(self, record):
        return self.factor * record.reconstruction.square().flatten(1).mean(1)


def run(composition, model, step=0):
    video = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    mean = model.encoder.conv_out(video)
    losses = [composition.on_posterior(PosteriorPass(video, mean, torch.zeros_like(mean)), step)]
    reconstruction = model.decoder.conv_out(composition.on_latents(mean, None, step))
    record = VAEPass(video, reconstruction, mean, torch.zeros_like(mean))
    losses.append(composition.on_reconstruction(record, step))
    return composition.combine(losses, model)


def test_the_loss_is_the_weighted_sum():
    losses = run(Composition({"l1": Term(L1(), 2.0), "l2": Term(L2()), "kl": Term(KL(), 0.5)}), Model())
    assert set(losses) == {"l1", "l2", "kl", "loss"}
    expected = 2 * losses["l1"] + losses["l2"] + 0.5 * losses["kl"]
    assert torch.equal(losses["loss"], expected)


def test_hooks_are_called_in_their_order():
    calls = []

    class Spy(VAEObjective):
        def setup(self, vae):
            calls.append("setup")

        def on_posterior(self, posterior):
            calls.append("posterior")
            return posterior.mean.flatten(1).mean(1)

        def on_latents(self, latents, draws):
            calls.append("latents")
            return latents + 1

        def on_reconstruction(self, record):
            calls.append("reconstruction")
            return record.mean.flatten(1).mean(1)

        def balance(self, loss, reference, layer, cap):
            calls.append("balance")
            torch.testing.assert_close(loss, 2 * self.own)
            return torch.tensor(3.0)

        def diagnostics(self):
            calls.append("diagnostics")
            return {"figure": torch.tensor(7.0)}

    model = Model()
    spy = Spy()
    composition = Composition({"l1": Term(L1()), "spy": Term(spy, 0.5, Balance("adaptive"))})
    composition.setup(model)
    video = torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    spy.own = model.encoder.conv_out(video).flatten(1).mean(1)
    losses = run(composition, model)
    figures = composition.diagnostics()
    assert calls == ["setup", "posterior", "latents", "reconstruction", "balance", "diagnostics"]
    torch.testing.assert_close(losses["loss"], losses["l1"] + 1.5 * losses["spy"])
    assert figures == {"spy/factor": 3.0, "spy/figure": 7.0}


def test_a_plain_callable_is_an_objective():
    def half(record):
        return record.reconstruction.flatten(1).abs().mean(1) / 2

    half.inputs = VAEPass
    losses = run(Composition({"l1": Term(L1()), "half": Term(half)}), Model())
    torch.testing.assert_close(losses["loss"], losses["l1"] + losses["half"])


def test_an_objective_waits_for_its_first_step():
    composition = Composition({"l1": Term(L1()), "kl": Term(KL(), 1.0, start_step=3)})
    model = Model()
    assert "kl" not in run(composition, model, 2) and "kl" in run(composition, model, 3)


@pytest.mark.parametrize("factor", [1.0, 30.0, 1e3])
def test_a_balanced_loss_pulls_the_same_whatever_its_scale(factor):
    torch.manual_seed(0)
    model = Model()
    composition = Composition({"l2": Term(L2()), "own": Term(Scaled(factor), 0.1, Balance("adaptive"))})
    losses = run(composition, model)
    layer = model.decoder.conv_out.weight
    (plain,) = torch.autograd.grad(losses["l2"].mean(), layer, retain_graph=True)
    (whole,) = torch.autograd.grad(losses["loss"].mean(), layer)
    pull = (whole - plain).norm()
    torch.testing.assert_close(pull, 0.1 * plain.norm(), rtol=2e-2, atol=0)


def test_the_factor_is_capped_detached_and_absent_without_gradients():
    weight = torch.tensor(2.0, requires_grad=True)
    ratio = gradient_ratio(weight.square(), 3 * weight, weight, 100.0)
    torch.testing.assert_close(ratio, torch.tensor(4 / (3 + 1e-4)))
    assert not ratio.requires_grad
    assert gradient_ratio(weight.square(), 0 * weight, weight, 100.0) == 100.0
    elsewhere = torch.ones((), requires_grad=True)
    with pytest.raises(InputError, match="doesn't depend on"):
        gradient_ratio(weight.square(), elsewhere.square(), weight, 100.0)
    model = Model()
    composition = Composition({"l2": Term(L2()), "own": Term(Scaled(5.0), 0.1, Balance("adaptive"))})
    with torch.no_grad():
        losses = run(composition, model)
    torch.testing.assert_close(losses["loss"], losses["l2"] + 0.1 * losses["own"])


def test_the_learned_scale_divides_reconstruction_alone_and_finds_the_log_of_its_mean():
    composition = Composition({"l1": Term(L1(), 2.0), "kl": Term(KL(), 0.5)}, learned_scale=0.7)
    model = Model()
    losses = run(composition, model)
    expected = 2 * losses["l1"] / torch.tensor(0.7).exp() + 0.7 + 0.5 * losses["kl"]
    torch.testing.assert_close(losses["loss"], expected)
    with torch.no_grad():
        composition.log_scale.copy_((2 * losses["l1"]).mean().log())
    run(composition, model)["loss"].mean().backward()
    torch.testing.assert_close(composition.log_scale.grad, torch.tensor(0.0), atol=1e-6, rtol=0)


def test_what_a_later_objective_learns_has_a_gradient_from_the_first_step_on():
    model = Model()
    masking = LatentMasking(ratios=(1.0,), probabilities=(1.0,))
    composition = Composition({"l1": Term(L1()), "masking": Term(masking, start_step=2)})
    composition.setup(model)
    loss = run(composition, model, step=1)["loss"]
    assert torch.equal(loss, run(Composition({"l1": Term(L1())}), model)["loss"])
    loss.mean().backward()
    assert torch.equal(masking.token.grad, torch.zeros_like(masking.token))


def test_what_cannot_work_is_refused():
    with pytest.raises(InputError, match="not one of a VAE"):
        Composition({"x": Term(lambda record: record)})
    with pytest.raises(InputError, match="needs a reconstruction objective"):
        Composition({"kl": Term(KL(), 1.0, Balance("adaptive"))})
    with pytest.raises(InputError, match="can't be balanced against"):
        Composition({"l1": Term(L1(), 1.0, Balance("adaptive"))})
    with pytest.raises(InputError, match="'l2' can't be balanced against"):
        Composition({"l1": Term(L1()), "l2": Term(L2(), 1.0, Balance("adaptive"), start_step=5)})
    with pytest.raises(InputError, match="from the first step on"):
        Composition({"l1": Term(L1(), start_step=5), "kl": Term(KL(), 1.0, Balance("adaptive"))})
    with pytest.raises(InputError, match="no objective with a loss"):
        Composition({})
    model = Model()
    model.encoder.requires_grad_(False)
    composition = Composition({"l1": Term(L1()), "kl": Term(KL(), 1.0, Balance("adaptive", "encoder"))})
    with pytest.raises(InputError, match="isn't trained"):
        composition.setup(model)
    with pytest.raises(InputError, match="no decoder.conv_out"):
        last_layer(nn.Module(), "decoder")
