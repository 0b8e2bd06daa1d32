"""Our pipelines against Diffusers' with the same weights and seeds, where Diffusers is right, within 1e-4.

The settings keep clear of what Diffusers gets wrong: prompts fill all tokens, so that a text encoder run without its
mask gives the same features; decoder noise is 0, or latents have mean 0 and deviation 1, so that it doesn't matter
on which side of de-normalising noise is mixed in. What differs on purpose is tested in tests/pipelines.
"""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from PIL import Image
from tiny import tiny_components

from ltx_diffusers import LTXImageToVideoPipeline, LTXPipeline
from ltx_diffusers.functional.latents import normalize_latents, pack_latents

TOLERANCE = 1e-4
PROMPTS = ["a red circle moves", "the blue square down"]
NEGATIVE = "white wall on black"
FULL_LENGTH = 5  # four words and the end mark
CALL = {
    "negative_prompt": NEGATIVE,
    "height": 64,
    "width": 96,
    "num_frames": 17,
    "frame_rate": 20,
    "num_inference_steps": 4,
    "max_sequence_length": FULL_LENGTH,
    "decode_timestep": 0.05,
    "decode_noise_scale": 0.025,
    "output_type": "pt",
}


def seeds(*numbers: int):
    return [torch.Generator().manual_seed(number) for number in numbers]


def picture(seed: int = 0) -> Image.Image:
    """A picture of another size than the video, smooth enough to resize."""
    noise = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((140, 90), Image.Resampling.BICUBIC)


def pair(kind: str, **settings):
    """Our pipeline with our classes and Diffusers' with theirs, same weights."""
    ours, theirs = {
        "text": (LTXPipeline, diffusers.LTXPipeline),
        "image": (LTXImageToVideoPipeline, diffusers.LTXImageToVideoPipeline),
    }[kind]
    pipelines = ours(**tiny_components(**settings)), theirs(**tiny_components(**settings, ours=False))
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
    return pipelines


def assert_equal_videos(ours, theirs, make_call) -> None:
    """Runs both with fresh generators; also checks the videos' latents, which say more than pixels."""
    for output_type in ("pt", "latent"):
        own = ours(**make_call(), output_type=output_type).frames
        reference = theirs(**make_call(), output_type=output_type).frames
        if reference.ndim == 5 and output_type == "latent":  # Diffusers' condition pipeline unpacks them
            reference = pack_latents(reference)
        assert own.shape == reference.shape
        assert reference.std() > 0.05
        torch.testing.assert_close(own, reference, atol=TOLERANCE, rtol=0)


def call(**changes):
    return {name: value for name, value in (CALL | changes).items() if name != "output_type"}


@pytest.mark.parametrize(
    "guidance",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.0},
        {"guidance_scale": 4.5, "guidance_rescale": 0.7},
    ],
    ids=["unguided", "guided", "rescaled"],
)
@pytest.mark.parametrize("timestep_conditioning", [False, True], ids=["0.9.0", "0.9.1"])
def test_text_to_video(guidance, timestep_conditioning):
    ours, theirs = pair("text", timestep_conditioning=timestep_conditioning)
    assert_equal_videos(ours, theirs, lambda: call(prompt=PROMPTS[0], generator=seeds(1)[0], **guidance))


def test_guidance_has_an_effect_that_parity_can_see():
    ours, _ = pair("text")
    videos = [
        ours(**call(prompt=PROMPTS[0], generator=seeds(1)[0], **guidance), output_type="latent").frames
        for guidance in (
            {"guidance_scale": 1.0},
            {"guidance_scale": 4.5},
            {"guidance_scale": 4.5, "guidance_rescale": 0.7},
        )
    ]
    assert (videos[0] - videos[1]).abs().max() > 10 * TOLERANCE
    assert (videos[1] - videos[2]).abs().max() > 10 * TOLERANCE


def test_latent_statistics_without_decoder_noise():
    ours, theirs = pair("text", timestep_conditioning=True, statistics=True)
    assert_equal_videos(
        ours,
        theirs,
        lambda: call(prompt=PROMPTS[0], generator=seeds(1)[0], decode_noise_scale=0.0),
    )


@pytest.mark.parametrize("listed", [False, True], ids=["one generator", "list"])
def test_a_batch_of_prompts(listed):
    ours, theirs = pair("text", timestep_conditioning=True)
    assert_equal_videos(
        ours,
        theirs,
        lambda: call(
            prompt=PROMPTS,
            negative_prompt=[NEGATIVE, NEGATIVE],
            generator=seeds(1, 2) if listed else seeds(1)[0],
        ),
    )


def test_several_videos_per_prompt():
    ours, theirs = pair("text")
    assert_equal_videos(
        ours,
        theirs,
        lambda: call(prompt=PROMPTS[0], num_videos_per_prompt=2, generator=seeds(1, 2)),
    )


