"""Files made into what the pipeline is called with: sizes, lengths, rates, masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltx_diffusers.cli.given_media import Clip, Media, build_arguments, follow, joined, read_media
from ltx_diffusers.cli.settings import Settings, option_values
from ltx_diffusers.data.video import write_video
from ltx_diffusers.errors import InputError
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.pipelines.media import checked_conditions

SIZE = VideoSize(17, 64, 96)
RATE = 8.0


def numbered(frames: int, height: int = 64, width: int = 96, first: int = 0) -> np.ndarray:
    """A clip whose pictures are grey with the number of the frame."""
    return np.broadcast_to(
        np.arange(first, first + frames, dtype=np.uint8)[:, None, None, None], (frames, height, width, 3)
    ).copy()


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of `numbered` these are."""
    assert (frames == frames[:, :1, :1, :1]).all()
    return frames[:, 0, 0, 0].tolist()


def settings(**options: object) -> Settings:
    return Settings.of({"prompt": "x", **option_values(options)})


def conditions(given: Settings, media: Media) -> list:
    """The conditions, as the pipeline accepts them."""
    built = build_arguments(given, media, SIZE, RATE)["conditions"]
    from ltx_diffusers.geometry import LTX_RATIOS

    checked_conditions(built, SIZE, LTX_RATIOS)
    return built


def test_pictures_keep_frame_strength_and_preparation() -> None:
    given = settings(image=["a@8:0.5"], last="b:0.25", blur=1.0, crf=29, fit="pad")
    pictures = tuple(numbered(2))
    first, last = conditions(given, Media(images=pictures))
    assert (first.frame_index, first.strength, last.frame_index, last.strength) == (8, 0.5, -1, 0.25)
    assert {(one.fit, one.blur, one.crf) for one in (first, last)} == {("pad", 1.0, 29)}


@pytest.mark.parametrize(
    ("place", "shown"),
    [("", range(9)), ("@8", range(9)), ("@-1", range(5, 14)), ("@last", range(5, 14))],
)
def test_clips_are_cut_to_whole_latents(place: str, shown: range) -> None:
    (clip,) = conditions(settings(video=[f"a{place}"]), Media(videos=(Clip(numbered(14), RATE),)))
    assert numbers(clip.video) == list(shown)


def test_clips_keep_their_speed() -> None:
    (clip,) = conditions(settings(video="a"), Media(videos=(Clip(numbered(40), 2 * RATE),)))
    assert numbers(clip.video) == list(range(0, 34, 2))


def test_extensions_share_frames() -> None:
    media = Media(extend=Clip(numbered(30), RATE), extend_backward=Clip(numbered(20, first=100), RATE))
    before, after = conditions(settings(extend="a", extend_backward="b", overlap=1), media)
    assert (before.frame_index, numbers(before.video)) == (0, [29])
    assert (after.frame_index, numbers(after.video)) == (-1, [100])
    (before,) = conditions(settings(extend="a"), Media(extend=media.extend))
    assert numbers(before.video) == list(range(21, 30))
    (before,) = conditions(settings(extend="a"), Media(extend=Clip(numbered(5), RATE)))
    assert numbers(before.video) == [4]
    with pytest.raises(InputError, match="nothing new is left"):
        build_arguments(settings(extend="a", extend_backward="b"), media, SIZE, RATE)
    with pytest.raises(InputError, match="longer than the video"):
        build_arguments(settings(extend="a", overlap=33), media, SIZE, RATE)


def test_joined_videos_show_what_they_share_once() -> None:
    media = Media(extend=Clip(numbered(30), RATE), extend_backward=Clip(numbered(20, first=100), RATE))
    new = numbered(17, first=200)
    both = settings(extend="a", extend_backward="b", overlap=1, join=True, fps=RATE)
    assert numbers(joined(both, media, new)) == [*range(30), *range(201, 216), *range(100, 120)]
    one = settings(extend="a", join=True, fps=RATE)
    assert numbers(joined(one, Media(extend=media.extend), new)) == [*range(30), *range(209, 217)]
    one = settings(extend_backward="a", join=True, fps=RATE)
    expected = [*range(200, 208), *range(100, 120)]
    assert numbers(joined(one, Media(extend_backward=media.extend_backward), new)) == expected


def test_white_of_a_mask_is_made_anew_in_the_span_of_time() -> None:
    mask = np.zeros((1, 64, 96, 3), np.uint8)
    mask[:, :, 48:] = 255
    source = Clip(numbered(20), RATE)
    given = settings(source="a:0.75", mask="m", retake="1-1.5")
    (region,) = conditions(given, Media(source=source, mask=Clip(mask, None)))
    assert region.strength == 0.75 and numbers(region.video) == list(range(17))
    anew = ~np.asarray(region.keep)
    assert anew[8:12, :, 48:].all() and anew.sum() == 4 * 64 * 48
    (region,) = conditions(settings(source="a", mask="m"), Media(source=source, mask=Clip(mask, None)))
    assert (~np.asarray(region.keep)).sum() == 17 * 64 * 48
    (region,) = conditions(settings(source="a", retake="1.5-"), Media(source=source))
    assert (~np.asarray(region.keep)).all(axis=(1, 2)).tolist() == [False] * 12 + [True] * 5


