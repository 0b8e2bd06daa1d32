"""Transformer training: the same tokens and predictions as sampling, exact resume, a pipeline at the end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_runs import TINY_VAE, transformer_run

from ltx_diffusers import LTXPipeline
from ltx_diffusers.data.shape_clips import ShapeClips
from ltx_diffusers.denoising.conditions import FirstFrameCondition
from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance
from ltx_diffusers.denoising.state import from_noise
from ltx_diffusers.denoising.velocity import GuidedVelocity, TextFeatures
from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.functional.latents import denormalize_latents, unpack_latents
from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ltx_diffusers.training import latent_cache
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.latent_cache import cached_posteriors, encode_posterior
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_config import TransformerTrainConfig
from ltx_diffusers.training.vae import to_model_range


def trainer(folder: Path, vae: Path, *, resume: bool = False, **changes: object) -> Trainer:
    config = parse_config(TransformerTrainConfig, transformer_run(folder, vae, **changes))
    return Trainer(TransformerTask(config), config, resume=resume)


def test_resumed_equals_unbroken_and_the_pipeline_works(tmp_path, tiny_vae_folder):
    unbroken = trainer(tmp_path / "unbroken", tiny_vae_folder, export_dtype="float32")
    folder = unbroken.train()
    broken = trainer(tmp_path / "broken", tiny_vae_folder)
    for _ in range(2):
        broken.train_step()
        broken.step += 1
    broken.save()
    resumed = trainer(tmp_path / "broken", tiny_vae_folder, resume=True)
    resumed.train()
    for name, value in unbroken.task.module.state_dict().items():
        assert torch.equal(value, resumed.task.module.state_dict()[name]), name

    pipeline = LTXPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    frames = pipeline("a red circle", height=32, width=64, num_frames=9, output_type="np").frames
    assert frames.shape == (1, 9, 32, 64, 3)
    average = dict(
        zip((n for n, _ in unbroken.task.module.named_parameters()), unbroken.ema.shadow_params, strict=True)
    )
    for name, value in pipeline.transformer.named_parameters():
        assert torch.equal(value, average[f"transformer.{name}"]), name
    sheets = sorted(path.name for path in (tmp_path / "unbroken/validation/final").iterdir())
    assert sheets == ["00.mp4", "01.mp4", "videos.png"]
    for config in folder.rglob("*.json"):
        assert str(tmp_path) not in config.read_text() and "_name_or_path" not in config.read_text(), config


def test_the_prediction_in_training_is_that_of_the_pipeline(tmp_path, tiny_vae_folder, monkeypatch):
    """Same tokens, noise level, first frame and text: same call of the transformer (contract of one core)."""
    run = trainer(
        tmp_path, tiny_vae_folder, caption_dropout=0.0, conditions={"first_frame": 1.0, "noise": 0.0}
    )
    task = run.task
    calls = []
    original = task.module.transformer.forward

    def record(*args, **kwargs):
        result = original(*args, **kwargs)
        calls.append((args, kwargs, result))
        return result

    monkeypatch.setattr(task.module.transformer, "forward", record)
    batch = task.batch(0, 0, 1)
    with torch.no_grad():
        task.module.eval()(batch, torch.Generator().manual_seed(0))
    (tokens,), kwargs, _ = calls[0]
    # The tokens of the first latent frame are given clean, the others are noised at one level per sample.
    first = kwargs["timestep"][:, :2]
    assert torch.equal(first, torch.zeros_like(first))
    later = kwargs["timestep"][:, 2:]
    assert torch.equal(later, later[:, :1].expand_as(later)) and (later > 0).all()

    pipeline = task.pipeline()
    captions = [task.source.caption(number, rng) for number, rng in _captions(task)]
    embeds, mask, _, _ = pipeline.encode_prompt(
        captions, do_classifier_free_guidance=False, max_sequence_length=16
    )
    latents = unpack_latents(tokens, 2, 1, 2)
    state = from_noise(latents, Placement(task.config.data.frame_rate, True))
    state = FirstFrameCondition(latents[:, :, :1]).apply_to(state)
    velocity = GuidedVelocity(
        task.module.transformer, {"positive": TextFeatures(embeds, mask)}, ClassifierFreeGuidance(scale=1.0)
    )
    with torch.no_grad():
        predicted = velocity(state, kwargs["timestep"])
    torch.testing.assert_close(predicted, calls[0][2][0], atol=1e-5, rtol=1e-4)


def _captions(task):
    for pick in task.plan.share(0, 0, 1):
        rng = task.plan.wording(0, pick)
        rng.random()  # the draw that decides on dropping the caption
        yield pick.number, rng


def test_latents_are_those_of_the_encoder_and_are_read_again(tmp_path, tiny_vae_folder):
    run = trainer(tmp_path, tiny_vae_folder)
    task = run.task
    vae = task.vae
    with torch.no_grad():
        video = to_model_range(np.stack([task.source.clips[0][index].frames for index in range(2)]))
        posterior = vae.encode(video).latent_dist
    mean = (posterior.mean - vae.latents_mean[None, :, None, None, None]) / vae.latents_std[
        None, :, None, None, None
    ]
    encoded = torch.stack([task.source[index].mean for index in range(2)])
    torch.testing.assert_close(encoded, mean, atol=0.05, rtol=0.05)  # encoded in bf16
    files = sorted((tmp_path / "cache").iterdir())
    stamps = [path.stat().st_mtime_ns for path in files]
    again = cached_posteriors(vae, task.source.clips[0], 6, tmp_path / "cache")
    assert torch.equal(again[0][:2], encoded)
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").iterdir())] == stamps
    with torch.no_grad():
        vae.encoder.conv_in.conv.weight.mul_(1.5)
    other = cached_posteriors(vae, task.source.clips[0], 6, tmp_path / "cache")
    assert not torch.equal(other[0], again[0])


def test_latents_have_the_scale_that_the_pipelines_take_off_again(tmp_path, tiny_vae_folder):
    vae = AutoencoderKLLTX.from_pretrained(tiny_vae_folder)
    frames = np.random.default_rng(0).random((1, 9, 32, 64, 3), np.float32)
    mean, deviation = encode_posterior(vae, frames)
    vae.register_to_config(scaling_factor=0.5)
    scaled_mean, scaled_deviation = encode_posterior(vae, frames)
    torch.testing.assert_close(scaled_mean, mean / 2)
    torch.testing.assert_close(scaled_deviation, deviation / 2)
    statistics = vae.latents_mean, vae.latents_std
    again = denormalize_latents(scaled_mean, *statistics, vae.config.scaling_factor)
    torch.testing.assert_close(again, denormalize_latents(mean, *statistics))


def test_so_many_clips_are_encoded_at_once_as_their_pixels_allow(tmp_path, tiny_vae_folder, monkeypatch):
    task = trainer(tmp_path, tiny_vae_folder).task
    clips, encode, seen = task.source.clips[0], latent_cache._encode, []
    monkeypatch.setattr(
        latent_cache, "_encode", lambda vae, frames: seen.append(len(frames)) or encode(vae, frames)
    )
    for pixels in (1, 2 * clips.num_frames * clips.height * clips.width):
        monkeypatch.setattr(latent_cache, "_PIXELS", pixels)
        means, _ = cached_posteriors(task.vae, clips, 3, tmp_path / str(pixels))
        torch.testing.assert_close(means[2], task.source[2].mean, atol=0.05, rtol=0.05)
    assert seen == [1, 1, 1, 2, 1]


def test_captions_are_dropped_and_drawn_anew(tmp_path, tiny_vae_folder):
    task = trainer(tmp_path, tiny_vae_folder, caption_dropout=1.0).task
    assert task.batch(0, 0, 1)["text_mask"].sum(1).tolist() == [1, 1, 1, 1]  # the end mark alone
    task = trainer(tmp_path, tiny_vae_folder, caption_dropout=0.0, cached_clips=1).task
    wordings = {tuple(row) for step in range(6) for row in task.batch(step, 0, 1)["input_ids"].tolist()}
    assert len(wordings) > 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae": "nowhere"}, "'vae': no such folder"),
        ({"model": {"num_layer": 1}}, "did you mean num_layers"),
        ({"text_encoder": {"d_modle": 16}}, "did you mean d_model"),
        ({"scheduler": {"schedul": "uniform"}}, "did you mean schedule"),
        ({"attention_backend": "nonsense"}, "attention_backend"),
        ({"validation_prompts": 65}, "validation_prompts"),
    ],
)
def test_bad_settings_are_one_error_before_clips_are_encoded(tmp_path, tiny_vae_folder, changes, message):
    settings = transformer_run(tmp_path, tiny_vae_folder)
    settings |= {
        key: {**settings[key], **value} if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    with pytest.raises(InputError, match=message):
        TransformerTask(parse_config(TransformerTrainConfig, settings))
    assert not (tmp_path / "cache").exists()


def test_wordings_are_not_drawn_from_the_numbers_of_the_clips(tmp_path, tiny_vae_folder):
    task = trainer(tmp_path, tiny_vae_folder).task
    picks = task.plan.share(3, 0, 1)
    first = np.random.default_rng([0, 3]).integers(task.config.cached_clips, size=1000)
    assert [pick.number for pick in picks] == first[:4].tolist()
    for pick in picks:
        again = task.plan.wording(3, pick).integers(task.config.cached_clips, size=1000)
        assert not np.array_equal(again, first)


def test_time_coordinates_must_be_stated(tmp_path, tiny_vae_folder):
    settings = transformer_run(tmp_path, tiny_vae_folder)
    settings["model"] = {
        key: value for key, value in settings["model"].items() if key != "causal_temporal_positioning"
    }
    with pytest.raises(InputError, match="causal_temporal_positioning=true"):
        TransformerTask(parse_config(TransformerTrainConfig, settings))


def test_deviations_of_every_channel_are_kept_where_they_differ(tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKLLTX(**TINY_VAE, shared_log_variance=False).eval()
    clips = ShapeClips(9, 32, 32)
    mean, deviation = cached_posteriors(vae, clips, 2, tmp_path)
    video = to_model_range(clips[0].frames[None])
    with torch.autocast("cpu", torch.bfloat16):
        expected = vae.encode(video).latent_dist.std.float()
    assert deviation.shape == mean.shape
    torch.testing.assert_close(deviation[:1], expected / vae.latents_std[None, :, None, None, None])
