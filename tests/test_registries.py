"""Contracts of everything registered, built-in or plugin: one test per kind and rule, run over all names.

A plugin's entries are covered as soon as its package is installed: `pytest tests/test_registries.py`.
"""

from __future__ import annotations

import inspect
import pickle
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from helpers.media_sets import write_clips, write_dataset, write_tar
from torch import Tensor

from ltx_diffusers.data.clips import skipped_by
from ltx_diffusers.data.filters.scene import Scene
from ltx_diffusers.denoising.state import TokenState, from_noise
from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.functional.draws import Draws
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.objectives.adversarial import Adversarial
from ltx_diffusers.objectives.distillation import TrajectoryPass
from ltx_diffusers.objectives.flow_matching import FlowPass
from ltx_diffusers.objectives.vae import VAEPass
from ltx_diffusers.objectives.vae_objective import VAEObjective
from ltx_diffusers.plugins import load_plugins, registered_entries, registries

load_plugins()
REGISTRIES = registries()
SIZE = VideoSize(3, 2, 4)  # latent frames, rows, columns
CHANNELS = 6


def over(kind: str):
    """Parametrises a test with everything registered as this kind."""
    registry = REGISTRIES[kind]
    return pytest.mark.parametrize(
        "entry", [pytest.param(registry.get(name), id=name) for name in registry.list()]
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# everything


@pytest.mark.parametrize("kind", REGISTRIES)
def test_no_registry_is_empty(kind: str) -> None:
    assert REGISTRIES[kind].list()


@pytest.mark.parametrize("entry", registered_entries(), ids=lambda entry: f"{entry.registry}:{entry.name}")
def test_every_entry_says_what_it_is(entry) -> None:
    assert entry.summary.endswith((".", ":", ";")) or len(entry.summary) > 20
    assert entry.origin
    assert entry.name == entry.name.lower().replace(" ", "-").replace("_", "-")


def test_required_plugins_are_covered(request: pytest.FixtureRequest) -> None:
    """With --require-plugin NAME, that distribution's entries must be among those tested."""
    required = set(request.config.getoption("--require-plugin"))
    assert required <= {entry.origin for entry in registered_entries()}
    assert not [plugin for plugin in load_plugins() if plugin.error]


# conditions


def noise_state(batch: int = 2) -> TokenState:
    noise = torch.randn(batch, CHANNELS, *SIZE, generator=seeded(1))
    return from_noise(noise, Placement(8.0, causal=True))


def build_condition(entry, batch: int = 2):
    latents = torch.randn(batch, CHANNELS, 1, SIZE.height, SIZE.width, generator=seeded(2))
    return entry(latents=latents, strength=0.75)


@over("conditions")
def test_a_condition_keeps_the_state_consistent(entry) -> None:
    before = noise_state()
    after = build_condition(entry).apply_to(before)

    batch, length, channels = after.tokens.shape
    assert (batch, channels) == (2, CHANNELS)
    assert after.size == before.size
    assert length == after.num_target + after.num_extra
    assert after.strength.shape == (batch, length)
    assert after.clean.shape == (batch, length, channels)
    assert after.coords.shape == (batch, 3, length)
    assert ((after.strength >= 0) & (after.strength <= 1)).all()
    assert after.is_conditioned
    # The noise of the target is left alone, and so are the tokens' places.
    assert torch.equal(after.tokens[:, : before.num_target], before.tokens)
    assert torch.equal(after.coords[:, :, : before.num_target], before.coords)


@over("conditions")
def test_a_condition_gives_latents_only_where_it_has_strength(entry) -> None:
    before = noise_state()
    after = build_condition(entry).apply_to(before)
    free = after.strength[:, : before.num_target] == 0
    assert torch.equal(after.clean[:, : before.num_target][free], before.clean[free])


@over("conditions")
def test_a_condition_does_not_change_the_state_it_is_given(entry) -> None:
    state = noise_state()
    before = {field.name: getattr(state, field.name) for field in fields(state)}
    copies = {name: value.clone() for name, value in before.items() if isinstance(value, Tensor)}
    build_condition(entry).apply_to(state)
    assert all(torch.equal(before[name], copy) for name, copy in copies.items())


@over("conditions")
def test_a_condition_treats_a_batch_as_single_videos(entry) -> None:
    together = build_condition(entry).apply_to(noise_state())
    batch, condition = noise_state(), build_condition(entry)
    for row in range(2):
        rows = slice(row, row + 1)
        tensors = {name: getattr(batch, name)[rows] for name in ("tokens", "strength", "clean", "coords")}
        alone = replace(condition, latents=condition.latents[rows]).apply_to(replace(batch, **tensors))
        for name in tensors:
            assert torch.equal(getattr(together, name)[rows], getattr(alone, name))


# guidances


def predictions_for(guidance, batch: int = 2) -> list[Tensor]:
    generator = seeded(3)
    return [torch.randn(batch, 5, CHANNELS, generator=generator) for _ in guidance.passes]


@over("guidances")
def test_guidance_names_its_passes(entry) -> None:
    passes = entry().passes
    assert isinstance(passes, tuple)
    assert "positive" in {run.text for run in passes}
    assert len(set(passes)) == len(passes)
    assert set(passes) <= entry().all_passes()
    assert set(entry().at(0.5).passes) <= entry().all_passes()


@over("guidances")
def test_guidance_leaves_agreeing_predictions_alone(entry) -> None:
    guidance = entry()
    same = torch.randn(2, 5, CHANNELS, generator=seeded(4))
    torch.testing.assert_close(guidance.combine([same] * len(guidance.passes)), same)


@over("guidances")
def test_guidance_treats_a_batch_as_single_videos(entry) -> None:
    guidance = entry()
    predictions = predictions_for(guidance)
    together = guidance.combine(predictions)
    assert together.shape == predictions[0].shape
    for row in range(2):
        alone = guidance.combine([prediction[row : row + 1] for prediction in predictions])
        torch.testing.assert_close(together[row : row + 1], alone)


# samplers


def toy_velocity(x: Tensor, sigma: float) -> Tensor:
    return torch.sin(3 * x) * (0.5 + sigma)


@over("samplers")
def test_a_sampler_ends_at_the_clean_prediction(entry) -> None:
    x = torch.randn(2, 5, CHANNELS, generator=seeded(6))
    result = entry().step(toy_velocity, x, 0.3, 0.0, lambda: torch.zeros_like(x))
    torch.testing.assert_close(result, x - 0.3 * toy_velocity(x, 0.3))


@over("samplers")
def test_a_sampler_treats_a_batch_as_single_videos(entry) -> None:
    x, noise = (torch.randn(2, 5, CHANNELS, generator=seeded(seed)) for seed in (6, 7))
    together, alone = entry(), [entry(), entry()]
    rows = [slice(0, 1), slice(1, 2)]
    for sigma, following in ((1.0, 0.7), (0.7, 0.2)):
        expected = [
            sampler.step(toy_velocity, x[row], sigma, following, lambda row=row: noise[row])
            for sampler, row in zip(alone, rows, strict=True)
        ]
        x = together.step(toy_velocity, x, sigma, following, lambda: noise)
        torch.testing.assert_close(x, torch.cat(expected))
        assert x.shape == noise.shape


# editors


@over("editors")
def test_an_editor_treats_a_batch_as_single_videos(entry) -> None:
    source, levels = torch.randn(2, 5, CHANNELS, generator=seeded(6)), [1.0, 0.8, 0.5, 0.2, 0.0]

    def edited(rows: slice) -> Tensor:
        generator, editor = seeded(7), entry()
        steps = editor.edit(
            source[rows],
            levels,
            lambda x, sigma, text: toy_velocity(x, sigma) + (text == "target"),
            lambda: torch.randn(source.shape, generator=generator)[rows],
        )
        tokens = [step.tokens for step in steps]
        assert len(tokens) == editor.num_steps(levels)
        return tokens[-1]

    together = edited(slice(0, 2))
    assert together.shape == source.shape
    assert not torch.equal(together, source)
    torch.testing.assert_close(torch.cat([edited(slice(0, 1)), edited(slice(1, 2))]), together)


# timestep densities


@over("timestep_densities")
@pytest.mark.parametrize("num_tokens", [1, 1024, 20_000])
def test_a_density_stays_between_0_and_1(entry, num_tokens: int) -> None:
    sigmas = entry().sample(4096, num_tokens=num_tokens, generator=seeded(5))
    assert sigmas.shape == (4096,)
    assert sigmas.dtype == torch.float32
    assert ((sigmas > 0) & (sigmas < 1)).all()
    assert sigmas.std() > 0.01


@over("timestep_densities")
@pytest.mark.parametrize("stratified", [False, True])
def test_a_density_takes_all_randomness_from_its_generator(entry, stratified: bool) -> None:
    def draw(seed: int) -> Tensor:
        return entry().sample(16, num_tokens=256, generator=seeded(seed), stratified=stratified)

    state = torch.get_rng_state()
    first = draw(6)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(draw(6), first)
    assert not torch.equal(draw(7), first)


@over("timestep_densities")
def test_stratified_draws_spread_evenly(entry) -> None:
    """The mean of stratified draws scatters far less than that of independent ones, around the same value."""

    def means(stratified: bool) -> Tensor:
        draws = [
            entry().sample(64, num_tokens=256, generator=seeded(seed), stratified=stratified)
            for seed in range(50)
        ]
        return torch.stack(draws).mean(1)

    independent, even = means(False), means(True)
    assert even.std() < independent.std() / 2
    assert abs(even.mean() - independent.mean()) < 4 * independent.std() / 50**0.5


@over("timestep_densities")
def test_a_density_takes_one_token_count_per_sample(entry) -> None:
    counts = torch.tensor([64, 1024, 64, 1024])
    sigmas = entry().sample(4, num_tokens=counts, generator=seeded(8))
    assert torch.equal(sigmas[0], entry().sample(4, num_tokens=64, generator=seeded(8))[0])
    assert torch.equal(sigmas[1], entry().sample(4, num_tokens=1024, generator=seeded(8))[1])


# loss weightings


@over("loss_weightings")
def test_a_weighting_gives_each_level_a_weight_of_its_own(entry) -> None:
    sigma = torch.rand(64, generator=seeded(9)).clamp(1e-3, 1 - 1e-3)
    weights = entry()(sigma)
    assert weights.shape == (64,)
    assert weights.isfinite().all() and (weights >= 0).all() and weights.max() > 0
    torch.testing.assert_close(entry()(sigma[:1]), weights[:1])


# schedules


@over("schedules")
@pytest.mark.parametrize("num_steps", [1, 2, 3, 8, 40])
def test_a_schedule_falls_strictly_from_1(entry, num_steps: int) -> None:
    sigmas = entry(num_steps)
    assert sigmas.shape == (num_steps,)
    assert sigmas.dtype == torch.float64
    assert sigmas[0] == 1
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] > 0


