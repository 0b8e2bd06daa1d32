"""VAE objectives against closed forms and torch.distributions."""

import torch

from ltx_diffusers.objectives import objectives
from ltx_diffusers.objectives.vae import VAEPass, emphasize_foreground


def make_pass(emphasis=None):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return VAEPass(
        draw(2, 3, 9, 4, 4),
        draw(2, 3, 9, 4, 4),
        draw(2, 8, 2, 1, 1),
        draw(2, 1, 2, 1, 1).expand(2, 8, 2, 1, 1),
        emphasis,
    )


def test_pixel_losses_are_means_per_sample():
    record = make_pass()
    difference = record.reconstruction - record.video
    for sample in range(2):
        assert torch.isclose(objectives.get("l1")()(record)[sample], difference[sample].abs().mean())
        assert torch.isclose(objectives.get("l2")()(record)[sample], (difference[sample] ** 2).mean())


def test_kl_is_that_of_torch_distributions():
    record = make_pass()
    posterior = torch.distributions.Normal(record.mean, torch.exp(0.5 * record.logvar))
    expected = (
        torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).flatten(1).mean(1)
    )
    torch.testing.assert_close(objectives.get("kl")()(record), expected)


def test_emphasis_weighs_what_differs_from_the_ground():
    video = torch.zeros(2, 3, 1, 8, 8)
    video[0, :, :, 2:4, 2:4] = 1.0
    video[1] = 0.3
    emphasis = emphasize_foreground(video, 3.0)
    assert emphasis.shape == (2, 1, 1, 8, 8)
    torch.testing.assert_close(emphasis.mean(dim=(1, 2, 3, 4)), torch.ones(2))
    torch.testing.assert_close(emphasis[0, 0, 0, 2, 2] / emphasis[0, 0, 0, 0, 0], torch.tensor(4.0))
    torch.testing.assert_close(emphasis[1], torch.ones(1, 1, 8, 8))
    assert emphasize_foreground(video, 0.0) is None


def test_emphasis_enters_the_loss():
    plain = make_pass()
    emphasis = torch.zeros(2, 1, 9, 4, 4, dtype=torch.float64)
    emphasis[:, :, 0, 0, 0] = 9 * 16
    weighted = objectives.get("l1")()(make_pass(emphasis))
    expected = (plain.reconstruction - plain.video)[:, :, 0, 0, 0].abs().mean(1)
    torch.testing.assert_close(weighted, expected)
