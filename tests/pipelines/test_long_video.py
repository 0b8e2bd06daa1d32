"""LTXLongVideoPipeline: how windows go on from each other, what each is given, resuming, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.guiders import AdaptiveProjectedGuidance
from tiny import tiny_components

from ltx_diffusers import (
    LTXConditionPipeline,
    LTXLongVideoPipeline,
    ReferenceVideo,
    RegionOfVideo,
    VideoCondition,
)
from ltx_diffusers.denoising.conditions import InPlaceCondition, KeyframeCondition
from ltx_diffusers.denoising.samplers import EulerAncestral
from ltx_diffusers.errors import InputError, LTXError
from ltx_diffusers.functional.latent_statistics import match_statistics
from ltx_diffusers.pipelines.window_files import digest

HEIGHT, WIDTH, FRAMES = 32, 64, 57
CALL = {
    "prompt": "a red circle moves",
    "num_frames": FRAMES,
    "height": HEIGHT,
    "width": WIDTH,
    "frame_rate": 8,
    "window_frames": 25,
    "overlap_frames": 9,
    "num_inference_steps": 2,
    "max_sequence_length": 5,
    "decode_frames": 25,
    "decode_overlap_frames": 8,
}
# 7 latent frames after the first, windows of 3 with 1 given: 0..3, then 4..5 (from 2) and 6..7 (from 4).
SPANS = [(0, 3), (2, 5), (4, 7)]


@pytest.fixture(scope="module")
def components() -> dict:
    return tiny_components(timestep_conditioning=True, causal=True, statistics=True)


@pytest.fixture
def pipeline(components: dict) -> LTXLongVideoPipeline:
    pipeline = LTXLongVideoPipeline(**components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def calls(pipeline: LTXLongVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What every window is made with, and the latents that it gives."""
    seen: list[dict] = []
    plain = LTXLongVideoPipeline._window_latents

    def window_latents(self, arguments, carried, name):
        made = plain(self, arguments, carried, name)
        seen.append({"arguments": arguments, "carried": list(carried), "made": made, "name": name})
        return made

    monkeypatch.setattr(LTXLongVideoPipeline, "_window_latents", window_latents)
    return seen


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def latents(pipeline: LTXLongVideoPipeline, seed: int = 0, **changes) -> torch.Tensor:
    return pipeline(**(CALL | changes), generator=seeded(seed), output_type="latent").frames


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_a_single_window_is_an_ordinary_video(pipeline, components):
    ordinary = LTXConditionPipeline(**components)
    ordinary.set_progress_bar_config(disable=True)
    video = pipeline.stream(**CALL | {"num_frames": 25}, generator=seeded(3))
    names = ("prompt", "height", "width", "frame_rate", "num_inference_steps", "max_sequence_length")
    call = {name: CALL[name] for name in names} | {"num_frames": 25, "output_type": "latent"}
    expected = ordinary(**call, generator=seeded(video.calls[0].seed)).frames
    assert len(video.windows) == 1
    assert torch.equal(torch.cat(list(video.latents()), dim=2), expected)


def test_windows_are_given_latents_as_they_are_and_one_frame_anew(pipeline, calls):
    result = latents(pipeline)
    assert result.shape == (1, 8, 8, 1, 2)
    assert [call["made"].shape[2] for call in calls] == [4, 4, 4]
    assert [call["name"] for call in calls] == ["window 1 of 3", "window 2 of 3", "window 3 of 3"]
    assert calls[0]["carried"] == []
    for (start, _), call in zip(SPANS[1:], calls[1:], strict=True):
        (carried,) = call["carried"]
        assert isinstance(carried, InPlaceCondition) and carried.strength == 1 and carried.start == (0, 0, 0)
        assert torch.equal(carried.latents[:, :, 1:], result[:, :, start + 1 : start + 2])
        # The first stands for one frame in the window and for eight in the video.
        assert carried.latents.shape[2] == 2
        assert not torch.allclose(carried.latents[:, :, :1], result[:, :, start : start + 1], atol=1e-3)
    # What the windows make is taken as it is; what they were given stays as it was.
    assert torch.equal(result[:, :, :4], calls[0]["made"])
    assert torch.equal(result[:, :, 4:6], calls[1]["made"][:, :, 2:])
    assert torch.equal(result[:, :, 6:], calls[2]["made"][:, :, 2:])