def test_given_features_and_latents():
    ours, theirs = pair("text")
    generator = torch.Generator().manual_seed(3)
    given = {
        "prompt_embeds": torch.randn(2, 6, 16, generator=generator),
        "negative_prompt_embeds": torch.randn(2, 6, 16, generator=generator),
        "prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]),
        "negative_prompt_attention_mask": torch.tensor([[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]),
        "latents": torch.randn(2, 3 * 2 * 3, 8, generator=generator),
        "negative_prompt": None,
    }
    assert_equal_videos(ours, theirs, lambda: call(**given))


def test_np_and_pil_output():
    ours, theirs = pair("text")
    for output_type in ("np", "pil"):
        arguments = call(prompt=PROMPTS[0]) | {"output_type": output_type}
        own = ours(**arguments, generator=seeds(1)[0]).frames
        reference = theirs(**arguments, generator=seeds(1)[0]).frames
        assert len(own) == len(reference) == 1
        scale = 255 if output_type == "pil" else 1
        difference = np.abs(
            np.stack([np.asarray(frame, dtype=np.float32) for frame in own[0]]) / scale
            - np.stack([np.asarray(frame, dtype=np.float32) for frame in reference[0]]) / scale
        )
        assert difference.max() <= (1 / 255 if output_type == "pil" else TOLERANCE)
        assert difference.mean() < TOLERANCE


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_image_to_video(guidance_scale):
    ours, theirs = pair("image", timestep_conditioning=True)
    assert_equal_videos(
        ours,
        theirs,
        lambda: call(
            image=picture(), prompt=PROMPTS[0], generator=seeds(1)[0], guidance_scale=guidance_scale
        ),
    )


def test_image_to_video_with_latent_statistics():
    ours, theirs = pair("image", statistics=True)
    assert_equal_videos(ours, theirs, lambda: call(image=picture(), prompt=PROMPTS[0], generator=seeds(1)[0]))


def test_a_batch_of_images_and_a_list_of_generators():
    ours, theirs = pair("image")
    assert_equal_videos(
        ours,
        theirs,
        lambda: call(
            image=[picture(1), picture(2)],
            prompt=PROMPTS,
            negative_prompt=[NEGATIVE, NEGATIVE],
            generator=seeds(1, 2),
        ),
    )


def test_several_videos_of_one_image():
    ours, theirs = pair("image")
    assert_equal_videos(
        ours,
        theirs,
        lambda: call(image=picture(), prompt=PROMPTS[0], num_videos_per_prompt=2, generator=seeds(1)[0]),
    )


def test_image_to_video_from_given_latents():
    ours, theirs = pair("image")
    latents = torch.randn(1, 3 * 2 * 3, 8, generator=seeds(4)[0])
    assert_equal_videos(ours, theirs, lambda: call(prompt=PROMPTS[0], latents=latents.clone()))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_our_pipeline_with_their_components(kind):
    ours, theirs = pair(kind)
    mixed = type(ours)(**theirs.components)
    mixed.set_progress_bar_config(disable=True)
    image = {"image": picture()} if kind == "image" else {}
    assert_equal_videos(mixed, theirs, lambda: call(prompt=PROMPTS[0], generator=seeds(1)[0], **image))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_their_pipeline_with_our_components(kind):
    ours, theirs = pair(kind)
    mixed = type(theirs)(**ours.components)
    mixed.set_progress_bar_config(disable=True)
    image = {"image": picture()} if kind == "image" else {}
    assert_equal_videos(ours, mixed, lambda: call(prompt=PROMPTS[0], generator=seeds(1)[0], **image))


# Of Diffusers' pipelines only the one for conditions has causal coordinates and the linear-quadratic schedule.


@pytest.fixture
def newer() -> tuple[LTXPipeline, LTXImageToVideoPipeline, diffusers.LTXConditionPipeline]:
    settings = {"timestep_conditioning": True, "causal": True, "statistics": True}
    own = tiny_components(**settings)
    pipelines = (
        LTXPipeline(**own),
        LTXImageToVideoPipeline(**own),
        diffusers.LTXConditionPipeline(**tiny_components(**settings, ours=False)),
    )
    for pipeline in pipelines:
        pipeline.set_progress_bar_config(disable=True)
    return pipelines


def test_text_to_video_of_095_and_later(newer):
    text, _, condition = newer
    assert_equal_videos(
        text,
        condition,
        lambda: call(prompt=PROMPTS[0], generator=seeds(1)[0], decode_noise_scale=0.0),
    )


def test_image_to_video_of_095_and_later(newer):
    _, image, condition = newer
    frame = picture().resize((96, 64), Image.Resampling.LANCZOS)
    arguments = call(prompt=PROMPTS[0], decode_noise_scale=0.0)

    # The other pipeline draws the video's noise before the latents of the image, so both get the same latents.
    generator = seeds(1)[0]
    pixels = torch.from_numpy(np.asarray(frame) / 255).permute(2, 0, 1).float()[None, :, None]
    posterior = image.vae.encode(2 * pixels - 1).latent_dist
    noise = torch.randn(1, 8, 3, 2, 3, generator=generator)
    first = normalize_latents(posterior.sample(generator), image.vae.latents_mean, image.vae.latents_std)
    latents = pack_latents(torch.cat([first, noise[:, :, 1:]], dim=2))

    own = image(**arguments, latents=latents, output_type="pt").frames
    reference = condition(
        **arguments,
        conditions=[LTXVideoCondition(image=frame, frame_index=0, strength=1.0)],
        image_cond_noise_scale=0.0,
        generator=seeds(1)[0],
        output_type="pt",
    ).frames
    torch.testing.assert_close(own, reference, atol=TOLERANCE, rtol=0)
