"""The two GANs: who sees what, who is trained by what, and the penalties in closed form."""

import pytest
import torch
from torch import nn

from ltx_diffusers.errors import InputError, UnknownNameError
from ltx_diffusers.functional.draws import Draws
from ltx_diffusers.models.discriminators import discriminators
from ltx_diffusers.objectives.adversarial import OrdinaryGAN, ReconstructionGAN, discriminator_loss
from ltx_diffusers.objectives.critic import Critic
from ltx_diffusers.objectives.vae import VAEPass

SMALL = ({"name": "patch-3d", "options": {"channels": 4, "num_layers": 2}},)


class Linear(nn.Module):
    """Logit = weight * mean of the first three channels - weight * mean of the others."""

    def __init__(self, in_channels, weight=2.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(weight)))

    def forward(self, video):
        first, others = video[:, :3].flatten(1).mean(1), video[:, 3:].flatten(1)
        second = others.mean(1) if others.shape[1] else 0.0
        return (self.weight * (first - second))[:, None]


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setitem(discriminators._entries, "linear", Linear)
    return ("linear",)


def clips(value, batch=4):
    return torch.full((batch, 3, 1, 2, 2), float(value))


def record(original, reconstruction, draws=None):
    latents = torch.zeros(len(original), 2, 1, 1, 1)
    return VAEPass(original, reconstruction, latents, latents, draws=draws)


def test_pairs_come_in_both_orders_and_the_label_says_which():
    original, reconstruction = clips(1, 200), clips(0, 200)
    (view,) = ReconstructionGAN(SMALL).views(original, reconstruction, Draws.of_samples(0, 0, range(200)))
    assert view.video.shape == (200, 6, 1, 2, 2)
    assert 70 < (view.label > 0).sum() < 130
    first = view.label > 0
    assert (view.video[first, :3] == 1).all() and (view.video[first, 3:] == 0).all()
    assert (view.video[~first, :3] == 0).all() and (view.video[~first, 3:] == 1).all()
    both = ReconstructionGAN(SMALL).views(original, reconstruction, None)
    assert [view.label.unique().tolist() for view in both] == [[1.0], [-1.0]]


def test_a_right_verdict_costs_the_autoencoder_and_helps_the_discriminator(linear):
    """Originals at 1, reconstructions at 0, logits +-2: the verdict is right by 2."""
    for loss, autoencoder, discriminator in (
        ("hinge", 2.0, 0.0),
        ("logistic", torch.nn.functional.softplus(torch.tensor(2.0)).item(), None),
    ):
        objective = ReconstructionGAN(linear, loss=loss)
        draws = Draws.of_samples(0, 0, range(4))
        value = objective(record(clips(1), clips(0), draws))
        torch.testing.assert_close(value, torch.full((4,), autoencoder))
        figures = Critic(objective)(clips(1), clips(0), draws)
        if discriminator is None:
            discriminator = torch.nn.functional.softplus(torch.tensor(-2.0)).item()
        torch.testing.assert_close(figures["loss"], torch.full((4,), discriminator))
        assert (figures["accuracy"] == 1).all()


def test_equal_pairs_cannot_be_told_apart(linear):
    figures = Critic(ReconstructionGAN(linear, loss="logistic"))(clips(1), clips(1))
    torch.testing.assert_close(figures["loss"], torch.full((4,), torch.tensor(2.0).log().item()))


def test_the_ordinary_game_is_the_textbooks(linear):
    objective = OrdinaryGAN(linear)
    figures = Critic(objective)(clips(0.25), clips(0.75))
    # Logits 0.5 and 1.5: mean of max(0, 1 - 0.5) and max(0, 1 + 1.5).
    torch.testing.assert_close(figures["loss"], torch.full((4,), (0.5 + 2.5) / 2))
    torch.testing.assert_close(objective(record(clips(0.25), clips(0.75))), torch.full((4,), -1.5))


def test_each_side_trains_its_own_weights_only():
    torch.manual_seed(0)
    objective = ReconstructionGAN(SMALL)
    assert not list(objective.parameters())
    original = torch.randn(2, 3, 9, 16, 16)
    reconstruction = torch.randn(2, 3, 9, 16, 16, requires_grad=True)
    objective(record(original, reconstruction)).sum().backward()
    assert reconstruction.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in objective.discriminators.parameters())
    reconstruction.grad = None
    Critic(objective)(original, reconstruction)["loss"].sum().backward()
    assert reconstruction.grad is None
    assert all(p.grad is not None for p in objective.discriminators.parameters())


def test_the_gradient_penalty_is_half_the_squared_norm_on_originals(linear):
    """Logit = 2 * mean of 12 values, so its gradient is 2/12 at each of them: half the squared norm is 1/6."""
    critic = Critic(OrdinaryGAN(linear, r1=3.0))
    figures = critic(clips(0.25), clips(0.75))
    torch.testing.assert_close(figures["r1"], torch.full((4,), 1 / 6))
    torch.testing.assert_close(figures["loss"], figures["game"] + 3 / 6)
    lazy = Critic(OrdinaryGAN(linear, r1=3.0, r1_every=4))
    assert "r1" not in lazy(clips(0.25), clips(0.75), step=3)
    torch.testing.assert_close(lazy(clips(0.25), clips(0.75), step=4)["r1"], torch.full((4,), 4 / 6))


def test_lecam_pulls_each_class_to_the_others_average(linear):
    critic = Critic(OrdinaryGAN(linear, lecam=0.5, lecam_decay=0.9))
    figures = critic(clips(0.25), clips(0.75))  # logits 0.5 and 1.5, averages still 0
    torch.testing.assert_close(figures["lecam"], torch.full((4,), (0.25 + 2.25) / 2))
    torch.testing.assert_close(critic.mean_of_originals, torch.tensor(0.05))
    torch.testing.assert_close(critic.mean_of_others, torch.tensor(0.15))
    again = critic.eval()(clips(0.25), clips(0.75))
    expected = ((0.5 - 0.15) ** 2 + (1.5 - 0.05) ** 2) / 2
    torch.testing.assert_close(again["lecam"], torch.full((4,), expected))
    torch.testing.assert_close(critic.mean_of_others, torch.tensor(0.15))  # not in evaluation


def test_several_discriminators_are_averaged(linear):
    pair = (*linear, {"name": "linear", "options": {"weight": 4.0}})
    value = ReconstructionGAN(pair)(record(clips(1), clips(0)))
    torch.testing.assert_close(value, torch.full((4,), 3.0))


def test_a_critic_learns_who_is_who():
    torch.manual_seed(0)
    critic = Critic(ReconstructionGAN(SMALL))
    optimizer = torch.optim.Adam(critic.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        original = torch.randn(8, 3, 1, 16, 16, generator=generator)
        figures = critic(original, original + 1, Draws.split(generator, 8))
        optimizer.zero_grad()
        figures["loss"].mean().backward()
        optimizer.step()
    assert figures["accuracy"].mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "square"}, "hinge or logistic"),
        ({"r1": -1.0}, "at least 0"),
        ({"discriminators": ()}, "needs a discriminator"),
        ({"discriminators": ({"nam": "patch-3d"},)}, "by its name"),
        ({"discriminators": ({"name": "patch-3d", "options": {"chanels": 2}},)}, "chanels"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ReconstructionGAN(**settings)
    with pytest.raises(UnknownNameError, match="patch-3d"):
        ReconstructionGAN(("patch-4d",))


def test_hinge_stops_at_the_margin():
    logits = torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(discriminator_loss(logits, torch.ones(1), "hinge"), torch.tensor([1.0]))