def test_the_frame_a_window_begins_with_is_the_video_s_own(pipeline, calls, monkeypatch):
    """The picture that is encoded is frame 8 * start of the video, as nearly as a decoder's context allows."""
    from ltx_diffusers.pipelines import long_video

    encoded = []
    plain = long_video.encode_frames
    monkeypatch.setattr(
        long_video,
        "encode_frames",
        lambda vae, frames, *rest: encoded.append(frames) or plain(vae, frames, *rest),
    )
    call = CALL | {"decode_noise_scale": 0.0, "decode_timestep": 0.0, "decode_frames": 57}
    frames = pipeline(**call, generator=seeded(), output_type="pt").frames[0]
    for (start, _), picture in zip(SPANS[1:], encoded, strict=True):
        errors = [(picture[0, :, 0] - (2 * frame - 1)).abs().mean().item() for frame in frames]
        assert int(np.argmin(errors)) == 8 * start


def test_below_strength_1_the_overlap_is_made_again_and_fades(pipeline, calls):
    result = latents(pipeline, overlap_strength=0.5, overlap_frames=17)
    # Windows 0..3, then one new latent frame each: 1..4, 2..5, 3..6, 4..7, with two given.
    first, second, third = (calls[index]["made"] for index in range(3))
    assert calls[1]["carried"][0].strength == 0.5
    faded = torch.stack(
        [0.75 * first[:, :, 2] + 0.25 * second[:, :, 1], 0.25 * first[:, :, 3] + 0.75 * second[:, :, 2]], 2
    )
    torch.testing.assert_close(result[:, :, 2], faded[:, :, 0])
    torch.testing.assert_close(result[:, :, 3], 0.75 * faded[:, :, 1] + 0.25 * third[:, :, 1])
    assert not torch.allclose(first[:, :, 2:4], second[:, :, 1:3], atol=1e-2)


def test_drift_control_holds_the_statistics_of_the_first_window(pipeline, calls):
    result = latents(pipeline, drift_control=1.0)
    first, second = calls[0]["made"], calls[1]["made"].clone()
    second[:, :, 1:2] = first[:, :, 3:]
    matched = match_statistics(second, first)
    torch.testing.assert_close(result[:, :, 4], matched[:, :, 2])
    torch.testing.assert_close(result[:, :, 3], (first[:, :, 3] + matched[:, :, 1]) / 2)
    torch.testing.assert_close(matched.mean((2, 3, 4)), first.mean((2, 3, 4)))


def test_the_first_frame_is_an_anchor_before_later_windows(pipeline, calls):
    result = latents(pipeline, anchor_strength=0.8)
    assert calls[0]["carried"] == []
    for call in calls[1:]:
        _, anchor = call["carried"]
        assert isinstance(anchor, KeyframeCondition)
        assert (anchor.frame, anchor.strength) == (-8, 0.8)
        assert torch.equal(anchor.latents, result[:, :, :1])
    assert not torch.allclose(result[:, :, 4:], latents(pipeline)[:, :, 4:], atol=1e-3)


def test_each_window_follows_its_prompt_and_texts_are_encoded_once(pipeline, calls, monkeypatch):
    encoded = []
    plain = LTXLongVideoPipeline.encode_prompt

    def encode_prompt(self, prompt, *rest, **options):
        if prompt is not None:
            encoded.append(prompt)
        return plain(self, prompt, *rest, **options)

    monkeypatch.setattr(LTXLongVideoPipeline, "encode_prompt", encode_prompt)
    changed = latents(
        pipeline, prompt=[(0, "a red circle moves"), (3, "the blue square down"), (5, "a red circle moves")]
    )
    # 3 s are frame 24: latent frame 3 is the last of the first prompt, latent frame 5 of the second.
    assert [call["made"].shape[2] for call in calls] == [4, 4, 4]
    assert encoded == ["a red circle moves", "the blue square down"]
    same = latents(pipeline)
    assert torch.equal(changed[:, :, :4], same[:, :, :4])
    assert not torch.allclose(changed[:, :, 4:6], same[:, :, 4:6], atol=1e-3)


