"""Where our pipelines differ from Diffusers' on purpose; the reasons stand in the tests' docstrings."""

from __future__ import annotations

import logging

import diffusers
import numpy as np
import pytest
import torch
from helpers.autoencoders import tiny_autoencoder
from PIL import Image
from tiny import TEXT_CHANNELS, tiny_components, tiny_tokenizer

from ltx_diffusers import LTXImageToVideoPipeline, LTXPipeline
from ltx_diffusers.functional.sigmas import linear_quadratic
from ltx_diffusers.pipelines.decoding import decode_latents
from ltx_diffusers.pipelines.frames import to_output
from ltx_diffusers.pipelines.images import pixel_frames
from ltx_diffusers.pipelines.text import encode_texts

SIZE = {"height": 64, "width": 96, "num_frames": 17, "num_inference_steps": 2}


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeds(*numbers: int):
    return [torch.Generator().manual_seed(number) for number in numbers]


def pictures(count: int):
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8)).resize((96, 64))
        for _ in range(count)
    ]


class Spy(torch.nn.Module):
    """Stands before a model's method and keeps what it was called with."""

    def __init__(self, monkeypatch, owner, name):
        super().__init__()
        self.calls = []
        method = getattr(owner, name)

        def keep(*args, **kwargs):
            self.calls.append((args, kwargs))
            return method(*args, **kwargs)

        keep.__wrapped__ = method  # keeps the signature
        monkeypatch.setattr(owner, name, keep)


# text


def test_padding_does_not_reach_the_features():
    """Diffusers runs T5 without its mask, so that features change with the length they are padded to."""
    parts = tiny_components()
    features = [
        encode_texts(
            parts["tokenizer"],
            parts["text_encoder"],
            ["a red circle"],
            max_length=length,
            device="cpu",
            dtype=torch.float32,
        )
        for length in (4, 12)
    ]
    assert features[1].mask.sum() == 4
    torch.testing.assert_close(features[0].embeds[0, :4], features[1].embeds[0, :4])

    theirs = diffusers.LTXPipeline(**tiny_components(ours=False))
    leaky = [theirs.encode_prompt("a red circle", max_sequence_length=length)[0] for length in (4, 12)]
    assert (leaky[0][0, :4] - leaky[1][0, :4]).abs().max() > 1e-3


def test_masks_stay_with_their_prompts():
    """Diffusers repeats features in a row and masks in turn, and so pairs masks with other prompts."""
    prompts = ["a", "a red circle moves left"]
    pipeline = LTXPipeline(**tiny_components())
    embeds, mask, negative, negative_mask = pipeline.encode_prompt(
        prompts, num_videos_per_prompt=2, max_sequence_length=8
    )
    assert mask.sum(dim=1).tolist() == [2, 2, 6, 6]
    assert negative_mask.sum(dim=1).tolist() == [1, 1, 1, 1]
    assert torch.equal(embeds[0], embeds[1])
    assert torch.equal(embeds[2], embeds[3])
    assert embeds.shape == negative.shape == (4, 8, TEXT_CHANNELS)

    theirs = diffusers.LTXPipeline(**tiny_components(ours=False))
    wrong = theirs.encode_prompt(prompts, num_videos_per_prompt=2, max_sequence_length=8)[1]
    assert wrong.sum(dim=1).tolist() == [2, 6, 2, 6]


def test_a_cut_prompt_says_what_was_lost(caplog):
    pipeline = LTXPipeline(**tiny_components())
    with caplog.at_level(logging.WARNING):
        mask = pipeline.encode_prompt(
            ["a red circle", "a blue square moves left right"], "", max_sequence_length=4
        )[1]
    assert mask.all()
    (record,) = caplog.records
    message = record.getMessage()
    assert "'moves left right'" in message
    assert "7 tokens" in message
    assert "max_sequence_length=4" in message


def test_a_prompt_that_just_fits_is_not_reported(caplog):
    pipeline = LTXPipeline(**tiny_components())
    with caplog.at_level(logging.WARNING):
        pipeline.encode_prompt("a red circle", "", max_sequence_length=4)
    assert not caplog.records


def test_texts_have_256_tokens_unless_told_otherwise():
    assert LTXPipeline(**tiny_components()).encode_prompt("a")[0].shape[1] == 256


