"""SSVAE's two objectives: the hinge and gradient of local correlation, the counts of latent masking."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLWan
from diffusers.configuration_utils import FrozenDict

from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.draws import Draws
from ltx_diffusers.functional.local_correlation import window_correlation
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.objectives.composition import Composition, Term
from ltx_diffusers.objectives.latent_masking import LatentMasking
from ltx_diffusers.objectives.local_correlation import LocalCorrelation
from ltx_diffusers.objectives.vae import L1
from ltx_diffusers.objectives.vae_objective import PosteriorPass, VAEPass


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def posterior(mean):
    return PosteriorPass(torch.zeros(mean.shape[0], 3, 1, 1, 1), mean, torch.zeros_like(mean))


def smooth(*shape):
    """Latents with the same vector, nearly, in every window."""
    batch, channels, frames, height, width = shape
    blocks = draw(batch, channels, 1, height // 2, width // 2)
    blocks = blocks.expand(-1, -1, frames, -1, -1).repeat_interleave(2, 3).repeat_interleave(2, 4)
    return blocks + 0.01 * draw(*shape, seed=1)


def test_there_is_no_pull_above_the_threshold():
    mean = smooth(2, 16, 3, 4, 4).requires_grad_()
    loss = LocalCorrelation(threshold=0.75).on_posterior(posterior(mean))
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros(2, dtype=torch.float64))
    assert torch.equal(mean.grad, torch.zeros_like(mean))


def test_its_gradient_takes_the_statistics_for_constants():
    mean = draw(2, 6, 3, 2, 2).requires_grad_()
    axes = (0, 2, 3, 4)
    centre = mean.detach().mean(axes, keepdim=True)
    std = mean.detach().std(axes, unbiased=False, keepdim=True)

    def formula(x):
        z = (x - centre) / (std + 1e-6)
        first, others = window_correlation(z[:, :, :1], (1, 2, 2)), window_correlation(z[:, :, 1:], (2, 2, 2))
        return torch.relu(0.75 - ((first + others) / 2).mean())

    loss = LocalCorrelation().on_posterior(posterior(mean))
    torch.testing.assert_close(loss, formula(mean).expand(2))
    (ours,) = torch.autograd.grad(loss.mean(), mean)
    direction = draw(*mean.shape, seed=5)
    step = 1e-6
    with torch.no_grad():
        slope = (formula(mean + step * direction) - formula(mean - step * direction)) / (2 * step)
    torch.testing.assert_close((ours * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_the_scope_says_whether_samples_share_the_loss():
    mean = torch.cat([smooth(1, 16, 3, 4, 4), draw(1, 16, 3, 4, 4, seed=3)])
    shared = LocalCorrelation().on_posterior(posterior(mean))
    assert shared[0] == shared[1] > 0
    own = LocalCorrelation(scope="sample")
    losses = own.on_posterior(posterior(mean))
    assert losses[0] == 0 < losses[1]
    torch.testing.assert_close(own.on_posterior(posterior(mean[1:])), losses[1:])
    assert own.diagnostics()["correlation"].shape == (1,)


def test_unfit_latents_and_settings_are_refused():
    LocalCorrelation().check_latents(VideoSize(3, 4, 4))
    LocalCorrelation().check_latents(VideoSize(1, 4, 4))
    with pytest.raises(InputError, match="latents of 3x3x3"):
        LocalCorrelation().check_latents(VideoSize(3, 3, 3))
    with pytest.raises(InputError, match="1 \\+ 2k frames"):
        LocalCorrelation().check_latents(VideoSize(2, 4, 4))
    with pytest.raises(InputError, match="three sizes"):
        LocalCorrelation(window=(2, 1, 1))
    with pytest.raises(InputError, match="scope"):
        LocalCorrelation(scope="all")


def masking(channels=6, **settings):
    objective = LatentMasking(**settings)
    torch.manual_seed(0)
    objective.setup(SimpleNamespace(config=FrozenDict(latent_channels=channels)))
    return objective


@pytest.mark.parametrize(
    ("ratio", "block", "size", "masked"),
    [
        (0.25, (1, 1, 1), (5, 4, 4), 20),
        (0.75, (1, 1, 1), (3, 3, 3), 20),  # floor(0.75 * 27)
        (0.75, (2, 2, 2), (5, 4, 4), 56),  # floor(0.75 * 80 / 8) = 7 of the 8 blocks in the first four frames
        (0.75, (2, 2, 2), (1, 4, 4), 0),  # a picture holds no block of two frames
        (0.0, (1, 1, 1), (3, 4, 4), 0),
        (1.0, (1, 1, 1), (3, 4, 4), 48),
    ],
)
def test_the_count_of_masked_latents(ratio, block, size, masked):
    objective = masking(ratios=(ratio,), probabilities=(1.0,), block=block)
    latents = draw(3, 6, *size).float()
    result = objective.on_latents(latents, Draws.of_samples(0, 0, range(len(latents))))
    replaced = (result != latents).any(dim=1)
    assert replaced.flatten(1).sum(1).tolist() == [masked] * 3
    assert torch.equal(replaced[0], replaced[1]) and torch.equal(replaced[0], replaced[2])
    expanded = objective.token.expand_as(latents)
    assert torch.equal(result.movedim(1, -1)[replaced], expanded.movedim(1, -1)[replaced])
    if block[0] == 2 and size[0] == 5:
        assert not replaced[:, -1].any()


def test_masks_are_drawn_anew_with_the_probabilities_of_their_ratios():
    objective = masking()
    latents, generator = torch.zeros(1, 6, 5, 4, 4), torch.Generator().manual_seed(0)
    shares = torch.stack([objective.draw_mask(latents, generator).float().mean() for _ in range(2000)])
    for ratio, probability in zip(objective.ratios, objective.probabilities, strict=True):
        assert abs((shares == ratio).float().mean() - probability) < 0.04
    assert abs(shares.mean() - 0.15) < 0.02
    first = objective.draw_mask(latents, torch.Generator().manual_seed(3))
    assert not all(torch.equal(first, objective.draw_mask(latents, generator)) for _ in range(20))


def test_the_token_gets_a_gradient_in_every_step():
    objective = masking(ratios=(0.0,), probabilities=(1.0,))
    objective.on_latents(torch.ones(1, 6, 1, 2, 2), Draws.of_samples(0, 0, [0])).sum().backward()
    assert torch.equal(objective.token.grad, torch.zeros_like(objective.token))


@pytest.mark.parametrize(
    "settings",
    [
        {"ratios": (0.5,), "probabilities": (0.5, 0.5)},
        {"ratios": (0.5,), "probabilities": (0.9,)},
        {"ratios": (1.5,), "probabilities": (1.0,)},
        {"block": (0, 1, 1)},
    ],
)
def test_bad_masking_is_refused(settings):
    with pytest.raises(InputError):
        LatentMasking(**settings)


@pytest.mark.parametrize("kind", ["wan", "hunyuan"])
def test_both_work_on_other_autoencoders(kind):
    """Losses, factor and token on VAEs of Diffusers, whose layers and configs have other names."""
    torch.manual_seed(0)
    if kind == "wan":
        vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    else:
        vae = AutoencoderKLHunyuanVideo(
            latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
        )
    composition = Composition(
        {
            "l1": Term(L1()),
            "lcr": Term(LocalCorrelation(), 0.002, LocalCorrelation.default_balance),
            "lmr": Term(LatentMasking(ratios=(0.5,), probabilities=(1.0,))),
        }
    )
    composition.setup(vae)
    video = torch.rand(1, 3, 9, 32, 32)
    posterior = vae.encode(video).latent_dist
    losses = [composition.on_posterior(PosteriorPass(video, posterior.mean, posterior.logvar), 0)]
    latents = composition.on_latents(posterior.mean, Draws.of_samples(0, 0, range(len(video))), 0)
    record = VAEPass(video, vae.decode(latents).sample, posterior.mean, posterior.logvar)
    losses.append(composition.on_reconstruction(record, 0))
    composition.combine(losses, vae)["loss"].mean().backward()
    assert 0 < composition.diagnostics()["lcr/factor"] < 1e8
    assert composition.terms["lmr"].token.grad.abs().sum() > 0