def test_a_mask_may_move_and_goes_with_the_sources_frames() -> None:
    mask = numbered(40, 128, 192) // 38 * 255  # only the last two are white
    source = Clip(numbered(40, 128, 192), 2.4 * RATE)
    given = settings(source="a", mask="m")
    (region,) = conditions(given, Media(source=source, mask=Clip(mask, 25.0)))
    shown = [round(index * 2.4) for index in range(17)]
    assert numbers(region.video) == shown
    assert (~np.asarray(region.keep)).any(axis=(1, 2)).tolist() == [frame >= 38 for frame in shown]


def test_outpainting_makes_what_the_source_leaves_free() -> None:
    source = Clip(np.full((17, 64, 32, 3), 200, np.uint8), RATE)
    (region,) = conditions(settings(source="a", outpaint=True, size="96x64"), Media(source=source))
    keep = np.asarray(region.keep)
    assert keep[:, :, 32:64].all() and keep.sum() == 17 * 64 * 32
    assert (region.video[keep] == 200).all()
    with pytest.raises(InputError, match="nothing of the source is made anew"):
        whole = Media(source=Clip(numbered(17), RATE))
        build_arguments(settings(source="a", outpaint=True, size="96x64"), whole, SIZE, RATE)


def test_references_lie_beside_the_video() -> None:
    media = Media(references=(Clip(numbered(40), RATE),))
    (reference,) = conditions(settings(reference="a:0.5", reference_scale=0.5), media)
    assert (reference.strength, reference.scale, reference.fit) == (0.5, 0.5, "crop")
    assert numbers(reference.video) == list(range(17))


def test_a_video_to_start_from() -> None:
    media = Media(from_video=Clip(numbered(40, 100, 200), RATE))
    arguments = build_arguments(settings(from_video="a", denoise_strength=0.3), media, SIZE, RATE)
    assert arguments["denoise_strength"] == 0.3
    assert arguments["initial_video"].shape == (17, 64, 96, 3)
    with pytest.raises(InputError, match="too short"):
        build_arguments(settings(from_video="a"), Media(from_video=Clip(numbered(16), RATE)), SIZE, RATE)


def test_size_rate_and_length_of_the_video_that_is_worked_on() -> None:
    clip = Clip(numbered(30, 100, 200), 12.0)
    followed = follow(settings(from_video="a"), Media(from_video=clip))
    assert (followed.height, followed.width, followed.frame_rate, followed.num_frames) == (96, 192, 12.0, 25)
    followed = follow(settings(from_video="a", fps=6, size="32x32"), Media(from_video=clip))
    assert (followed.height, followed.width, followed.frame_rate, followed.num_frames) == (32, 32, 6, 9)
    followed = follow(settings(extend="a"), Media(extend=clip))
    assert (followed.height, followed.frame_rate, followed.num_frames) == (96, 12.0, None)
    assert follow(settings(video="a"), Media(videos=(clip,))) == settings(video="a")


def test_files_are_read_and_masks_have_the_sources_size(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.gif", numbered(9), RATE)
    Image.new("L", (96, 64), 255).save(tmp_path / "mask.png")
    clip, mask = str(tmp_path / "clip.gif"), str(tmp_path / "mask.png")
    media = read_media(settings(source=clip, mask=mask, image=[f"{mask}@8"]))
    assert media.source.frames.shape == (9, 64, 96, 3) and media.source.rate == RATE
    assert media.mask.frames.shape == (1, 64, 96, 3) and media.mask.rate is None
    assert media.images[0].shape == (64, 96, 3)
    Image.new("L", (90, 64), 255).save(mask)
    with pytest.raises(
        InputError, match="the mask must have the size of the source; got 90x64; expected 96x64"
    ):
        read_media(settings(source=clip, mask=mask))


def test_of_long_videos_only_what_is_used_is_read(tmp_path: Path) -> None:
    write_video(tmp_path / "clip", numbered(40), RATE, format="frames")
    clip = str(tmp_path / "clip")
    assert numbers(read_media(settings(extend=clip)).extend.frames) == list(range(31, 40))
    assert numbers(read_media(settings(extend_backward=clip)).extend_backward.frames) == list(range(9))
    assert numbers(read_media(settings(extend=clip, overlap=17)).extend.frames) == list(range(23, 40))
    assert len(read_media(settings(extend=clip, join=True)).extend.frames) == 40
    assert len(read_media(settings(extend=clip, fps=4)).extend.frames) == 40
    assert len(read_media(settings(from_video=clip, frames=17)).from_video.frames) == 17
    assert len(read_media(settings(from_video=clip)).from_video.frames) == 40


def test_two_videos_of_different_rates_share_what_was_asked_for(tmp_path: Path) -> None:
    write_video(tmp_path / "slow.gif", numbered(40), RATE)
    write_video(tmp_path / "fast.gif", numbered(40), 2 * RATE)
    both = {"extend": str(tmp_path / "slow.gif"), "extend_backward": str(tmp_path / "fast.gif")}
    given = settings(**both, overlap=9, frames=33)
    media = read_media(given)
    built = build_arguments(follow(given, media), media, VideoSize(33, 64, 96), RATE)["conditions"]
    assert [len(condition.video) for condition in built] == [9, 9]