def test_a_text_is_padded_to_the_features_it_joins():
    pipeline = LTXPipeline(**tiny_components())
    embeds, mask = torch.randn(2, 6, TEXT_CHANNELS), torch.ones(2, 6)
    _, _, negative, negative_mask = pipeline.encode_prompt(
        None, "black wall", prompt_embeds=embeds, prompt_attention_mask=mask
    )
    assert negative.shape == embeds.shape
    assert negative_mask.sum(dim=1).tolist() == [3, 3]


def test_given_features_serve_several_videos():
    """Diffusers repeats encoded prompts but not given features, and then fails in the transformer."""
    embeds, mask = torch.randn(2, 6, TEXT_CHANNELS), torch.ones(2, 6)
    repeated = LTXPipeline(**tiny_components()).encode_prompt(
        None,
        do_classifier_free_guidance=False,
        num_videos_per_prompt=2,
        prompt_embeds=embeds,
        prompt_attention_mask=mask,
    )[0]
    assert torch.equal(repeated, embeds[[0, 0, 1, 1]])


# decoding


def test_decoder_noise_is_mixed_into_normalised_latents(monkeypatch):
    """Official: denormalise((1 - s) z + s e). Diffusers mixes afterwards, without the channels' scale and mean."""
    vae = tiny_components(timestep_conditioning=True, statistics=True)["vae"]
    spy = Spy(monkeypatch, vae, "decode")
    latents = torch.randn(2, 8, 3, 2, 3)
    decode_latents(vae, latents, timestep=[0.05, 0.1], noise_scale=[0.1, 0.5], generator=seeds(1, 2))

    scale = torch.tensor([0.1, 0.5]).double().view(2, 1, 1, 1, 1)
    noise = torch.cat([torch.randn(1, 8, 3, 2, 3, generator=generator) for generator in seeds(1, 2)])
    mixed = (1 - scale) * latents + scale * noise
    expected = mixed * vae.latents_std.view(1, -1, 1, 1, 1) + vae.latents_mean.view(1, -1, 1, 1, 1)
    (given, temb), _ = spy.calls[0]
    torch.testing.assert_close(given, expected.float())
    torch.testing.assert_close(temb, torch.tensor([0.05, 0.1]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.1, [0.1] * 4), ([0.1, 0.2], [0.1, 0.1, 0.2, 0.2]), ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4])],
)
def test_decode_levels_for_every_video(monkeypatch, value, expected):
    """Diffusers makes these lists as long as the list of prompts, which fails with several videos per prompt."""
    pipeline = quiet(LTXPipeline(**tiny_components(timestep_conditioning=True)))
    spy = Spy(monkeypatch, pipeline.vae, "decode")
    pipeline(["a", "the"], **SIZE, num_videos_per_prompt=2, decode_timestep=value, output_type="pt")
    torch.testing.assert_close(spy.calls[0][0][1], torch.tensor(expected))


@pytest.mark.parametrize(
    ("config", "call", "expected"),
    [
        ({}, {}, (0.05, 0.025)),
        ({"default_decode_timestep": 0.1, "default_decode_noise_scale": 0.0}, {}, (0.1, 0.0)),
        (
            {"default_decode_timestep": 0.1, "default_decode_noise_scale": 0.2},
            {"decode_timestep": 0.3},
            (0.3, 0.3),
        ),
        ({"default_decode_timestep": 0.1}, {"decode_noise_scale": 0.3}, (0.1, 0.3)),
    ],
)
def test_decode_levels_come_from_the_vae(monkeypatch, config, call, expected):
    pipeline = quiet(LTXPipeline(**tiny_components(timestep_conditioning=True)))
    pipeline.vae.register_to_config(**config)
    seen = {}
    monkeypatch.setattr(
        "ltx_diffusers.pipelines.base.decode_latents",
        lambda vae, latents, **settings: seen.update(settings) or torch.zeros(1, 3, 17, 64, 96),
    )
    pipeline("a", **SIZE, output_type="pt", **call)
    assert (seen["timestep"], seen["noise_scale"]) == ([expected[0]], [expected[1]])


