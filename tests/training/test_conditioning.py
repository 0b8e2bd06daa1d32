"""Conditions drawn in training: as often as asked, of the kinds asked, by the code of inference."""

import numpy as np
import pytest
import torch
from helpers.tiny_runs import transformer_run
from pydantic import ValidationError

from ltx_diffusers.denoising.conditions import ClipCondition, KeyframeCondition
from ltx_diffusers.denoising.conditions.region import kept_latents
from ltx_diffusers.denoising.state import TokenState, from_noise
from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.functional.draws import Draws
from ltx_diffusers.geometry import CompressionRatios, VideoSize
from ltx_diffusers.training.conditioning import (
    ConditionShares,
    GivenClip,
    GivenRegion,
    GrayBox,
    random_box,
    with_drawn_conditions,
)
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_config import TransformerTrainConfig

BATCH, SIZE = 3000, (4, 2, 3)


def drawn(
    shares: ConditionShares,
    batch: int = BATCH,
    clip: GivenClip | None = None,
    region: GivenRegion | None = None,
) -> TokenState:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, 2, *SIZE, generator=generator)
    state = from_noise(torch.zeros_like(latents), Placement(8.0, True), clean=latents)

    return with_drawn_conditions(state, latents, shares, Draws.split(generator, batch), clip, region)


def strengths(shares: ConditionShares) -> torch.Tensor:
    return drawn(shares).strength.view(BATCH, *SIZE)


def test_without_shares_nothing_is_given():
    assert (strengths(ConditionShares(first_frame=0.0)) == 0).all()


def test_first_frames_are_given_as_often_as_asked():
    strength = strengths(ConditionShares(first_frame=0.3, noise=0.1))
    given = strength[:, 0, 0, 0] > 0
    assert abs(given.float().mean() - 0.3) < 0.03
    assert (strength[:, 1:] == 0).all()
    assert (strength[:, 0] == strength[:, 0, :1, :1]).all()
    assert strength[given][:, 0].min() >= 0.9 and strength.max() <= 1
    assert strength[given][:, 0].std() > 0.02


def test_an_opening_is_any_number_of_latent_frames_but_all():
    strength = strengths(ConditionShares(first_frame=0.0, opening=1.0, noise=0.0))
    given = (strength == 1).all(dim=(2, 3))
    assert torch.equal(given, strength[:, :, 0, 0] > 0)
    counts = torch.bincount(given.sum(1), minlength=5)
    assert counts[0] == counts[4] == 0 and counts[1:4].min() > BATCH / 3 * 0.85
    assert (given[:, :-1] >= given[:, 1:]).all()  # from the first on


def test_boxes_are_of_any_size_and_belong_to_a_clip():
    made = np.stack([~random_box(number, VideoSize(*SIZE)) for number in range(BATCH)])
    assert np.array_equal(made[5], ~random_box(5, VideoSize(*SIZE)))
    sides = [made.any(axis=tuple(a + 1 for a in range(3) if a != axis), keepdims=True) for axis in range(3)]
    assert np.array_equal(made, sides[0] & sides[1] & sides[2])
    for axis, length in enumerate(SIZE):
        counts = np.bincount(sides[axis].reshape(BATCH, -1).sum(1), minlength=length + 1)
        assert counts[0] == 0 and counts[1:].min() > BATCH / length * 0.85, axis


def test_regions_are_given_outside_their_boxes_as_often_as_asked():
    keep = torch.from_numpy(np.stack([random_box(number, VideoSize(*SIZE)) for number in range(BATCH)]))
    region = GivenRegion(torch.full((BATCH, 2, *SIZE), 7.0), keep.float())
    state = drawn(ConditionShares(first_frame=0.0, region=0.5, noise=0.0), region=region)
    strength = state.strength.view(BATCH, *SIZE)
    chosen = strength.flatten(1).any(1)
    assert torch.equal(strength[chosen], region.keep[chosen])
    some = keep.flatten(1).any(1)
    assert abs(chosen[some].float().mean() - 0.5) < 0.04
    assert torch.equal((state.clean == 7).all(2), state.strength == 1)


def test_what_the_box_held_is_not_encoded():
    ratios = CompressionRatios(8, 32, 32)
    number = next(n for n in range(99) if random_box(n, VideoSize(3, 3, 3)).mean() == 26 / 27)  # one latent
    frames = np.random.default_rng(0).random((17, 96, 96, 3), np.float32)
    gray = GrayBox(ratios)(number, frames) != frames
    kept = kept_latents(torch.from_numpy(~gray.any(-1))[None], ratios)
    assert np.array_equal(kept[0], random_box(number, VideoSize(3, 3, 3)))
    assert gray.all(-1).sum() in (32 * 32, 8 * 32 * 32)


@pytest.mark.parametrize("frames, kind", [(1, KeyframeCondition), (3, ClipCondition)])
def test_a_clip_has_tokens_of_its_own_as_in_inference(frames, kind):
    latents = torch.randn(5, 2, frames, *SIZE[1:])
    shares = ConditionShares(first_frame=0.0, noise=0.0)
    plain = drawn(shares, 5)
    state = drawn(shares, 5, GivenClip(latents, 8))
    expected = kind(latents=latents, frame=8).apply_to(plain)
    assert state.num_extra > 0
    for name in ("strength", "clean", "coords"):
        assert torch.equal(getattr(state, name), getattr(expected, name)), name


def test_shares_above_one_are_refused():
    with pytest.raises(ValidationError, match="sum to more than 1"):
        ConditionShares(first_frame=0.6, opening=0.5)
    with pytest.raises(ValidationError, match="sum to more than 1"):
        ConditionShares(clips=({"frame": 8, "share": 0.6}, {"frame": 16, "share": 0.6}))


def test_steps_are_given_clips_as_often_as_asked():
    shares = ConditionShares(clips=({"frame": 8, "share": 0.25}, {"frame": 16, "share": 0.5}))
    found = [shares.clip_of_step(number / 100) for number in range(100)]
    assert found == [0] * 25 + [1] * 50 + [None] * 25


def test_a_run_gives_its_clips(tmp_path, tiny_vae_folder):
    clips = [{"frame": 8, "share": 1.0}]
    settings = transformer_run(
        tmp_path, tiny_vae_folder, conditions={"first_frame": 0.0, "region": 0.5, "clips": clips}
    )
    task = TransformerTask(parse_config(TransformerTrainConfig, settings))
    assert task.pipeline().transformer.config.regions_hidden
    batch = task.batch(0, 0, 1)
    (group,) = batch["groups"]
    assert group["clip_mean"].shape == (4, 8, 1, 1, 2)
    assert group["region_mean"].shape == (4, 8, 2, 1, 2) and group["region_keep"].shape == (4, 2, 1, 2)
    lengths = []
    forward = task.module.transformer.forward
    task.module.transformer.forward = lambda tokens, **call: (
        lengths.append(tokens.shape[1]) or forward(tokens, **call)
    )
    loss = task.module(batch, torch.Generator().manual_seed(0))["loss"]
    assert lengths == [2 * 2 + 2]  # two latent frames of two tokens, and a keyframe
    assert loss.shape == (4,) and loss.isfinite().all()


def test_a_clip_beyond_the_video_is_refused(tmp_path, tiny_vae_folder):
    clips = [{"frame": 8, "frames": 9, "share": 1.0}]
    settings = transformer_run(tmp_path, tiny_vae_folder, conditions={"clips": clips})
    with pytest.raises(InputError, match="beyond the video"):
        TransformerTask(parse_config(TransformerTrainConfig, settings))
