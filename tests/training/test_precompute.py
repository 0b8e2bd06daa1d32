"""Precomputed latents and texts: equal to what the models give, resumable, never stale, problems reported."""

from __future__ import annotations

import json
import os
import pickle
import signal
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.media_sets import grey_clip, write_clips, write_pictures, write_tar
from tiny import tiny_components

from ltx_diffusers.data.cutting import Cut
from ltx_diffusers.data.media_sets import find_entries
from ltx_diffusers.data.video import read_video, write_image, write_video
from ltx_diffusers.errors import InputError
from ltx_diffusers.geometry import CompressionRatios, VideoSize
from ltx_diffusers.training.clip_plan import ClipPlanner, ClipSettings
from ltx_diffusers.training.conditioning import Piece
from ltx_diffusers.training.latent_store import SAMPLES_NAME, LatentStore
from ltx_diffusers.training.precompute import EncodingSettings, _read_ahead, precompute

CLIP, SQUARE, STILL = VideoSize(9, 32, 64), VideoSize(9, 32, 32), VideoSize(1, 32, 64)
ONE_SIZE = ClipSettings(sizes=(CLIP,))
TEXT_LENGTH = 12


@pytest.fixture(scope="module")
def parts() -> dict:
    return tiny_components(causal=True, statistics=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos of 24 frames at 24 fps, two pictures, all 64x48."""
    root = write_clips(tmp_path_factory.mktemp("set"), 3)
    return write_pictures(root)


def run(source: Path, out: Path, parts: dict, clips: ClipSettings = ONE_SIZE, texts: bool = True, **more):
    loads = more.pop("loads", [])

    def load_vae():
        loads.append("vae")
        return parts["vae"]

    def load_text():
        loads.append("text")
        return parts["tokenizer"], parts["text_encoder"]

    more.setdefault("encoding", EncodingSettings(text_length=TEXT_LENGTH))
    return precompute(
        out,
        *find_entries(source),
        clips=clips,
        load_vae=load_vae,
        load_text=load_text if texts else None,
        **more,
    )


def by_name(store: LatentStore) -> dict[str, int]:
    return {store.describe(number): number for number in range(len(store))}


@torch.no_grad()
def test_samples_are_what_the_models_give(folder: Path, tmp_path: Path, parts: dict) -> None:
    clips = ClipSettings(sizes=(CLIP, STILL), caption_prefix="the ")
    report = run(folder, tmp_path / "out", parts, clips, prompts=["a red circle"])
    assert report.samples == report.encoded == 5
    assert dict(report.sizes) == {"64x32x9": 3, "64x32x1": 2} and dict(report.frame_rates) == {24.0: 3}
    assert not report.left_out and report.without_caption == ["still0.png", "still1.png"]

    vae, tokenizer, encoder = (parts[name] for name in ("vae", "tokenizer", "text_encoder"))
    store = LatentStore.open(tmp_path / "out", vae=vae)
    store.check_text_encoder(tokenizer, encoder)
    assert len(store) == 5 and store.has_text
    assert {size: len(numbers) for size, numbers in store.buckets.items()} == {CLIP: 3, STILL: 2}
    for name in ("clip1.mp4", "still0.png"):
        sample = store[by_name(store)[name]]
        picture = name.startswith("still")
        frames, rate = Cut().clip(folder / name, picture, STILL if picture else CLIP)
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
        posterior = vae.encode(video).latent_dist
        std = vae.latents_std.view(-1, 1, 1, 1)
        mean = (posterior.mean[0] - vae.latents_mean.view(-1, 1, 1, 1)) / std
        torch.testing.assert_close(sample.mean, mean)
        torch.testing.assert_close(sample.deviation, posterior.std[0] / std)
        assert sample.latent_size == ((1, 1, 2) if picture else (2, 1, 2))
        assert sample.frame_rate == (1.0 if picture else rate)
        assert (
            sample.caption
            == ("the " if picture else "the grey number 1")
            == store.caption(by_name(store)[name])
        )
        tokens = tokenizer([sample.caption], return_tensors="pt")
        expected = encoder(**tokens)[0][0]
        assert sample.text_mask.tolist() == [True] * expected.shape[0]
        torch.testing.assert_close(sample.text_embeds, expected)
    embeds, mask = store.text("a red circle")
    assert mask.tolist() == [True] * 4 and embeds.shape == (4, 16)
    assert store.text("")[0].shape == (1, 16)
    with pytest.raises(InputError, match="wasn't precomputed"):
        store.text("another")
    again = pickle.loads(pickle.dumps(store))
    assert torch.equal(again[3].mean, store[3].mean)


def test_the_same_call_again_encodes_nothing_and_a_change_only_what_it_changes(
    tmp_path: Path, parts: dict
) -> None:
    source, out = write_clips(tmp_path / "set", 3), tmp_path / "out"
    assert run(source, out, parts).encoded == 3
    before = {path.name: path.stat().st_mtime_ns for path in (out / "latents").iterdir()}
    assert run(source, out, parts).encoded == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in (out / "latents").iterdir()}
    (source / "clip0.txt").write_text("a blue square")
    assert run(source, out, parts).encoded == 0
    store = LatentStore.open(out)
    assert store.caption(0) == "a blue square"
    old = store[1].mean
    # Another content under the same name is another clip; the same content under another name isn't.
    write_video(source / "clip1.mp4", grey_clip(190), 24)
    (source / "clip2.mp4").rename(source / "renamed.mp4")
    assert run(source, out, parts).encoded == 1
    store = LatentStore.open(out)
    assert not torch.equal(store[by_name(store)["clip1.mp4"]].mean, old)
    assert "renamed.mp4" in by_name(store)
    # Everything that the latents depend on counts.
    for clips in (replace(ONE_SIZE, frame_rate=12), replace(ONE_SIZE, sizes=(SQUARE,))):
        assert run(source, out, parts, clips).encoded == 3
    half = EncodingSettings(text_length=TEXT_LENGTH, stored_dtype="float16")
    assert run(source, out, parts, encoding=half).encoded == 3
    used = LatentStore.open(out)[0].mean
    report = run(source, out, parts, encoding=half, prune=True)
    assert report.freed > 0 and report.encoded == 0
    assert torch.equal(LatentStore.open(out)[0].mean, used)
    assert torch.equal(used, used.half().float())


def test_a_store_of_another_model_is_refused_and_what_is_missing_named(tmp_path: Path, parts: dict) -> None:
    source, out = write_clips(tmp_path / "set", 1), tmp_path / "out"
    with pytest.raises(InputError, match="has no latents"):
        LatentStore.open(out)
    run(source, out, parts)
    other = tiny_components(causal=True, statistics=True, seed=1)
    with pytest.raises(InputError, match="of another VAE"):
        LatentStore.open(out, vae=other["vae"])
    with pytest.raises(InputError, match="of another text encoder"):
        LatentStore.open(out).check_text_encoder(other["tokenizer"], other["text_encoder"])
    assert run(source, out, other).encoded == 1  # never the latents of the first
    LatentStore.open(out, vae=other["vae"])
    # The same weights in bfloat16 are the same VAE, and a decoder that was trained on changes nothing.
    same = tiny_components(causal=True, statistics=True, seed=1)["vae"]
    torch.nn.init.zeros_(same.decoder.conv_in.conv.weight)
    LatentStore.open(out, vae=same.to(torch.bfloat16))
    assert run(source, out, parts, texts=False).encoded == 0  # the first VAE's are still there
    store = LatentStore.open(out, vae=parts["vae"])
    assert not store.has_text and store[0].text_embeds is None
    with pytest.raises(InputError, match="no features of texts"):
        store.text("")

    whole = (out / SAMPLES_NAME).read_bytes()
    for content, words in (
        (b"", "damaged"),
        (b"not JSON\n", "damaged"),
        (whole.splitlines(keepends=True)[0], "damaged"),
        (whole.replace(b'"format": 1', b'"format": 99'), "another version"),
    ):
        (out / SAMPLES_NAME).write_bytes(content)
        with pytest.raises(InputError, match=words):
            LatentStore.open(out)
    (out / SAMPLES_NAME).write_bytes(whole)
    for shard in (out / "latents").iterdir():
        os.truncate(shard, 100)
    with pytest.raises(InputError, match="cut short"):
        LatentStore.open(out)
    assert run(source, out, parts, texts=False).encoded == 1
    LatentStore.open(out, vae=parts["vae"])
    (out / SAMPLES_NAME).unlink()
    with pytest.raises(InputError, match="aren't finished"):
        LatentStore.open(out)


def test_what_is_wrong_with_a_set_is_reported_and_not_fatal(tmp_path: Path, parts: dict) -> None:
    source = write_clips(tmp_path / "set", 2)
    write_video(source / "fast.mp4", grey_clip(40, 40), 30)
    write_video(source / "short.mp4", grey_clip(40, 8), 24)
    write_video(source / "small.mp4", grey_clip(40, 24, 24, 32), 24)
    (source / "empty.mp4").write_bytes(b"")
    (source / "broken.mp4").write_bytes(b"no video at all")
    (source / "twin.mp4").write_bytes((source / "clip1.mp4").read_bytes())
    write_pictures(source, 1)
    (source / "clip1.txt").write_text(" ".join(["red"] * 40))
    report = run(source, tmp_path / "out", parts)
    reasons = {problem.name: problem.reason for problem in report.left_out}
    assert set(reasons) == {"short.mp4", "small.mp4", "empty.mp4", "broken.mp4", "still0.png"}
    for name, words in (("short", "too short"), ("small", "too small"), ("empty", "empty")):
        assert words in reasons[f"{name}.mp4"]
    assert "for pictures" in reasons["still0.png"]
    assert report.duplicates == [["clip1.mp4", "twin.mp4"]]
    assert dict(report.frame_rates) == {24.0: 3, 30.0: 1}
    assert report.without_caption == ["fast.mp4", "twin.mp4"]
    assert [problem.name for problem in report.cut_captions] == ["clip1.mp4"]
    assert (report.samples, report.encoded) == (4, 3)  # the twins share their latents
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(written["left_out"]) == 5 and written["frame_rates"] == {"24": 3, "30": 1}
    assert run(source, tmp_path / "out", parts, drop_duplicates=True).dropped == 1
    store = LatentStore.open(tmp_path / "out")
    assert sorted(store[number].frame_rate for number in range(len(store))) == [24.0, 24.0, 30.0]

    for name in ("clip0", "clip1", "fast", "twin"):
        (source / f"{name}.mp4").unlink()
    with pytest.raises(InputError, match="gives no sample"):
        run(source, tmp_path / "none", parts)


def test_processes_share_a_set_and_the_last_one_puts_it_together(
    folder: Path, tmp_path: Path, parts: dict
) -> None:
    clips = replace(ONE_SIZE, sizes=(CLIP, STILL))
    alone, out = tmp_path / "alone", tmp_path / "out"
    run(folder, alone, parts, clips, prompts=["a red circle"])
    share = {"clips": clips, "prompts": ["a red circle"], "world_size": 2}
    assert run(folder, out, parts, rank=1, **share) is None
    with pytest.raises(InputError, match="aren't finished"):
        LatentStore.open(out)
    report = run(folder, out, parts, rank=0, **share)
    assert (report.samples, report.encoded) == (5, 5)
    first, second = LatentStore.open(alone), LatentStore.open(out)
    for number in range(5):
        one, other = first[number], second[number]
        assert (one.name, one.caption) == (other.name, other.caption)
        assert torch.equal(one.mean, other.mean) and torch.equal(one.text_embeds, other.text_embeds)
    assert torch.equal(first.text("a red circle")[0], second.text("a red circle")[0])
    # What an earlier run left doesn't count, and another number of processes finds what is there.
    assert run(folder, out, parts, rank=0, **share | {"clips": ONE_SIZE}) is None
    assert run(folder, out, parts, clips, prompts=["a red circle"]).encoded == 0


def killed_at_the_third_clip(folder: Path, out: Path, parts: dict) -> None:
    encode, calls = parts["vae"].encode, []

    def encode_or_die(video: torch.Tensor):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(video)

    parts["vae"].encode = encode_or_die
    run(folder, out, parts, encoding=EncodingSettings(text_length=TEXT_LENGTH, shard_entries=2))


def test_a_killed_run_goes_on(folder: Path, tmp_path: Path, parts: dict) -> None:
    """A process is killed while it encodes; the next one keeps what was written and gives what one run gives."""
    process = get_context("fork").Process(
        target=killed_at_the_third_clip, args=(folder, tmp_path / "out", parts)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(InputError, match="aren't finished"):
        LatentStore.open(tmp_path / "out")
    assert run(folder, tmp_path / "out", parts).encoded == 1
    run(folder, tmp_path / "whole", parts)
    went_on, whole = LatentStore.open(tmp_path / "out"), LatentStore.open(tmp_path / "whole")
    assert all(torch.equal(went_on[number].mean, whole[number].mean) for number in range(3))
    assert not list((tmp_path / "out").rglob(".*.part"))


def test_of_a_long_video_few_clips_are_in_memory_at_once(tmp_path: Path) -> None:
    source = tmp_path / "set"
    source.mkdir()
    for name in "ab":
        write_video(source / f"{name}.mp4", grey_clip(40, 9 * 12), 24)
    read, most = [], 0

    class Planner(ClipPlanner):
        def _clip(self, *arguments):
            read.append(1)
            return super()._clip(*arguments)

    planner = Planner(
        ClipSettings(sizes=(SQUARE,), clips_per_video=None), CompressionRatios(8, 32, 32), "any", ()
    )
    found = []
    for place, clip in _read_ahead(planner, find_entries(source)[0], workers=2):
        found.append((place, clip.record["place"]))
        most = max(most, len(read) - len(found))
    assert found == [(place, index / 11) for place in (0, 1) for index in range(12)]
    assert most <= 3  # one of each video, and the one that was asked for


def test_an_entry_counts_whole_or_not_at_all(tmp_path: Path, parts: dict) -> None:
    source = tmp_path / "set"
    source.mkdir()
    write_video(source / "target.mp4", grey_clip(40, 36, 64, 64), 24)
    write_video(source / "ends.mp4", grey_clip(60, 12, 64, 64), 24)
    rows = [{"path": "target.mp4"}, {"path": "target.mp4", "reference": "ends.mp4", "caption": "ends"}]
    (source / "list.json").write_text(json.dumps(rows))
    clips = ClipSettings(sizes=(VideoSize(9, 64, 64),), clips_per_video=None)
    report = run(source / "list.json", tmp_path / "out", parts, clips)
    # The first clip of the second entry has a whole reference, its last one hasn't.
    assert [problem.reason for problem in report.left_out] and report.samples == 4
    store = LatentStore.open(tmp_path / "out")
    assert [store.record(number)["caption"] for number in range(len(store))] == [""] * 4


def test_references_and_masks_lie_at_the_same_moments(tmp_path: Path, parts: dict) -> None:
    source = tmp_path / "set"
    source.mkdir()
    rng = np.random.default_rng(0)
    video = rng.integers(0, 255, (20, 64, 64, 3), dtype=np.uint8).repeat(2, 0)
    video[:] = np.arange(40)[:, None, None, None] * 6  # each frame tells its number
    write_video(source / "target.mp4", video, 24)
    write_video(source / "outline.mp4", 255 - video, 24)
    write_video(source / "slow.mp4", 255 - video[::2], 12)
    write_video(source / "ends.mp4", video[:12], 24)
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:, :10] = 255
    write_image(source / "mask.png", mask)
    rows = [
        {"path": "target.mp4", "reference": ["outline.mp4", "mask.png"], "mask": "mask.png"},
        {"path": "target.mp4", "reference": "slow.mp4", "caption": "slow"},
        {"path": "target.mp4", "reference": "ends.mp4", "caption": "ends"},
        {"path": "target.mp4", "mask": "none.png", "caption": "none"},
    ]
    (source / "list.json").write_text(json.dumps(rows))
    size = VideoSize(9, 64, 64)
    clips = ClipSettings(sizes=(size,), reference_scale=2)
    report = run(source / "list.json", tmp_path / "out", parts, clips)
    reasons = [problem.reason for problem in report.left_out]
    assert len(reasons) == 2 and "ends.mp4, ends before the clip" in reasons[0] and "none.png" in reasons[1]
    store = LatentStore.open(tmp_path / "out")
    first, second = store[0], store[1]
    assert first.reference_scale == 2 and first.mask.shape == (2, 2, 2)
    assert first.mask[..., 0].all() and not first.mask[..., 1].any()
    assert [tuple(latents.shape[1:]) for latents in first.references] == [(2, 1, 1), (1, 1, 1)]
    # The middle of 40 frames is 15.5: frames 16 to 24, of both.
    vae = parts["vae"]
    for sample, tolerance in ((first, 0.02), (second, 0.3)):
        shown = torch.from_numpy(255 - video[16:25, :32, :32]).permute(3, 0, 1, 2)[None] / 127.5 - 1
        with torch.no_grad():
            expected = vae.encode(shown).latent_dist.mean[0]
        expected = (expected - vae.latents_mean.view(-1, 1, 1, 1)) / vae.latents_std.view(-1, 1, 1, 1)
        assert (sample.references[0] - expected).abs().mean() < tolerance * expected.abs().mean()


def test_parts_of_files_and_members_of_tars_are_cut_as_files_are(tmp_path: Path, parts: dict) -> None:
    source = tmp_path / "set"
    source.mkdir()
    rng = np.random.default_rng(0)
    video = np.kron(rng.integers(0, 255, (40, 3, 4, 3), dtype=np.uint8), np.ones((1, 32, 32, 1), np.uint8))
    write_video(source / "long.mp4", video, 24)
    # Frames 12 to 29, the right lower part; the reference has half the size.
    write_video(source / "half.mp4", video[:, ::2, ::2], 24)
    part = {"start": 0.5, "end": 1.25, "crop": [64, 32, 64, 64]}
    row = {"path": "long.mp4", "caption": "part", "reference": "half.mp4", **part}
    (source / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (row, {"path": "long.mp4"})))
    size = VideoSize(9, 64, 64)
    report = run(source / "list.jsonl", tmp_path / "out", parts, ClipSettings(sizes=(size,)))
    assert report.samples == 2 and not report.duplicates and not report.left_out
    sample = LatentStore.open(tmp_path / "out")[0]
    vae = parts["vae"]
    shown = read_video(source / "long.mp4")[0][17:26, 32:, 64:]  # the middle 9 of 18 frames
    video_of_part = torch.from_numpy(shown).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode(video_of_part).latent_dist.mean[0]
    expected = (expected - vae.latents_mean.view(-1, 1, 1, 1)) / vae.latents_std.view(-1, 1, 1, 1)
    torch.testing.assert_close(sample.mean, expected, atol=1e-4, rtol=1e-4)
    difference = (sample.references[0] - expected).abs().mean()
    assert difference < 0.3 * expected.abs().mean()  # the same moments and place, enlarged

    (source / "long.txt").write_text("whole")
    members = [(path.name, path.read_bytes()) for path in sorted(source.glob("long.*"))]
    write_tar(tmp_path / "tars" / "0.tar", members)
    assert run(tmp_path / "tars", tmp_path / "out", parts, ClipSettings(sizes=(size,))).encoded == 0
    store = LatentStore.open(tmp_path / "out")
    assert (store.describe(0), store.caption(0)) == ("0.tar/long.mp4", "whole")


def test_pieces_are_encoded_by_themselves(folder: Path, tmp_path: Path, parts: dict) -> None:
    longer = VideoSize(17, 32, 32)
    clips = ClipSettings(sizes=(longer, STILL), pieces=((-1, 1), (-9, 9), (4, 1)))
    report = run(folder, tmp_path / "out", parts, clips)
    assert report.encoded == 3 * 4 + 2
    store = LatentStore.open(tmp_path / "out")
    number = by_name(store)["clip2.mp4"]
    frames, _ = Cut().clip(folder / "clip2.mp4", False, longer)
    vae = parts["vae"]
    for piece in (Piece(16, 1), Piece(8, 9), Piece(4, 1)):
        video = torch.from_numpy(piece(number, frames)).permute(3, 0, 1, 2)[None] / 127.5 - 1
        with torch.no_grad():
            posterior = vae.encode(video).latent_dist
        std = vae.latents_std.view(-1, 1, 1, 1)
        stored = store.view(number, piece)
        expected = (posterior.mean[0] - vae.latents_mean.view(-1, 1, 1, 1)) / std
        torch.testing.assert_close(stored.mean, expected)
        torch.testing.assert_close(stored.deviation, posterior.std[0] / std)
    store.check_pieces([Piece(16, 1), Piece(8, 9)], longer)
    with pytest.raises(InputError, match="no such piece"):
        store.check_pieces([Piece(12, 1)], longer)
    with pytest.raises(InputError, match="no such piece"):
        store.view(by_name(store)["still0.png"], Piece(16, 1))
    # A further piece is encoded without the clips.
    assert run(folder, tmp_path / "out", parts, replace(clips, pieces=((8, 1),))).encoded == 3


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"sizes": ()}, "at least one size"),
        ({"sizes": (VideoSize(10, 32, 32),)}, "8k[+]1"),
        ({"sizes": (VideoSize(9, 40, 32),)}, "multiple of 32"),
        ({"sizes": (VideoSize(9, 32, 32),), "reference_scale": 2}, "multiple of 32"),
        ({"sizes": (VideoSize(9, 32, 32),), "frame_rate": 0.0}, "frame_rate"),
        ({"sizes": (VideoSize(9, 32, 32),), "pieces": ((0, 1),)}, "frame 0"),
        ({"sizes": (VideoSize(9, 32, 32),), "pieces": ((3, 9),)}, "fits into no size"),
        ({"sizes": (VideoSize(9, 32, 32),), "pieces": ((-4, 4),)}, "8k[+]1"),
        ({"sizes": (VideoSize(9, 32, 32),), "clips_per_video": 0}, "positive"),
    ],
)
def test_impossible_settings_are_refused(folder: Path, tmp_path: Path, parts: dict, bad, words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(folder, tmp_path / "out", parts, ClipSettings(**bad), texts=False)


def test_progress_is_told_for_every_entry(folder: Path, tmp_path: Path, parts: dict) -> None:
    told = []
    run(folder, tmp_path / "out", parts, progress=lambda *what: told.append(what), texts=False)
    assert told[0] == ("clips", 0, 5) and told[-1] == ("clips", 5, 5)
    assert [done for _, done, _ in told] == list(range(6))