# objectives

PASSES = (VAEPass, FlowPass, TrajectoryPass)


def build_pass(kind: type, batch: int = 3):
    """A random record of one training pass; what a model made requires gradients."""

    def noise(seed: int, *shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=seeded(seed))

    if kind is VAEPass:
        return VAEPass(
            video=noise(1, 3, 9, 32, 32).clamp(-1, 1),
            reconstruction=noise(2, 3, 9, 32, 32).requires_grad_(),
            mean=noise(3, CHANNELS, 3, 2, 2).requires_grad_(),
            logvar=noise(4, CHANNELS, 3, 2, 2).requires_grad_(),
        )
    if kind is TrajectoryPass:
        return TrajectoryPass(
            tokens=noise(8, 7, CHANNELS).requires_grad_(),
            levels=torch.full((batch, 7), 0.5),
            mask=(noise(9, 7) > -1).float(),
            path=torch.tensor([[0.5, 0.3, 0.1], [0.5, 0.25, 0.25], [0.5, 0.2, 0.0]])[:batch],
            student=lambda tokens, levels, rows: 2 * tokens,
            teacher=lambda tokens, levels, rows: tokens * levels[..., None],
        )
    return FlowPass(
        prediction=noise(5, 7, CHANNELS).requires_grad_(),
        target=noise(6, 7, CHANNELS),
        mask=(noise(7, 7) > -1).float(),
    )


