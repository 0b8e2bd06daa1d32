"""Batches of several sizes: equal token counts by dropping, coordinates kept, draws tied to samples, losses weighed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.media_sets import grey_clip, write_clips, write_pictures
from helpers.tiny_runs import lora_run, transformer_run
from tiny import tiny_components

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.data.media_sets import find_entries
from ltx_diffusers.data.video import write_video
from ltx_diffusers.errors import InputError, UnknownNameError
from ltx_diffusers.functional.coordinates import video_coordinates
from ltx_diffusers.functional.draws import Draws
from ltx_diffusers.geometry import VideoSize, latent_size
from ltx_diffusers.training.clip_plan import ClipSettings
from ltx_diffusers.training.config import build, load_config, parse_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.loss_weighting import build_loss_weighting
from ltx_diffusers.training.precompute import EncodingSettings, precompute
from ltx_diffusers.training.token_dropping import group_by_length, kept_positions, tokens_kept
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_batches import Collator
from ltx_diffusers.training.transformer_config import TransformerTrainConfig

# 9 frames of 64x32 have 4 tokens, pictures of 160x32 and 96x64 have 5 and 6, and 17 frames of 96x64 have 18.
CLIP, WIDE, STILL, LONG = (
    {"num_frames": 9, "height": 32, "width": 64},
    {"num_frames": 1, "height": 32, "width": 160},
    {"num_frames": 1, "height": 64, "width": 96},
    {"num_frames": 17, "height": 64, "width": 96},
)


def build_task(folder: Path, vae: Path, **changes: object) -> TransformerTask:
    return TransformerTask(parse_config(TransformerTrainConfig, transformer_run(folder, vae, **changes)))


def build_module(folder: Path, vae: Path, **changes: object):
    task = build_task(folder, vae, **changes)
    return task, task.module.eval()


def test_lengths_lie_between_what_may_be_dropped_and_the_shortest() -> None:
    lengths = {tokens_kept([80, 100, 90], 0.25, draw / 100) for draw in range(100)}
    assert lengths == set(range(75, 81))
    assert tokens_kept([70, 100], 0.2, 0.5) is None
    assert tokens_kept([100], 0.0, 0.99) == 100


def test_sizes_of_about_equal_token_counts_share_batches() -> None:
    assert group_by_length([100, 40, 85, 81, 50], 0.2) == [[1, 4], [3, 2, 0]]
    assert group_by_length([10, 10, 11], 0.0) == [[0, 1], [2]]


def test_every_token_is_dropped_as_often_as_any_other_and_extra_ones_never() -> None:
    draws = Draws.of_samples(0, 0, range(2000))
    positions = kept_positions(10, 3, 6, draws)
    assert positions.shape == (2000, 9)
    assert (positions.diff(dim=1) > 0).all()
    assert (positions[:, 6:] == torch.tensor([10, 11, 12])).all()
    counts = torch.bincount(positions[:, :6].flatten(), minlength=10)
    assert (counts - 1200).abs().max() < 120


def test_kept_tokens_are_as_they_were_coordinates_included(tmp_path, tiny_vae_folder) -> None:
    task, module = build_module(
        tmp_path,
        tiny_vae_folder,
        buckets=[LONG],
        token_dropping=0.5,
        conditions={"first_frame": 0.5, "clips": [{"frame": -1, "share": 1.0}]},
    )
    batch = task.batch(0, 0, 1)
    (group,) = batch["groups"]
    assert 9 <= batch["keep"] <= 18
    whole = module.noised_tokens(group, batch["sigma"], batch | {"keep": None})
    some = module.noised_tokens(group, batch["sigma"], batch | {"keep": 11})
    assert whole.tokens.shape[1] == 18 + 6 and some.tokens.shape[1] == 11 + 6
    expected = video_coordinates(VideoSize(3, 2, 3), batch_size=4, frame_rate=8.0, causal=True)
    assert torch.equal(whole.coords[:, :, :18], expected)
    for row in range(4):
        # Coordinates tell where each kept token stood; all else must be what stood there.
        match = (some.coords[row].T[:11, None] == whole.coords[row].T[None, :18]).all(-1)
        assert (match.sum(1) == 1).all()
        places = torch.cat([match.float().argmax(1), torch.arange(18, 24)])
        for name in ("tokens", "levels", "target", "counts"):
            assert torch.equal(getattr(some, name)[row], getattr(whole, name)[row][places]), name


def test_sizes_share_a_batch_and_others_have_their_own_steps(tmp_path, tiny_vae_folder) -> None:
    buckets = [CLIP | {"share": 2.0}, WIDE, STILL, LONG | {"batch_size": 2}]
    task, module = build_module(tmp_path, tiny_vae_folder, buckets=buckets, token_dropping=0.4)
    seen: Counter[int] = Counter()
    together = set()
    for step in range(300):
        picks = task.plan.picks(step)
        kinds = {pick.bucket for pick in picks}
        assert len(picks) == (2 if 3 in kinds else 4) and (kinds == {3} or 3 not in kinds)
        seen.update(pick.bucket for pick in picks)
        together.add(frozenset(kinds))
    assert frozenset({0, 1, 2}) in together
    assert 0.4 < seen[0] / (seen[0] + seen[1] + seen[2]) < 0.6
    lengths = []
    forward = module.transformer.forward
    module.transformer.forward = lambda tokens, **call: (
        lengths.append(tokens.shape) or forward(tokens, **call)
    )
    step = next(step for step in range(300) if {p.bucket for p in task.plan.picks(step)} == {0, 1, 2})
    losses = module(task.batch(step, 0, 1))
    assert [length[0] for length in lengths] == [4] and lengths[0][
        1
    ] == 4  # 0.6 of 6 tokens at least, 4 at most
    assert losses["bin/bucket"].tolist() == [pick.bucket for pick in task.plan.picks(step)]


def test_without_dropping_each_size_runs_by_itself(tmp_path, tiny_vae_folder) -> None:
    task = build_task(tmp_path, tiny_vae_folder, buckets=[CLIP, STILL])
    kinds = [{pick.bucket for pick in task.plan.picks(step)} for step in range(20)]
    assert {0} in kinds and {1} in kinds and {0, 1} not in kinds


def test_shares_of_a_batch_make_the_whole_whatever_their_number(tmp_path, tiny_vae_folder) -> None:
    """1 process x batch 4 = 2 x 2 = 4 x 1: losses and gradients, with every kind of draw."""
    task, module = build_module(
        tmp_path,
        tiny_vae_folder,
        buckets=[CLIP, WIDE, STILL],
        token_dropping=0.4,
        conditions={"first_frame": 0.4, "region": 0.3, "clips": [{"frame": 8, "share": 0.5}]},
    )

    def run(shares: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        module.zero_grad()
        losses = []
        for rank in range(shares):
            loss = module(task.batch(5, rank, shares))["loss"]
            (loss.mean() / shares).backward()
            losses.append(loss.detach())
        return torch.cat(losses), [p.grad.clone() for p in module.parameters() if p.grad is not None]

    whole, gradients = run(1)
    assert whole.unique().numel() >= 3
    for shares in (2, 4):
        losses, others = run(shares)
        torch.testing.assert_close(losses, whole, atol=1e-5, rtol=1e-5)
        for gradient, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(other, gradient, atol=1e-5, rtol=1e-3)


def test_ranks_and_steps_draw_different_noise(tmp_path, tiny_vae_folder) -> None:
    task, module = build_module(tmp_path, tiny_vae_folder, cached_clips=1, conditions={"first_frame": 0.0})
    seen = []
    for step, rank in ((0, 0), (0, 1), (1, 0)):
        batch = task.batch(step, rank, 2)
        seen += list(module.noised_tokens(batch["groups"][0], batch["sigma"], batch).target)
    distances = [(a - b).abs().mean() for i, a in enumerate(seen) for b in seen[:i]]
    assert min(distances) > 0.1


def test_frame_rates_are_those_of_the_samples(tmp_path, tiny_vae_folder) -> None:
    task, module = build_module(tmp_path, tiny_vae_folder)
    source = task.source

    class Mixed:
        buckets = source.buckets

        def __getitem__(self, number: int):
            return replace(source[number], frame_rate=8.0 + number)

        def __getattr__(self, name: str):
            return getattr(source, name)

    task.source = Mixed()
    batch = task.batch(0, 0, 1)
    numbers = [pick.number for pick in task.plan.picks(0)]
    tokens = module.noised_tokens(batch["groups"][0], batch["sigma"], batch)
    assert len(set(numbers)) > 1
    torch.testing.assert_close(tokens.coords[:, 0, -1], torch.tensor([1 / (8.0 + n) for n in numbers]))


@pytest.mark.parametrize("source", ["encoded", "on-the-fly"])
def test_clips_keep_their_own_frame_rates(tmp_path, tiny_vae_folder, source) -> None:
    rates = {"fast": 30.0, "slow": 12.0}
    for name, rate in rates.items():
        write_video(tmp_path / f"{name}.mp4", grey_clip(20), rate)
    lines = [json.dumps({"path": f"{name}.mp4", "split": "train"}) for name in rates]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    options = {"path": str(tmp_path / "list.jsonl")}
    data = {
        "reader": "list",
        "height": 32,
        "width": 64,
        "num_frames": 9,
        "frame_rate": 25.0,
        "options": options,
    }
    settings = {"source": source, "data": data, "validation_clips": 0, "cached_clips": 2}
    for _ in range(2):  # the second time kept latents are read again
        samples = build_task(tmp_path / "run", tiny_vae_folder, **settings).source
        found = {Path(samples.describe(number)).stem: samples[number].frame_rate for number in range(2)}
        assert found == rates


def test_weightings_follow_their_formulas() -> None:
    sigma = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    assert torch.equal(build_loss_weighting("none")(sigma), torch.ones_like(sigma))
    snr = ((1 - sigma) / sigma) ** 2
    weights = build_loss_weighting("min-snr", gamma=3.0)(sigma)
    torch.testing.assert_close(weights, snr.clamp(max=3.0) * sigma**2)
    mean = torch.trapezoid(build_loss_weighting("cosmap")(sigma), sigma)
    assert abs(mean - 1) < 0.02  # a density of itself
    with pytest.raises(InputError, match="gamma"):
        build_loss_weighting("min-snr", gamma=0)
    with pytest.raises(InputError, match="can't take"):
        build_loss_weighting("none", gamma=1)
    with pytest.raises(UnknownNameError, match="min-snr"):
        build_loss_weighting("min-snar")


def test_losses_are_weighed_and_binned_by_noise_level(tmp_path, tiny_vae_folder) -> None:
    plain_task, plain = build_module(tmp_path, tiny_vae_folder)
    task, module = build_module(tmp_path, tiny_vae_folder, weighting={"name": "min-snr"})
    batch = task.batch(0, 0, 1)
    module.load_state_dict(plain.state_dict())
    losses, others = module(batch), plain(plain_task.batch(0, 0, 1))
    torch.testing.assert_close(losses["loss"], others["loss"] * module.weighting(batch["sigma"]))
    assert losses["bin/timestep"].tolist() == (batch["sigma"] * 10).long().tolist()
    run = Trainer(plain_task, plain_task.config)
    run.train_step()
    assert set(run.bins.figures()) >= {"loss_by_bucket/9x32x64"}


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """Precomputed latents of three videos and two pictures, with texts."""
    source = write_pictures(write_clips(tmp_path_factory.mktemp("set"), 3))
    parts = tiny_components(causal=True, statistics=True)
    folder = tmp_path_factory.mktemp("latents")
    precompute(
        folder,
        *find_entries(source),
        clips=ClipSettings(
            sizes=(VideoSize(9, 32, 64), VideoSize(1, 32, 64)), pieces=((-1, 1),), caption_prefix="a "
        ),
        load_vae=lambda: parts["vae"],
        load_text=lambda: (parts["tokenizer"], parts["text_encoder"]),
        encoding=EncodingSettings(text_length=12),
        prompts=["a red circle"],
    )
    return folder


def test_a_run_on_precomputed_latents_needs_no_text_encoder(tmp_path, base, latents) -> None:
    settings = lora_run(
        tmp_path,
        base,
        source="latents",
        latents=str(latents),
        validation_latents=str(latents),
        caption_prefix="",
        samples={"prompts": ["a red circle"], "num_inference_steps": 1},
        caption_dropout=0.5,
        conditions={"clips": [{"frame": -1, "share": 1.0}]},
    )
    task = TransformerTask(parse_config(TransformerTrainConfig, settings))
    assert task.pipeline().text_encoder is None
    run = Trainer(task, task.config)
    batches = [task.batch(step, 0, 1) for step in range(6)]
    sizes = {tuple(group["mean"].shape[2:]) for batch in batches for group in batch["groups"]}
    assert sizes == {(2, 1, 2), (1, 1, 2)}
    lengths = {int(length) for batch in batches for length in batch["text_mask"].sum(1)}
    given = {
        "clip_mean" in group for batch in batches for group in batch["groups"] if group["mean"].shape[2] == 2
    }
    assert given == {True}  # the last frame, of videos only
    assert lengths == {1, 2, 5}  # with its end mark: the empty caption, "a" of pictures, "a grey number N"
    model = run.train()
    assert (model / "samples" / "00.mp4").is_file()
    card = yaml.safe_load((model / "card.yaml").read_text())
    assert sorted(card["training"]["sizes"]) == [[1, 32, 64], [9, 32, 64]] and card["trigger"] == "a"
    assert task.validate(tmp_path)["held_out_loss"] > 0


def test_held_out_latents_have_texts_of_the_same_encoder(tmp_path, base, latents) -> None:
    held_out = tmp_path / "held-out"
    shutil.copytree(latents, held_out)
    first, *others = (held_out / "samples.jsonl").read_text().splitlines(keepends=True)
    header = json.loads(first)
    header["settings"]["text_encoder"] = None  # as with --no-text
    (held_out / "samples.jsonl").write_text("".join([json.dumps(header) + "\n", *others]))
    settings = lora_run(tmp_path / "run", base, source="latents", latents=str(latents), caption_prefix="")
    settings |= {"validation_latents": str(held_out), "samples": {"prompts": ["a red circle"]}}
    with pytest.raises(InputError, match="validation_latents.*got no texts"):
        TransformerTask(parse_config(TransformerTrainConfig, settings))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_held_out_loss_is_that_of_what_training_gives(
    tmp_path, base, latents, share, monkeypatch
) -> None:
    settings = lora_run(tmp_path, base, source="latents", latents=str(latents), caption_prefix="")
    settings |= {"validation_latents": str(latents), "conditions": {"references": share, "own": share}}
    task = TransformerTask(parse_config(TransformerTrainConfig, settings))
    asked = []

    def groups(self, picks, samples, clip, references, *, own=True, drawn_regions=True):
        asked.append((references, own))
        return made(self, picks, samples, clip, references, own=own, drawn_regions=drawn_regions)

    made = Collator.groups
    monkeypatch.setattr(Collator, "groups", groups)
    assert set(task.validate(tmp_path)) == set(task.validation_figures) == {"held_out_loss"}
    assert set(asked) == {(share > 0, share > 0)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption_prefix": "sks "}, "--caption-prefix"),
        ({"conditions": {"region": 0.5}}, "takes pixels"),
        ({"conditions": {"clips": [{"frame": 7, "share": 0.5}]}}, "--piece"),
        ({"buckets": [WIDE]}, "no sample of this size"),
        ({"samples": {"prompts": ["a blue circle"]}}, "wasn't precomputed"),
        ({"latents": "nowhere"}, "has no latents"),
    ],
)
def test_what_latents_do_not_allow_is_said_at_once(tmp_path, base, latents, changes, message) -> None:
    settings = lora_run(
        tmp_path, base, source="latents", latents=str(latents), caption_prefix="", validation_clips=0
    )
    with pytest.raises(InputError, match=message):
        TransformerTask(parse_config(TransformerTrainConfig, settings | changes))


def test_clips_encoded_on_the_fly_come_one_after_the_other(tmp_path, tiny_vae_folder) -> None:
    task, module = build_module(
        tmp_path,
        tiny_vae_folder,
        source="on-the-fly",
        buckets=[CLIP, WIDE],
        token_dropping=0.2,
        validation_clips=0,
    )
    picks = [pick for step in range(5) for pick in task.plan.picks(step)]
    readers = [task.source.clip_number(pick.number) for pick in picks]
    assert readers == list(range(20))
    assert {pick.bucket for pick in picks} == {0, 1}
    number = next(pick.number for pick in picks if pick.bucket == 0)
    sample = task.source[number]
    assert sample.latent_size == VideoSize(2, 1, 2) and sample.name == task.source.describe(number)
    assert np.isfinite(module(task.batch(0, 0, 1))["loss"].detach().numpy()).all()


CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    "path",
    sorted([*(CONFIGS / "lora").glob("*.yaml"), *(CONFIGS / "transformer").glob("*.yaml")]),
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_shipped_recipes_are_valid(path: Path) -> None:
    config = load_config(TransformerTrainConfig, path)
    assert (config.adapter is not None) == (path.parent.name == "lora")
    build_loss_weighting(config.weighting.name, **config.weighting.options)
    counts = [int(np.prod(latent_size(bucket.size))) for bucket in config.buckets]
    assert len(group_by_length(counts, config.token_dropping)) <= 1  # all sizes share batches
    if config.random_weights:
        with torch.device("meta"):
            transformer = build(LTXTransformer3DModel, config.model, "model")
        assert 1.9e9 < transformer.num_parameters() < 2e9


def test_a_new_transformer_takes_the_other_parts_of_a_pipeline(tmp_path, base) -> None:
    changes = {"initial_weights": str(base), "random_weights": True, "vae": None, "text_encoder": {}}
    settings = transformer_run(tmp_path, tmp_path) | changes
    task = TransformerTask(parse_config(TransformerTrainConfig, settings | {"train_text_encoder": False}))
    assert task.module.text_encoder is None and task.texts is not None
    assert task.module.transformer.config.attention_head_dim == 12  # of `model`, not of the pipeline
    assert task.module(task.batch(0, 0, 1))["loss"].isfinite().all()
    with pytest.raises(InputError, match="random_weights goes with"):
        parse_config(TransformerTrainConfig, settings | {"adapter": {"rank": 1}})
