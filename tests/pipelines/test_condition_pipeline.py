"""LTXConditionPipeline: mixtures of conditions, starts, guidance and samplers; and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import LayerSkipConfig
from diffusers.guiders import LTX2Guidance, SkipLayerGuidance
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from tiny import tiny_components

from ltx_diffusers import (
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    ReferenceVideo,
    RegionOfVideo,
    VideoCondition,
)
from ltx_diffusers.denoising.guidance import (
    ClassifierFreeGuidance,
    GuidanceByLevel,
    SpatioTemporalGuidance,
)
from ltx_diffusers.denoising.samplers import GradientEstimation, samplers
from ltx_diffusers.errors import InputError, UnknownNameError
from ltx_diffusers.functional.latents import normalize_latents, unpack_latents
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.pipelines import pipeline_ltx_condition
from ltx_diffusers.pipelines.presets import PassPreset, Preset

FRAMES, HEIGHT, WIDTH = 33, 64, 96
LATENTS = VideoSize(5, 2, 3)
CALL = {
    "prompt": "a red circle moves",
    "height": HEIGHT,
    "width": WIDTH,
    "num_frames": FRAMES,
    "frame_rate": 20,
    "num_inference_steps": 4,
    "max_sequence_length": 5,
    "output_type": "latent",
}


@pytest.fixture(scope="module")
def components() -> dict:
    return tiny_components(timestep_conditioning=True, causal=True, statistics=True)


@pytest.fixture(scope="module")
def pipeline(components: dict) -> LTXConditionPipeline:
    pipeline = LTXConditionPipeline(**components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(count: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


def seeded(*numbers: int):
    generators = [torch.Generator().manual_seed(number) for number in numbers]
    return generators if len(numbers) > 1 else generators[0]


def run(pipeline: LTXConditionPipeline, *seeds: int, **changes) -> torch.Tensor:
    return pipeline(**(CALL | changes), generator=seeded(*(seeds or (0,)))).frames


def unpacked(tokens: torch.Tensor) -> torch.Tensor:
    """The other pipelines give tokens, as Diffusers'."""
    return unpack_latents(tokens, *LATENTS)


def mixture() -> list:
    return [
        VideoCondition(image=pictures(1)[0]),
        VideoCondition(image=pictures(1, 1)[0], frame_index=5, strength=0.5),
        VideoCondition(video=list(pictures(17, 2)), frame_index=16, strength=0.8),
        ReferenceVideo(pictures(9, 3, 32, 64), scale=1.5, strength=0.9),
        RegionOfVideo(pictures(FRAMES, 4), np.tri(HEIGHT, WIDTH) > 0, strength=0.7),
    ]


def test_without_conditions_it_is_text_to_video(pipeline, components):
    text = LTXPipeline(**components)
    text.set_progress_bar_config(disable=True)
    assert torch.equal(run(pipeline), unpacked(text(**CALL, generator=seeded(0)).frames))


@pytest.mark.parametrize("form", ["conditions", "image", "diffusers"])
def test_a_picture_at_the_start_is_image_to_video(pipeline, components, form):
    image = LTXImageToVideoPipeline(**components)
    image.set_progress_bar_config(disable=True)
    picture = pictures(1)[0]
    given = {
        "conditions": {"conditions": VideoCondition(image=picture)},
        "image": {"image": picture},
        "diffusers": {"conditions": [LTXVideoCondition(image=picture)]},
    }[form]
    expected = unpacked(image(image=picture, **CALL, generator=seeded(0)).frames)
    assert torch.equal(run(pipeline, **given, image_cond_noise_scale=0.0), expected)
    assert not torch.allclose(run(pipeline, **given), expected, atol=1e-3)


def test_the_order_of_conditions_changes_nothing(pipeline):
    expected = run(pipeline, conditions=mixture())
    assert torch.equal(run(pipeline, conditions=mixture()[::-1]), expected)
    assert not torch.allclose(run(pipeline, conditions=mixture()[1:]), expected, atol=1e-3)