def tensors_of(record) -> dict[str, Tensor]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def build_objective(entry):
    """The objective with its default settings, small ones where it brings networks; without a loss it is skipped."""
    settings = {}
    if issubclass(entry, Adversarial):
        settings = {"discriminators": [{"name": "patch-3d", "options": {"channels": 4}}]}
    try:
        objective = entry(**settings)
    except InputError as error:
        assert "random-features" in str(error)  # lpips says what to do without its weights
        pytest.skip(str(error))
    if not getattr(objective, "gives_loss", True):
        pytest.skip("changes latents only")
    return objective


def record_for(entry):
    objective = build_objective(entry)
    assert objective.inputs in PASSES
    return objective, build_pass(objective.inputs)


@over("objectives")
def test_an_objective_gives_one_loss_per_sample(entry) -> None:
    objective, record = record_for(entry)
    losses = objective(record)
    assert losses.shape == (3,)
    assert losses.isfinite().all()
    assert getattr(objective, "may_be_negative", False) or (losses >= 0).all()


@over("objectives")
def test_an_objective_treats_a_batch_as_single_samples(entry) -> None:
    objective, record = record_for(entry)
    if getattr(objective, "couples_batch", False):
        pytest.skip("says that it couples the samples of a batch")
    losses = objective(record)
    for row in range(3):
        alone = replace(record, **{name: value[row : row + 1] for name, value in tensors_of(record).items()})
        torch.testing.assert_close(objective(alone), losses[row : row + 1])