def test_the_same_seed_gives_the_same_video(pipeline):
    torch.manual_seed(1)
    first = pipeline(**CALL, generator=seeded(5), output_type="np").frames
    torch.manual_seed(2)
    again = pipeline(**CALL, generator=seeded(5), output_type="np").frames
    assert np.array_equal(first, again)
    assert not np.allclose(first, pipeline(**CALL, generator=seeded(6), output_type="np").frames, atol=1e-2)


def test_pieces_are_the_whole_video(pipeline):
    whole = pipeline(**CALL, generator=seeded(), output_type="np").frames[0]
    pieces = list(pipeline.stream(**CALL, generator=seeded()))
    assert len(pieces) > 3 and all(piece.dtype == np.uint8 for piece in pieces)
    assert np.array_equal(np.concatenate(pieces), np.round(whole * 255).astype(np.uint8))
    assert whole.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert len(pipeline(**CALL, generator=seeded()).frames[0]) == FRAMES


def test_pieces_come_before_the_video_is_done(pipeline, calls):
    pieces = iter(pipeline.stream(**CALL | {"num_frames": 121, "decode_frames": 17}, generator=seeded()))
    next(pieces)
    assert len(calls) < 5


def test_conditions_go_to_the_windows_that_make_their_frames(pipeline, calls):
    conditions = [
        VideoCondition(image=pictures(1)[0], strength=0.9),
        VideoCondition(video=list(pictures(9, 1)), frame_index=32, strength=0.8),
        VideoCondition(image=pictures(1, 2)[0], frame_index=-1),
    ]
    video = pipeline.stream(**CALL, conditions=conditions[::-1])
    given = [call.arguments.get("conditions", []) for call in video.calls]
    assert [[entry.frame_index for entry in entries] for entries in given] == [[0], [16], [24]]
    assert given[0][0] == replace(conditions[0], frame_index=0)
    list(video.latents())
    assert len(calls) == 3


def test_whole_videos_are_cut_into_spans(pipeline, calls):
    reference, region, initial = (pictures(FRAMES, seed) for seed in range(3))
    keep = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    keep[:, :, :32] = True
    conditions = [ReferenceVideo(reference), RegionOfVideo(region, keep)]
    call = CALL | {"denoise_strength": 0.5, "image_cond_noise_scale": 0.0}
    video = pipeline.stream(**call, conditions=conditions, initial_video=initial)
    for (start, end), call in zip(SPANS, video.calls, strict=True):
        frames = slice(8 * start, 8 * end + 1)
        given, kept = call.arguments["conditions"]
        assert np.array_equal(given.video, reference[frames])
        assert np.array_equal(kept.video, region[frames]) and kept.keep.shape[0] == 25
        assert np.array_equal(call.arguments["initial_video"], initial[frames])
    list(video.latents())
    # The overlap is what the window before has made of it, also where the region is kept.
    carried = calls[1]["carried"][0].latents[:, :, 1]
    assert torch.equal(calls[1]["made"][:, :, 1], carried)


def test_an_interrupted_video_goes_on_where_it_was(pipeline, calls, tmp_path):
    expected = np.concatenate(list(pipeline.stream(**CALL, generator=seeded(4))))
    calls.clear()
    folder = tmp_path / "windows"

    def stop(self, index, timestep, tensors):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {}

    video = pipeline.stream(**CALL, generator=seeded(4), resume_folder=folder, callback_on_step_end=stop)
    with pytest.raises(KeyboardInterrupt):
        list(video)
    calls.clear()
    video = pipeline.stream(**CALL, generator=seeded(4), resume_folder=folder)
    assert np.array_equal(np.concatenate(list(video)), expected)
    assert len(calls) == 1
    video.files.remove()
    assert not folder.exists()