def test_output_forms():
    video = torch.linspace(-1.2, 1.2, 2 * 3 * 9 * 4 * 5).view(2, 3, 9, 4, 5)
    expected = (video / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(to_output(video, "pt"), expected.permute(0, 2, 1, 3, 4))
    array = to_output(video.bfloat16(), "np")
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, expected.permute(0, 2, 3, 4, 1).numpy(), atol=0.005)
    clips = to_output(video, "pil")
    assert (len(clips), len(clips[0]), clips[0][0].size) == (2, 9, (5, 4))
    pixels = np.stack([np.stack([np.asarray(frame) for frame in clip]) for clip in clips])
    reference = (expected.permute(0, 2, 3, 4, 1).double().numpy() * 255).round()
    assert np.abs(pixels - reference).max() <= 1
    assert (pixels == reference).mean() > 0.99


# release


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "diffusers"])
@pytest.mark.parametrize("causal", [True, False], ids=["0.9.5", "0.9.0"])
def test_time_coordinates_follow_the_release(monkeypatch, ours, causal):
    """Official: causal since 0.9.5. Diffusers' text-to-video and image-to-video are never causal."""
    pipeline = quiet(LTXPipeline(**tiny_components(causal=causal, ours=ours)))
    spy = Spy(monkeypatch, pipeline.transformer, "forward")
    pipeline("a", **SIZE, frame_rate=10, guidance_scale=1, output_type="latent")
    coords = spy.calls[0][1]["video_coords"]
    assert coords[0, 0].unique().tolist() == pytest.approx([0, 0.1, 0.9] if causal else [0, 0.8, 1.6])
    assert coords[0, 1].unique().tolist() == [0, 32]
    assert coords[0, 2].unique().tolist() == [0, 32, 64]


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "diffusers"])
def test_newer_releases_run_linear_quadratic(ours):
    """Diffusers' text-to-video runs plain uniform steps there, with its own scheduler."""
    pipeline = quiet(LTXPipeline(**tiny_components(causal=True, ours=ours)))
    pipeline("a", **(SIZE | {"num_inference_steps": 6}), output_type="latent")
    torch.testing.assert_close(pipeline.scheduler.sigmas[:-1], linear_quadratic(6).float())


def test_one_step_works_with_our_scheduler_and_is_refused_with_theirs():
    """The stretch to a terminal value divides 0 by 0 at one step, in Diffusers and the official code."""
    call = SIZE | {"num_inference_steps": 1, "output_type": "latent"}
    assert quiet(LTXPipeline(**tiny_components()))("a", **call).frames.isfinite().all()
    with pytest.raises(ValueError, match="use more steps"):
        quiet(LTXPipeline(**tiny_components(ours=False)))("a", **call)


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "diffusers"])
def test_explicit_sigmas_and_timesteps(ours):
    """Diffusers' pipeline has no sigmas and raises for any timesteps."""
    pipeline = quiet(LTXPipeline(**tiny_components(causal=True, ours=ours)))
    levels = [1.0, 0.8, 0.3]
    call = {name: value for name, value in SIZE.items() if name != "num_inference_steps"}
    videos = []
    for listed in ({"sigmas": levels}, {"timesteps": [1000 * level for level in levels]}):
        videos.append(pipeline("a", **call, **listed, output_type="latent", generator=seeds(1)[0]).frames)
        torch.testing.assert_close(pipeline.scheduler.sigmas, torch.tensor([*levels, 0.0]))
        assert pipeline.num_timesteps == 3
    torch.testing.assert_close(*videos)


# batches