@over("objectives")
def test_an_objective_teaches_something(entry) -> None:
    objective, record = record_for(entry)
    objective(record).sum().backward()
    gradients = [value.grad for value in tensors_of(record).values() if value.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@over("objectives")
def test_an_objective_that_changes_latents_keeps_their_shape_and_takes_its_draws(entry) -> None:
    if not issubclass(entry, VAEObjective) or entry.on_latents is VAEObjective.on_latents:
        pytest.skip("leaves latents alone")
    objective = entry()
    objective.setup(SimpleNamespace(config=FrozenDict(latent_channels=CHANNELS)))
    latents = torch.randn(2, CHANNELS, *SIZE, generator=seeded(11))

    def changed(seed: int) -> list[Tensor]:
        draws = Draws.of_samples(seed, 0, range(2))
        return [objective.on_latents(latents, draws) for _ in range(20)]

    first = changed(1)
    torch.rand(1)
    assert all(result.shape == latents.shape for result in first)
    assert all(torch.equal(a, b) for a, b in zip(first, changed(1), strict=True))
    assert not all(torch.equal(a, latents) for a in first)


# discriminators


@over("discriminators")
@pytest.mark.parametrize("frames", [1, 9])
def test_a_discriminator_judges_each_sample_alone(entry, frames: int) -> None:
    torch.manual_seed(0)
    network = entry(in_channels=6).eval()
    video = torch.randn(2, 6, frames, 32, 32, generator=seeded(12))
    logits = network(video)
    assert logits.shape[0] == 2 and logits.numel() >= 2
    torch.testing.assert_close(network(video[:1]), logits[:1])
    assert not torch.allclose(logits[0], logits[1])


# autoencoders, data readers, measures


@over("autoencoders")
def test_an_autoencoder_can_be_called_with_a_config(entry) -> None:
    inspect.signature(entry)
    assert callable(entry)


@pytest.fixture(scope="module")
def clips_on_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same few videos as what each built-in reader of files takes as its `path`."""
    folder = write_clips(tmp_path_factory.mktemp("clips"), 4)
    rows = "".join(f"clip{index}.mp4,grey number {index}\n" for index in range(4))
    (folder / "list.csv").write_text("path,caption\n" + rows)
    members = [(path.name, path.read_bytes()) for path in sorted(folder.glob("clip*"))]
    dataset = folder / "dataset"
    write_dataset(dataset, sorted(folder.glob("clip*.mp4")))
    return {
        "folder": folder,
        "list": folder / "list.csv",
        "webdataset": write_tar(folder / "tars" / "0.tar", members),
        "hf-dataset": dataset,
    }


def build_reader(entry, paths: dict[str, Path], split: str = "train"):
    """A reader of small clips; one of files gets a path, a plugin's that of a folder of videos."""
    name = next(
        name for name in REGISTRIES["data_readers"].list() if REGISTRIES["data_readers"].get(name) is entry
    )
    needs_path = "path" in inspect.signature(entry).parameters
    options = {"path": paths.get(name, paths["folder"])} if needs_path else {}
    return entry(9, 32, 32, split, 5, **options)


@over("data_readers")
def test_a_data_reader_gives_the_same_clip_for_the_same_number(entry, clips_on_disk) -> None:
    reader, again = build_reader(entry, clips_on_disk), build_reader(entry, clips_on_disk)
    first = reader[3]
    assert first.frames.shape == (9, 32, 32, 3)
    assert first.frames.dtype == np.float32
    assert 0 <= first.frames.min() <= first.frames.max() <= 1
    assert first.caption and first.name == reader.name(3)
    again[7], again[1000]  # the set is endless, and what was read before doesn't matter
    np.testing.assert_array_equal(again[3].frames, first.frames)
    assert again[3].caption == first.caption
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader))[3].frames, first.frames)


