"""Conditions of samples' own, from a list's column: encoded, kept, precomputed, and in one batch with others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.media_sets import blocky_clip
from helpers.tiny_runs import lora_run

from ltx_diffusers.data.clips import Clip, GivenFrames
from ltx_diffusers.data.list_clips import ListClips
from ltx_diffusers.data.media_sets import find_entries
from ltx_diffusers.data.video import write_image, write_video
from ltx_diffusers.errors import InputError
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ltx_diffusers.training.clip_extras import conditions_of
from ltx_diffusers.training.clip_plan import ClipSettings
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.latent_cache import encode_posterior
from ltx_diffusers.training.latent_store import LatentStore
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.precompute import precompute
from ltx_diffusers.training.sources import EncodedClips, OnTheFly
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_config import TransformerTrainConfig

SIZE = VideoSize(17, 32, 64)
ROWS = {
    "drawn": {},
    "nothing": {"conditions": []},
    "ends": {"conditions": [{"frame": -1}, {"frame": 0}]},
    "clip": {"conditions": [{"frame": 8, "frames": 9}]},
    "file": {
        "conditions": [{"frame": 4, "file": "picture.png"}, {"frame": -9, "frames": 9, "file": "other.mp4"}]
    },
}
BEGINS = {"drawn": None, "nothing": [], "ends": [0, 16], "clip": [8], "file": [4, 8]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of one video with each of the rows."""
    root = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    for name in ("clip", "other"):
        video = blocky_clip(rng, 17)
        write_video(root / f"{name}.mp4", video, 12)
    write_image(root / "picture.png", video[0])
    lines = [{"path": "clip.mp4", "split": "train", "caption": name} | row for name, row in ROWS.items()]
    (root / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root / "rows.jsonl"


@pytest.fixture(scope="module")
def vae(base: Path) -> AutoencoderKLLTX:
    return AutoencoderKLLTX.from_pretrained(base / "vae")


@pytest.fixture(scope="module")
def store(rows: Path, vae: AutoencoderKLLTX, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The list, precomputed without texts."""
    folder = tmp_path_factory.mktemp("store")
    report = encode(rows, folder, vae)
    assert report.samples == 5 and not report.left_out
    # The clip, the piece, first and last frame, its end, the picture, the other's end.
    assert report.encoded == 7
    return folder


def encode(rows: Path, folder: Path, vae: AutoencoderKLLTX, **more: object):
    return precompute(
        folder,
        *find_entries(rows),
        clips=ClipSettings(sizes=(SIZE,), pieces=((8, 1),)),
        load_vae=lambda: vae,
        **more,
    )


def test_a_run_encodes_them_beforehand_or_on_the_fly(
    rows: Path, vae: AutoencoderKLLTX, tmp_path: Path
) -> None:
    clips = ListClips(*SIZE, path=rows)
    kept = EncodedClips(vae, clips, [SIZE], 5, tmp_path, frame_rate=8.0)
    again = EncodedClips(vae, clips, [SIZE], 5, tmp_path, frame_rate=8.0)
    flown = OnTheFly(vae, clips, [SIZE], frame_rate=8.0)
    seen = set()
    for number in range(5):
        clip = clips[number]
        seen.add(clip.caption)
        for source in (kept, again, flown):
            conditions = source[number].conditions
            if clip.conditions is None:
                assert conditions is None
                continue
            assert [given.frame for given in conditions] == BEGINS[clip.caption]
            for given, frames in zip(conditions, clip.conditions, strict=True):
                mean, deviation = encode_posterior(vae, frames.frames[None])
                torch.testing.assert_close(given.mean, mean[0], atol=0.05, rtol=0.05)
                torch.testing.assert_close(given.deviation, deviation[0], atol=0.05, rtol=0.05)
    assert seen == set(ROWS)


def test_precomputed_ones_come_back(rows: Path, vae: AutoencoderKLLTX, store: Path) -> None:
    clips, latents = ListClips(*SIZE, path=rows), LatentStore.open(store, vae=vae)
    expected = {clips[number].caption: clips[number].conditions for number in range(5)}
    for number in range(5):
        sample = latents[number]
        assert (sample.conditions is None) == (sample.caption == "drawn")
        pairs = list(zip(sample.conditions or (), expected[sample.caption] or (), strict=True))
        assert [given.frame for given, _ in pairs] == (BEGINS[sample.caption] or [])
        for given, frames in pairs:
            mean, deviation = encode_posterior(vae, frames.frames[None])
            torch.testing.assert_close(given.mean, mean[0], atol=0.05, rtol=0.05)
            torch.testing.assert_close(given.deviation, deviation[0], atol=0.05, rtol=0.05)


def test_precomputed_ones_are_kept_by_content(
    rows: Path, vae: AutoencoderKLLTX, store: Path, tmp_path: Path
) -> None:
    assert encode(rows, store, vae, prune=True).encoded == 0
    again = LatentStore.open(store, vae=vae)
    assert [each.frame for each in again[4].conditions] == [4, 8]
    # Another row costs what it gives anew; another picture under the same name is another condition.
    for file in rows.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    changed = tmp_path / rows.name
    lines = [json.loads(line) for line in changed.read_text().splitlines()]
    lines[2]["conditions"] = [{"frame": 0}, {"frame": 3}]
    lines.append({"path": "clip.mp4", "conditions": [{"frame": 99}]})
    changed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_image(tmp_path / "picture.png", np.full((32, 64, 3), 200, np.uint8))
    report = encode(changed, store, vae)
    assert report.encoded == 2 and "from 99 on isn't inside its 17" in report.left_out[0].reason
    other = LatentStore.open(store, vae=vae)
    assert not torch.equal(other[4].conditions[0].mean, again[4].conditions[0].mean)
    assert torch.equal(other[4].conditions[1].mean, again[4].conditions[1].mean)
    encode(rows, store, vae)


def task_of(folder: Path, base: Path, store: Path, **conditions: object) -> TransformerTask:
    settings = lora_run(
        folder,
        base,
        source="latents",
        latents=str(store),
        batch_size=8,
        conditions={"first_frame": 1.0, "noise": 0.0} | conditions,
        validation_clips=0,
        validation_prompts=1,
        samples={"prompts": ["a red circle"], "num_inference_steps": 1},
    )
    return TransformerTask(parse_config(TransformerTrainConfig, settings))


def test_samples_of_one_batch_are_each_given_their_own(tmp_path: Path, base: Path, store: Path) -> None:
    """A batch of all rows is the rows alone: tokens, levels, what counts, and losses."""
    task = task_of(tmp_path, base, store, clips=[{"frame": 8, "share": 1.0}])
    module, steps = task.module.eval(), range(4)
    seen = set()
    for step in steps:
        batch = task.batch(step, 0, 1)
        picks = task.plan.picks(step)
        names = [task.source.caption(pick.number) for pick in picks]
        seen |= set(names)
        for group in batch["groups"]:
            (name,) = {names[row] for row in group["rows"]}
            tokens = module.noised_tokens(group, batch["sigma"], batch)
            extra = {"drawn": 2, "nothing": 0, "ends": 2, "clip": 4, "file": 2 + 4}[name]
            assert tokens.tokens.shape[1] == 6 + extra
            free = {"drawn": 4, "ends": 4}.get(name, 6)
            assert tokens.counts.sum(1).tolist() == [free] * len(group["rows"])
            assert torch.equal(tokens.levels == 0, ~tokens.counts)
            assert not tokens.counts[:, 6:].any()
            begins = sorted({round(float(one), 2) for one in tokens.coords[0, 0, 6:]})
            assert len(begins) == {"drawn": 1, "nothing": 0, "ends": 1, "clip": 2, "file": 3}[name]
        with torch.no_grad():
            together = module(batch)["loss"]
            for row in range(len(picks)):
                assert torch.allclose(together[row], alone(task, batch, picks, row), rtol=1e-4, atol=1e-6)
    assert seen == set(ROWS)


def alone(task: TransformerTask, batch: dict, picks: list, row: int) -> torch.Tensor:
    """The loss of one sample of a batch, in a batch of its own."""
    sample = task.source[picks[row].number]
    clip = task.plan.clip(batch["step"])
    groups = task.collator.groups([picks[row]], [sample], clip, True)
    one = {
        name: value[row : row + 1] if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
    return task.module(one | {"groups": groups})["loss"][0]


def test_how_often_they_are_given_is_a_setting(tmp_path: Path, base: Path, store: Path) -> None:
    never, sometimes = (
        task_of(tmp_path / "0", base, store, own=0.0),
        task_of(tmp_path / "1", base, store, own=0.5),
    )
    assert all(len(never.batch(step, 0, 1)["groups"]) == 1 for step in range(3))
    given = [sometimes.plan.gives_own(step) for step in range(40)]
    assert 10 < sum(given) < 30
    for step in (given.index(True), given.index(False)):
        groups = sometimes.batch(step, 0, 1)["groups"]
        assert any("own" in group for group in groups) == given[step]
        assert (len(groups) > 1) == given[step]


@pytest.mark.parametrize(
    "how", [{"source": "encoded"}, {"source": "on-the-fly", "token_dropping": 0.3, "accumulate": 2}]
)
def test_a_run_trains_on_them(tmp_path: Path, base: Path, rows: Path, how: dict) -> None:
    settings = lora_run(
        tmp_path,
        base,
        steps=2,
        batch_size=4,
        data={"reader": "list", "height": 32, "width": 64, "num_frames": 17, "options": {"path": str(rows)}},
        validation_clips=0,
        samples={"prompts": ["a red circle"], "num_inference_steps": 1},
        **how,
    )
    config = parse_config(TransformerTrainConfig, settings)
    task = TransformerTask(config)
    assert len({len(group.get("own", "drawn")) for group in task.batch(0, 0, 1)["groups"]}) > 1
    assert list(Trainer(task, config).train().glob("*.safetensors"))


@pytest.mark.parametrize(
    "given", [GivenFrames(17, np.zeros((1, 32, 64, 3))), GivenFrames(0, np.zeros((1, 32, 32, 3)))]
)
def test_conditions_that_do_not_fit_their_clip_are_an_error(given: GivenFrames) -> None:
    clip = Clip(frames=np.zeros((17, 32, 64, 3)), caption="", name="it", conditions=(given,))
    with pytest.raises(InputError, match="condition of it doesn't fit"):
        conditions_of(clip)
