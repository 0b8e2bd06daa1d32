"""VAE training: what is trained, on which clips, with which noise."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny_runs import TINY_VAE, vae_run

from ltx_diffusers.data.shape_clips import ShapeClips
from ltx_diffusers.errors import InputError, UnknownNameError
from ltx_diffusers.functional.draws import Draws
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.vae import VAETask, VAETrainConfig, reconstruct, to_model_range, to_uint8


def task(folder, **changes):
    return VAETask(parse_config(VAETrainConfig, vae_run(folder, **changes)))


def test_stages_follow_each_other_and_ranks_share_the_clips(tmp_path):
    vae = task(tmp_path)
    assert vae.total_steps == 6
    assert vae.batch(2, 0, 1)["video"].shape == (2, 3, 1, 32, 32)
    assert vae.batch(2, 0, 1)["foreground_weight"] == 2.0
    whole = vae.batch(3, 0, 1)
    assert whole["video"].shape == (2, 3, 9, 32, 32) and whole["foreground_weight"] == 0.0
    for rank in range(2):
        assert torch.equal(vae.batch(3, rank, 2)["video"], whole["video"][rank : rank + 1])
    expected = ShapeClips(9, 32, 32)[6].frames  # after three steps of two clips
    assert torch.equal(whole["video"][0], to_model_range(expected[None])[0])
    with pytest.raises(InputError, match="multiple of the processes"):
        vae.batch(0, 0, 3)


def test_decoder_training_leaves_encoder_and_statistics_alone(tmp_path):
    vae = task(tmp_path, train="decoder")
    losses = vae.module.train()(vae.batch(0, 0, 1), torch.Generator().manual_seed(0))
    losses["loss"].mean().backward()
    assert all(p.grad is None for p in vae.module.vae.encoder.parameters())
    assert all(p.grad is not None for p in vae.module.vae.decoder.conv_out.parameters())
    vae.finish()
    assert torch.equal(vae.module.vae.latents_mean, torch.zeros(8))


def test_the_loss_is_the_weighted_sum_per_sample(tmp_path):
    vae = task(tmp_path, objectives={"l1": 2.0, "kl": 0.5})
    losses = vae.module(vae.batch(0, 0, 1), torch.Generator().manual_seed(0))
    assert losses["loss"].shape == (2,)
    torch.testing.assert_close(losses["loss"], 2 * losses["l1"] + 0.5 * losses["kl"])


def test_noise_levels_stay_in_their_range_and_some_are_zero(tmp_path):
    module = task(tmp_path, max_noise_level=0.2, clean_share=0.5).module
    latents = torch.ones(400, 8, 1, 1, 1)
    noised, level = module._add_noise(latents, Draws.of_samples(0, 0, range(400)))
    assert level.min() == 0 and 0.15 < level.max() <= 0.2
    assert 0.4 < (level == 0).float().mean() < 0.6
    torch.testing.assert_close(noised[level == 0], latents[level == 0])
    drawn = (noised - (1 - level)[:, None, None, None, None] * latents)[level > 0]
    ratio = drawn.flatten(1).std(1) / level[level > 0]
    assert 0.9 < ratio.mean() < 1.1


def test_statistics_are_those_of_the_clips(tmp_path):
    vae = task(tmp_path, statistics_clips=4)
    vae.finish()
    with torch.no_grad():
        means = [
            vae.module.vae.encode(to_model_range(vae.clips[i].frames[None])).latent_dist.mean
            for i in range(4)
        ]
    flat = torch.cat(means).transpose(0, 1).flatten(1)
    torch.testing.assert_close(vae.module.vae.latents_mean, flat.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(vae.module.vae.latents_std, flat.std(1), atol=1e-5, rtol=1e-4)


def test_autocast_keeps_the_decoders_activations_in_bf16(tmp_path):
    """Shifts, scales and injected noise have fp32 weights, which must not make everything behind them fp32."""
    vae = task(tmp_path, model=TINY_VAE | {"decoder_inject_noise": [True] * 4}).module.vae
    types = set()
    for module in vae.decoder.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_pre_hook(lambda _, inputs: types.add(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        vae.decode(torch.zeros(1, 8, 2, 1, 1, dtype=torch.bfloat16), torch.tensor([0.1]))
    assert types == {torch.bfloat16}


def test_validation_decodes_with_the_same_noise_each_time(tmp_path):
    vae = task(tmp_path, model=TINY_VAE | {"decoder_inject_noise": [True] * 4}).module.vae.eval()
    for name, parameter in vae.named_parameters():
        if "per_channel_scale" in name:
            torch.nn.init.ones_(parameter)
    video = torch.zeros(1, 3, 9, 32, 32)
    first = reconstruct(vae, video, 0.1)
    assert torch.equal(first, reconstruct(vae, video, 0.1))
    assert not torch.equal(first, reconstruct(vae, video, 0.1, seed=1))


@pytest.mark.parametrize("conditioned", [False, True])
def test_a_task_says_which_figures_its_validation_gives(tmp_path, conditioned):
    run = task(tmp_path, model=TINY_VAE | {"timestep_conditioning": conditioned}, validation_clips=1)
    assert tuple(run.validate(tmp_path)) == run.validation_figures
    assert len(run.validation_figures) == (3 if conditioned else 1)


def test_unknown_objectives_and_those_of_other_models_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="l1"):
        task(tmp_path, objectives={"l11": 1.0})
    with pytest.raises(InputError, match="not one of a VAE"):
        task(tmp_path, objectives={"flow-matching": 1.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"latent_chanels": 8}}, "did you mean latent_channels"),
        ({"initial_weights": "nowhere"}, "initial_weights.*no such folder"),
    ],
)
def test_bad_models_are_one_error(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        task(tmp_path, **changes)


def test_a_folder_without_a_vae_is_one_error(tmp_path):
    with pytest.raises(InputError, match="can't be loaded"):
        task(tmp_path, initial_weights=str(tmp_path))


def test_batches_that_processes_cannot_share_are_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr("ltx_diffusers.training.vae.join_processes", lambda: SimpleNamespace(num_processes=3))
    with pytest.raises(InputError, match="multiple of the processes"):
        task(tmp_path)


def test_frames_round_trip_through_the_models_range():
    frames = np.linspace(0, 1, 2 * 4 * 4 * 3, dtype=np.float32).reshape(1, 2, 4, 4, 3)
    again = to_uint8(to_model_range(frames)[0])
    assert np.array_equal(again, (frames[0] * 255).round().astype(np.uint8))