@pytest.mark.parametrize("rule", ["official", "proportional"])
@pytest.mark.parametrize("sampler", [None, "euler-ancestral"])
def test_a_batch_gives_what_single_calls_give(pipeline, rule, sampler):
    """Prompts with conditions of their own, two videos each, a list of generators."""
    prompts = ["a red circle moves", "the blue square down"]
    own = [
        [
            VideoCondition(image=pictures(1, 10 * row)[0], strength=0.6 + 0.4 * row),
            VideoCondition(image=pictures(1, 10 * row + 1)[0], frame_index=-1, strength=0.5),
            RegionOfVideo(pictures(FRAMES, row), np.tri(HEIGHT, WIDTH, 32 * row) > 0, 0.3),
        ]
        for row in range(2)
    ]
    settings = {
        "strength_rule": rule,
        "sampler": sampler,
        "guidance": SpatioTemporalGuidance(3.0, 0.7, star=True, stg_blocks=(1,)),
    }
    together = run(pipeline, 1, 2, 3, 4, prompt=prompts, conditions=own, num_videos_per_prompt=2, **settings)
    for index in range(4):
        alone = run(pipeline, index + 1, prompt=prompts[index // 2], conditions=own[index // 2], **settings)
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-4, rtol=1e-4)


def encoded(pipeline, frames: np.ndarray) -> torch.Tensor:
    """Mean latents of a clip, normalised."""
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    mean = pipeline.vae.encode(pixels).latent_dist.mean
    return normalize_latents(mean, pipeline.vae.latents_mean, pipeline.vae.latents_std)


@pytest.fixture
def certain(monkeypatch) -> None:
    """Encoding without its random draw."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@torch.no_grad()
def test_what_a_region_keeps_stays(pipeline, certain):
    video, keep = pictures(FRAMES), np.ones((FRAMES, HEIGHT, WIDTH), bool)
    keep[9:25, :32] = False
    given = RegionOfVideo(video, keep)
    latents = run(pipeline, conditions=given, image_cond_noise_scale=0.0)
    expected = encoded(pipeline, video)
    kept = torch.ones(LATENTS, dtype=torch.bool)
    kept[2:4, 0] = False
    torch.testing.assert_close(latents[0, :, kept], expected[0, :, kept])
    assert not torch.isclose(latents[0, :, ~kept], expected[0, :, ~kept], atol=1e-2).any()


def test_what_a_hidden_region_held_makes_no_difference(pipeline, components):
    """`hide` paints it gray; left to itself it follows the transformer's config."""
    keep = np.tri(HEIGHT, WIDTH) > 0
    video, other = pictures(FRAMES, 1), pictures(FRAMES, 1)
    other[:, ~keep] = 255 - other[:, ~keep]

    def same(pipe, **hide) -> bool:
        pair = [run(pipe, conditions=RegionOfVideo(clip, keep, **hide)) for clip in (video, other)]
        return torch.equal(*pair)

    assert same(pipeline, hide=True)
    assert not same(pipeline)
    trained_so = copy.deepcopy(components["transformer"])
    trained_so.register_to_config(regions_hidden=True)
    hiding = LTXConditionPipeline(**{**components, "transformer": trained_so})
    hiding.set_progress_bar_config(disable=True)
    assert same(hiding)
    assert not same(hiding, hide=False)


def test_a_clip_at_the_end_ends_there(pipeline):
    clip = list(pictures(17, 2))
    by_index = run(pipeline, conditions=VideoCondition(video=clip, frame_index=16))
    from_the_end = run(pipeline, conditions=VideoCondition(video=clip, frame_index=-1))
    assert torch.equal(by_index, from_the_end)


def test_a_placed_picture_leaves_the_rest_free(pipeline, certain):
    """It covers columns 1 and 2; column 1 is its border inside the canvas and left free."""
    placed = VideoCondition(image=pictures(1, 5, 64, 64)[0], place=(32, 0))
    first, second = (run(pipeline, seed, conditions=placed, image_cond_noise_scale=0.0)[0] for seed in (0, 1))
    given = torch.zeros(LATENTS, dtype=torch.bool)
    given[0, :, 2] = True
    assert torch.equal(first[:, given], second[:, given])
    assert not torch.isclose(first[:, ~given], second[:, ~given], atol=1e-4).all(dim=0).any()


def test_a_weak_start_from_a_video_changes_it_little(pipeline):
    video = pictures(FRAMES, 6)
    changes = [
        (run(pipeline, initial_video=video, denoise_strength=share, num_inference_steps=8)
         - run(pipeline, initial_video=video, denoise_strength=0.125, num_inference_steps=8)).abs().mean()
        for share in (0.25, 0.5, 1.0)
    ]  # fmt: skip
    assert 0 < changes[0] < changes[1] < changes[2]


def test_initial_latents_are_noised_to_the_first_level(pipeline):
    """A schedule of one low level: what is seen first is that mixture."""
    latents, seen = torch.randn(1, 8, *LATENTS), []

    def look(pipe, index, timestep, tensors):
        seen.append(float(timestep))
        return {}

    result = run(pipeline, initial_latents=latents, skip_initial_inference_steps=3, callback_on_step_end=look)
    assert seen == [pipeline.scheduler.timesteps[-1].item()] and len(seen) == 1
    near = (result - latents).abs().mean()
    assert near < (run(pipeline) - latents).abs().mean()
    by_strength = run(pipeline, initial_latents=latents, denoise_strength=0.25)
    assert torch.equal(by_strength, result)


def test_skipped_final_steps_jump_to_the_end(pipeline):
    seen = []
    run(
        pipeline,
        skip_final_inference_steps=2,
        callback_on_step_end=lambda pipe, index, timestep, tensors: seen.append(float(timestep)) or {},
    )
    assert len(seen) == 2
    assert pipeline.scheduler.sigmas[-1] == 0 and len(pipeline.scheduler.sigmas) == 3


@pytest.mark.parametrize("name", samplers.list())
def test_samplers(pipeline, name):
    result = run(pipeline, sampler=name, conditions=mixture())
    assert torch.isfinite(result).all()
    default = run(pipeline, conditions=mixture())
    assert torch.allclose(result, default, atol=1e-4) is (name == "euler")


def test_guidance_given_as_an_object(pipeline):
    plain = run(pipeline, guidance_scale=4.0, guidance_rescale=0.5)
    given = ClassifierFreeGuidance(4.0, 0.5)
    assert torch.equal(run(pipeline, guidance=given), plain)
    assert torch.equal(run(pipeline, guidance=GuidanceByLevel([1.0, 0.5], [given, given])), plain)
    for other in (
        SpatioTemporalGuidance(4.0, 0.5, stg_blocks=(1,)),
        GuidanceByLevel([1.0, 0.6], [given, ClassifierFreeGuidance(1.0)]),
        ClassifierFreeGuidance(4.0, 0.5, star=True),
    ):
        assert not torch.allclose(run(pipeline, guidance=other), plain, atol=1e-4)
    assert pipeline.do_classifier_free_guidance
    run(pipeline, guidance=SkipLayerGuidance(1.0, skip_layer_guidance_layers=[1]))
    assert not pipeline.do_classifier_free_guidance
    # Nothing is kept for the next call.
    assert torch.equal(run(pipeline, guidance_scale=4.0, guidance_rescale=0.5), plain)


def test_tone_mapping_acts_on_the_decoded_video_only(pipeline):
    plain, mapped = (
        run(pipeline, tone_map_compression=compression, output_type="pt") for compression in (0.0, 0.8)
    )
    assert not torch.allclose(plain, mapped, atol=1e-3)
    assert torch.equal(run(pipeline, tone_map_compression=0.8), run(pipeline))


def test_conditions_of_full_strength_that_leave_each_other_alone(pipeline):
    """A retake with a keyframe in the part made anew; two regions side by side."""
    frames, columns = np.arange(FRAMES)[:, None, None], np.arange(WIDTH)
    retaken = RegionOfVideo(
        pictures(FRAMES), (frames < 9) | (frames >= 25) * np.ones((1, HEIGHT, WIDTH), bool)
    )
    side = np.ones((HEIGHT, 1)) * columns < 32
    for conditions in (
        [retaken, VideoCondition(**ONE, frame_index=12)],
        [RegionOfVideo(pictures(FRAMES), side), RegionOfVideo(pictures(FRAMES, 1), ~side)],
    ):
        assert torch.isfinite(run(pipeline, conditions=conditions)).all()


def test_the_strength_rules_differ(pipeline):
    soft = VideoCondition(image=pictures(1)[0], strength=0.5)
    results = [run(pipeline, conditions=soft, strength_rule=rule) for rule in ("official", "proportional")]
    assert not torch.allclose(*results, atol=1e-3)


def untouchable(*args, **kwargs):
    raise AssertionError("a model ran before the input was checked")


ONE = {"image": pictures(1)[0]}
BAD = {
    "frame too late": ({"conditions": VideoCondition(**ONE, frame_index=33)}, "0 to 32"),
    "frame that is no number": (
        {"conditions": VideoCondition(**ONE, frame_index="8")},
        "frame_index must be",
    ),
    "frame before the start": ({"conditions": VideoCondition(**ONE, frame_index=-34)}, "frame_index=-34"),
    "clip off the grid": ({"conditions": VideoCondition(video=pictures(17), frame_index=4)}, "multiple of 8"),
    "clip of 10 frames": ({"conditions": VideoCondition(video=pictures(10))}, r"8k \+ 1"),
    "clip too long": ({"conditions": VideoCondition(video=pictures(41))}, "doesn't fit"),
    "clip of another size": (
        {"conditions": VideoCondition(video=pictures(9, 0, 32, 32))},
        "size of the video",
    ),
    "nothing given": ({"conditions": VideoCondition()}, "image or video"),
    "both given": ({"conditions": VideoCondition(**ONE, video=pictures(9))}, "image or video"),
    "strength": ({"conditions": VideoCondition(**ONE, strength=1.2)}, r"\[0, 1\]"),
    "prefix": ({"conditions": VideoCondition(video=pictures(9), prefix="concat")}, "prefix"),
    "contradiction": (
        {"conditions": [VideoCondition(**ONE), VideoCondition(video=pictures(9))]},
        "two conditions of full strength",
    ),
    "picture against a region": (
        {
            "conditions": [
                VideoCondition(**ONE, frame_index=12),
                RegionOfVideo(pictures(FRAMES), np.arange(FRAMES)[:, None, None] * np.ones((64, 96)) >= 12),
            ]
        },
        "frame 12, from a region and frame_index=12",
    ),
    "two regions": (
        {
            "conditions": [
                RegionOfVideo(pictures(FRAMES), np.tri(64, 96) > 0),
                RegionOfVideo(pictures(FRAMES, 1), np.tri(64, 96) == 0),
                RegionOfVideo(pictures(FRAMES, 2), np.eye(64, 96) > 0),
            ]
        },
        "from a region and a region",
    ),
    "picture against one on the canvas": (
        {
            "conditions": [
                VideoCondition(**ONE),
                VideoCondition(image=pictures(1, 0, 64, 64)[0], place=(32, 0)),
            ]
        },
        "frame 0",
    ),
    "place off the grid": (
        {"conditions": VideoCondition(image=pictures(1, 0, 64, 64)[0], place=(8, 0))},
        "grid",
    ),
    "place later": (
        {"conditions": VideoCondition(image=pictures(1, 0, 64, 64)[0], place=(32, 0), frame_index=8)},
        "frame 0",
    ),
    "nothing left of it": (
        {"conditions": VideoCondition(image=pictures(1, 0, 64, 32)[0], place=(32, 0))},
        "nothing is left",
    ),
    "mask of another size": ({"conditions": RegionOfVideo(pictures(FRAMES), np.ones((64, 64)))}, "mask"),
    "video of another length": ({"conditions": RegionOfVideo(pictures(9), np.ones((64, 96)))}, "length"),
    "reference of 10 frames": ({"conditions": ReferenceVideo(pictures(10))}, r"8k \+ 1"),
    "not a condition": ({"conditions": "a picture"}, "VideoCondition"),
    "lists for other prompts": ({"conditions": [[VideoCondition(**ONE)]] * 3}, "one for each"),
    "bad entry among other kinds": (
        {"conditions": [[], [VideoCondition(**ONE, strength=2.0)]], "prompt": ["a red", "a blue"]},
        r"\[0, 1\]",
    ),
    "guidance": ({"guidance": "classifier-free"}, "diffusers.guiders"),
    "guider": ({"guidance": LTX2Guidance(4.0)}, "SpatioTemporalGuidance"),
    "guider's block": ({"guidance": SkipLayerGuidance(skip_layer_guidance_layers=[2])}, "0 to 1"),
    "guider's hooks": (
        {
            "guidance": SkipLayerGuidance(
                skip_layer_config=LayerSkipConfig(indices=[2], fqn="transformer_blocks", skip_ff=False)
            )
        },
        "can't set its hooks",
    ),
    "sampler's class": ({"sampler": GradientEstimation}, "the class GradientEstimation"),
    "sampler": ({"sampler": 3}, "must be an object with step"),
    "given twice": ({"conditions": VideoCondition(**ONE), **ONE}, "twice"),
    "image and video": ({**ONE, "video": pictures(9)}, "both image and video"),
    "too few frames named": ({"image": pictures(2), "frame_index": [0]}, "one entry for each"),
    "start from nothing": ({"denoise_strength": 0.5}, "start from"),
    "skipped from nothing": ({"skip_initial_inference_steps": 1}, "start from"),
    "two starts": (
        {"initial_video": pictures(FRAMES), "initial_latents": torch.zeros(1, 8, *LATENTS)},
        "more than one start",
    ),
    "no strength": ({"denoise_strength": 0.0}, "above 0"),
    "start of another length": ({"initial_video": pictures(9)}, "another length"),
    "start of another shape": ({"initial_latents": torch.zeros(2, 8, *LATENTS)}, "wrong shape"),
    "block": ({"guidance": SpatioTemporalGuidance(stg_blocks=(2,))}, "0 to 1"),
    "tone map": ({"tone_map_compression": 2.0}, "tone_map"),
    "condition noise": ({"image_cond_noise_scale": -1.0}, "image_cond_noise_scale"),
    "rule": ({"strength_rule": "linear"}, "strength_rule"),
    "text as noise": ({"image_cond_noise_scale": "a"}, "image_cond_noise_scale"),
    "text as strength": ({"initial_video": pictures(FRAMES), "denoise_strength": "a"}, "denoise_strength"),
    "number as preset": ({"preset": 3}, "preset must be"),
    "number as latents": ({"latents": 3}, "must be a tensor"),
    "place of one side": ({"conditions": [VideoCondition(**ONE, place=(0,))]}, "two whole numbers"),
    "text as place": ({"conditions": [VideoCondition(**ONE, place="ab")]}, "two whole numbers"),
    "text as mask": ({"conditions": [RegionOfVideo(pictures(FRAMES), "x")]}, "an array or a tensor"),
    "empty picture": ({"image": np.zeros((0, 32, 3), np.uint8)}, "no pixels"),
    "clip longer than the video": ({"video": pictures(FRAMES + 8)}, "at most the"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_any_model_runs(pipeline, monkeypatch, name):
    arguments, message = BAD[name]
    for component in (pipeline.vae, pipeline.transformer, pipeline.text_encoder):
        monkeypatch.setattr(component, "forward", untouchable)
    monkeypatch.setattr(pipeline.vae, "encode", untouchable)
    with pytest.raises(InputError, match=message):
        run(pipeline, **arguments)


def test_the_models_own_preset_is_used_and_arguments_win(pipeline, monkeypatch):
    preset = Preset("mine", PassPreset(SpatioTemporalGuidance(4.0, stg_blocks=(1,)), num_inference_steps=3))
    monkeypatch.setattr(pipeline_ltx_condition, "preset_of", lambda *configs: preset)
    without_steps = {"num_inference_steps": None}
    by_preset = run(pipeline, **without_steps)
    assert torch.equal(by_preset, run(pipeline, num_inference_steps=3, guidance=preset.single.guidance))
    assert torch.equal(run(pipeline, guidance_scale=2.0), run(pipeline, guidance_scale=2.0, preset=None))
    levels = np.linspace(1.0, 0.25, 3)
    by_levels = run(pipeline, **without_steps, sigmas=levels)
    expected = run(pipeline, **without_steps, sigmas=levels.tolist(), guidance=preset.single.guidance)
    assert torch.equal(by_levels, expected)
    # Diffusers' transformer has no perturbed passes, a compiled one of ours has.
    theirs = tiny_components(timestep_conditioning=True, causal=True, statistics=True, ours=False)[
        "transformer"
    ]
    other = LTXConditionPipeline(**pipeline.components | {"transformer": theirs})
    other.set_progress_bar_config(disable=True)
    assert torch.equal(run(other), run(other, preset=None))
    with pytest.raises(InputError, match="our transformer"):
        run(other, guidance=preset.single.guidance)
    compiled = torch.compile(pipeline.transformer, backend="eager")
    monkeypatch.setattr(pipeline, "transformer", compiled)
    torch.testing.assert_close(run(pipeline, **without_steps), by_preset)


def test_an_unknown_sampler(pipeline):
    with pytest.raises(UnknownNameError, match="euler"):
        run(pipeline, sampler="euler_a")


def test_no_step_left(pipeline):
    with pytest.raises(InputError, match="no step"):
        run(pipeline, skip_final_inference_steps=4)