@over("data_readers")
def test_a_data_reader_gives_any_size(entry, clips_on_disk) -> None:
    reader = build_reader(entry, clips_on_disk)
    assert reader.with_frames(1)[2].frames.shape == (1, 32, 32, 3)
    assert reader.with_size(5, 16, 24)[2].frames.shape == (5, 16, 24, 3)
    assert reader.with_size(height=16)[2].frames.shape == (9, 16, 32, 3)
    assert (reader.num_frames, reader.height, reader.width) == (9, 32, 32)
    assert isinstance(reader.caption(2, np.random.default_rng(0)), str)
    assert not skipped_by(reader)


@over("data_readers")
def test_a_data_reader_tells_its_splits_and_settings_apart(entry, clips_on_disk) -> None:
    train, held_out = (build_reader(entry, clips_on_disk, split) for split in ("train", "held-out"))
    assert repr(train) == repr(build_reader(entry, clips_on_disk))
    assert len({repr(train), repr(held_out), repr(train.with_frames(1))}) == 3
    first = held_out[0].frames
    assert all(not np.array_equal(train[number].frames, first) for number in range(8))


# filters


def some_scenes() -> list[Scene]:
    """A scene of a video, one of a single thumbnail without stills, and a picture."""
    pictures = np.random.default_rng(11).integers(0, 256, (12, 36, 64, 3), dtype=np.uint8)
    size = {"width": 64, "height": 36}
    return [
        Scene(
            caption="two words",
            end=1.5,
            num_frames=36,
            frame_rate=24.0,
            times=np.arange(12) / 8,
            thumbnails=pictures,
            stills=(pictures[0, ..., 1],),
            still_times=(0.0,),
            **size,
        ),
        Scene(end=0.1, num_frames=2, frame_rate=24.0, times=np.zeros(1), thumbnails=pictures[:1], **size),
        Scene(
            is_picture=True, times=np.zeros(1), thumbnails=pictures[:1], stills=(pictures[0, ..., 1],), **size
        ),
    ]


@over("filters")
def test_a_filter_gives_numbers_that_it_names_and_leaves_the_scene(entry) -> None:
    given: dict[str, float] = {}
    for scene in some_scenes():
        before = scene.thumbnails.copy()
        numbers = entry()(scene)
        assert set(numbers) <= set(entry.scores) and np.isfinite(list(numbers.values())).all()
        assert entry()(scene) == numbers
        np.testing.assert_array_equal(scene.thumbnails, before)
        given |= numbers
    assert set(given) == set(entry.scores)
    assert all(meaning[0].isalnum() and len(meaning) > 10 for meaning in entry.scores.values())
    assert pickle.loads(pickle.dumps(entry)) is entry  # other processes find it


@over("measures")
def test_a_measure_is_one_number_per_frame_or_video(entry) -> None:
    video = torch.rand(4, 16, 16, 3, generator=seeded(9)).numpy()
    noisy = (video + 0.1 * torch.rand(4, 16, 16, 3, generator=seeded(10)).numpy()).clip(0, 1)
    value = np.asarray(entry(video, noisy))
    assert value.shape in ((), (4,))
    assert np.isfinite(value).all()
    assert np.asarray(entry(video, video)).mean() != value.mean()