@pytest.mark.parametrize("causal", [True, False], ids=["0.9.5", "0.9.0"])
def test_a_batch_of_texts_is_its_videos(causal):
    pipeline = quiet(
        LTXPipeline(**tiny_components(timestep_conditioning=True, causal=causal, statistics=True))
    )
    prompts, negatives = ["a red circle", "the blue square moves left"], ["black wall", ""]
    call = SIZE | {"guidance_rescale": 0.5, "num_videos_per_prompt": 2, "output_type": "pt"}
    together = pipeline(prompts, negatives, **call, generator=seeds(1, 2, 3, 4)).frames
    call["num_videos_per_prompt"] = 1
    alone = [
        pipeline(prompts[index // 2], negatives[index // 2], **call, generator=seeds(index + 1)[0]).frames
        for index in range(4)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_a_batch_of_images_is_its_videos():
    """Diffusers fails here twice: with lists of generators and timestep conditioning, and past the last image."""
    pipeline = quiet(LTXImageToVideoPipeline(**tiny_components(timestep_conditioning=True, causal=True)))
    prompts, images = ["a red circle", "the blue square"], pictures(2)
    call = SIZE | {"output_type": "pt"}
    together = pipeline(images, prompts, **call, num_videos_per_prompt=2, generator=seeds(1, 2, 3, 4)).frames
    alone = [
        pipeline(images[index // 2], prompts[index // 2], **call, generator=seeds(index + 1)[0]).frames
        for index in range(4)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


def test_one_image_serves_several_prompts():
    pipeline = quiet(LTXImageToVideoPipeline(**tiny_components()))
    (image,) = pictures(1)
    call = SIZE | {"output_type": "pt"}
    together = pipeline(image, ["a", "the"], **call, generator=seeds(1, 2)).frames
    alone = [
        pipeline(image, prompt, **call, generator=seeds(seed)[0]).frames
        for seed, prompt in ((1, "a"), (2, "the"))
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=0)


@pytest.mark.parametrize("together", [True, False], ids=["batch", "single"])
def test_noise_that_the_decoder_injects_takes_the_generators(together):
    """The decoder of 0.9.1 adds noise in its layers; Diffusers' draws it without a generator."""
    pipeline = quiet(LTXPipeline(**(tiny_components() | {"vae": tiny_autoencoder("0.9.1")})))
    call = SIZE | {"output_type": "pt"}
    if together:
        first = pipeline(["a", "the"], **call, generator=seeds(1, 2)).frames
        second = torch.cat(
            [pipeline(p, **call, generator=seeds(s)[0]).frames for p, s in (("a", 1), ("the", 2))]
        )
    else:
        first, second = (pipeline("a", **call, generator=seeds(1)[0]).frames for _ in range(2))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)


def test_other_compressions(monkeypatch):
    """Sizes and coordinates follow the VAE, whatever its compression."""
    vae = tiny_autoencoder("0.9.5", patch_size=2, spatial_compression_ratio=16)
    assert vae.compression_ratios == (8, 16, 16)
    pipeline = quiet(LTXPipeline(**(tiny_components() | {"vae": vae})))
    spy = Spy(monkeypatch, pipeline.transformer, "forward")
    frames = pipeline("a", **(SIZE | {"height": 48, "width": 16}), output_type="pt").frames
    assert frames.shape == (1, 17, 3, 48, 16)
    assert spy.calls[0][1]["video_coords"][0, 1].unique().tolist() == [0, 16, 32]


# images


def test_images_of_every_kind_give_the_same_frame():
    (image,) = pictures(1)
    pixels = np.asarray(image)
    kinds = [
        image,
        image.convert("RGBA"),
        pixels,
        pixels.astype(np.float32) / 255,
        pixels[None],
        np.ascontiguousarray(pixels[..., ::-1])[..., ::-1],
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        [torch.from_numpy(pixels / 255).permute(2, 0, 1)],
    ]
    expected = torch.from_numpy(pixels / 127.5 - 1).float().permute(2, 0, 1)[None, :, None]
    for kind in kinds:
        torch.testing.assert_close(pixel_frames(kind, 64, 96), expected, atol=1e-6, rtol=0)


def test_images_are_resized():
    (image,) = pictures(1)
    reference = pixel_frames(image, 32, 64)
    assert reference.shape == (1, 3, 1, 32, 64)
    array = pixel_frames(np.asarray(image), 32, 64)
    assert (array - reference).abs().mean() < 0.02
    assert array.abs().max() <= 1


def test_the_first_frame_is_kept():
    """Bit by bit in latents, whatever the schedule does to the rest."""
    pipeline = quiet(LTXImageToVideoPipeline(**tiny_components()))
    latents = torch.randn(1, 18, 8)
    video = pipeline(prompt="a", latents=latents, **SIZE, output_type="latent").frames
    assert torch.equal(video[:, :6], latents[:, :6])
    assert not torch.isclose(video[:, 6:], latents[:, 6:]).all()


def test_the_tiny_tokenizer_is_like_t5():
    assert tiny_tokenizer()("a red").input_ids == [3, 4, 1]