def test_a_folder_of_another_video_is_refused(pipeline, tmp_path):
    folder = tmp_path / "windows"
    pipeline.stream(**CALL | {"prompt": "nothing made yet"}, resume_folder=folder)
    video = pipeline.stream(**CALL, generator=seeded(), resume_folder=folder)
    next(video.latents())
    pipeline.stream(**CALL, generator=seeded(), resume_folder=folder)
    for changes in (
        {"prompt": "the blue square"},
        {"drift_control": 0.5},
        {"num_inference_steps": 3},
        {"image": pictures(1)[0]},
        {"sampler": EulerAncestral(0.5)},
        {"guidance": AdaptiveProjectedGuidance(guidance_scale=2.0)},
    ):
        with pytest.raises(InputError, match="another video"):
            pipeline.stream(**CALL | changes, generator=seeded(), resume_folder=folder)
    with pytest.raises(InputError, match="another video"):
        pipeline.stream(**CALL, generator=seeded(1), resume_folder=folder)
    unfinished = folder / ".window_00001.safetensors.0.part"
    unfinished.write_bytes(b"")
    video.files.remove()
    assert not folder.exists()
    folder.mkdir()
    (folder / ".long_video.json.0.part").write_text("")  # all that a run has left that was killed early
    pipeline.stream(**CALL, resume_folder=folder).files.remove()
    assert not folder.exists()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="empty folder"):
        pipeline.stream(**CALL, resume_folder=tmp_path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (EulerAncestral(0.1), EulerAncestral(0.9)),
        (AdaptiveProjectedGuidance(guidance_scale=2.0), AdaptiveProjectedGuidance(guidance_scale=3.0)),
        (AdaptiveProjectedGuidance(stop=0.5), AdaptiveProjectedGuidance(stop=0.6)),
        ({"a": [1, 2]}, {"a": [1, 3]}),
        (pictures(1), pictures(1, 1)),
    ],
)
def test_digests_tell_settings_apart(one, other):
    assert digest(one) == digest(copy.deepcopy(one)) != digest(other)


def test_a_callback_that_stops_ends_the_video_with_the_window_before(pipeline, calls):
    def stop(self, index, timestep, tensors):
        self._interrupt = len(calls) == 2
        return {}

    video = pipeline.stream(**CALL, generator=seeded(), callback_on_step_end=stop)
    assert torch.cat(list(video.latents()), dim=2).shape[2] == 6
    assert not pipeline._carried


@pytest.mark.parametrize("output_type", ["latent", "np"])
def test_a_video_that_is_stopped_at_once_says_so(pipeline, output_type):
    def stop(self, index, timestep, tensors):
        self._interrupt = True
        return {}

    with pytest.raises(LTXError, match="before its first window"):
        pipeline(**CALL, generator=seeded(), callback_on_step_end=stop, output_type=output_type)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 56}, "num_frames"),
        ({"window_frames": 24}, "frames"),
        ({"overlap_frames": 25}, "overlap_frames"),
        ({"overlap_strength": 0}, "overlap_strength"),
        ({"drift_control": 1.5}, "drift_control"),
        ({"anchor_strength": None}, "anchor_strength"),
        ({"prompt": [(0, "a"), (9, "b")]}, "can't begin"),
        ({"prompt": ["a red circle", "a blue square"]}, "prompt"),
        ({"decode_frames": 24}, "decode_frames"),
        ({"decode_frames": 24.0}, "decode_frames"),
        ({"decode_overlap_frames": 24}, "overlap"),
        ({"num_videos_per_prompt": 2}, "one at a time"),
        ({"generator": [seeded()]}, "generator"),
        ({"latents": torch.zeros(1)}, "latents"),
        ({"negative_prompt_embeds": torch.zeros(1, 5, 16)}, "negative_prompt_embeds"),
        ({"prompt_enhancer": lambda prompts, images=None: prompts}, "prompt_enhancer"),
        ({"fps": 8}, "fps"),
        ({"height": 33}, "height"),
        ({"conditions": [[VideoCondition(image=pictures(1)[0])]] * 2}, "one list"),
        ({"image": pictures(1)[0], "frame_index": 57}, "frame"),
        ({"video": list(pictures(17)), "frame_index": 16}, "one window"),
        ({"conditions": ReferenceVideo(pictures(9))}, "reference"),
        ({"initial_video": pictures(25)}, "another length"),
        ({"denoise_strength": 0.5}, "start from"),
        ({"sampler": "eulr"}, "eulr"),
        ({"output_type": "gif"}, "output_type"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(pipeline, calls, changes, message):
    with pytest.raises(InputError, match=message):
        pipeline(**(CALL | {"generator": seeded()} | changes))
    assert calls == []
