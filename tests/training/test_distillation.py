"""Distilling a transformer: the teacher is the pipeline's own, the student alone moves, and comes with its settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.tiny_runs import lora_run

from ltx_diffusers import LTXPipeline
from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance
from ltx_diffusers.denoising.loop import denoise
from ltx_diffusers.denoising.state import from_noise
from ltx_diffusers.denoising.velocity import GuidedVelocity, TextFeatures
from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.functional.latents import unpack_latents
from ltx_diffusers.schedulers.flow_match import LTXFlowMatchScheduler
from ltx_diffusers.training import transformer_pass
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.distillation import few_step_scheduler
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_config import TransformerTrainConfig

DISTILLATION = {"steps": 4, "teacher_steps": 8, "guidance_scale": 3.0}


def settings(folder: Path, base: Path, **changes: object) -> dict:
    return (
        lora_run(folder, base)
        | {
            "adapter": None,
            "objective": "trajectory-distillation",
            "distillation": DISTILLATION,
            "scheduler": {"schedule": "uniform"},
            "caption_dropout": 0.0,
            "caption_prefix": "",
            "conditions": {"first_frame": 0.5, "noise": 0.05},
            "samples": {},
            "batch_size": 4,
            "export_dtype": "float32",
        }
        | changes
    )


def trainer(folder: Path, base: Path, *, resume: bool = False, **changes: object) -> Trainer:
    config = parse_config(TransformerTrainConfig, settings(folder, base, **changes))
    return Trainer(TransformerTask(config), config, resume=resume)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Trainer, Path]:
    run = trainer(tmp_path_factory.mktemp("run"), base)
    run.before = {name: value.clone() for name, value in run.task.module.state_dict().items()}
    return run, run.train()


def record_of(task: TransformerTask, monkeypatch: pytest.MonkeyPatch, step: int = 0) -> object:
    """The record that the objective gets at a step."""
    records = []
    original = task.module.objective

    def keep(record: object) -> torch.Tensor:
        records.append(record)
        return original(record)

    monkeypatch.setattr(task.module, "objective", keep)
    with torch.no_grad():
        task.module.eval()(task.batch(step, 0, 1))
    (record,) = records
    return record


def features(task: TransformerTask, step: int = 0) -> dict[str, TextFeatures]:
    """The captions of a step and, padded like them, the negative prompt."""
    batch = task.batch(step, 0, 1)
    embeds, mask = batch["text_embeds"], batch["text_mask"]
    negative, negative_mask = torch.zeros_like(embeds), torch.zeros_like(mask)
    length = batch["negative_mask"].shape[1]
    negative[:, :length] = batch["negative_embeds"]
    negative_mask[:, :length] = batch["negative_mask"]
    return {"positive": TextFeatures(embeds, mask), "negative": TextFeatures(negative, negative_mask)}


def test_only_the_student_moves(finished, base) -> None:
    run, _ = finished
    after = run.task.module.state_dict()
    assert any(not torch.equal(value, run.before[name]) for name, value in after.items())
    assert not any("teacher" in name or "text_encoder" in name for name in after)
    teacher = run.task.distillation.teacher
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    initial = LTXPipeline.from_pretrained(base).transformer.state_dict()
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, initial[name]), name


def test_resumed_equals_unbroken(tmp_path, base, finished) -> None:
    run, _ = finished
    broken = trainer(tmp_path, base)
    for _ in range(2):
        broken.train_step()
        broken.step += 1
    broken.save()
    resumed = trainer(tmp_path, base, resume=True)
    while resumed.step < 4:
        resumed.train_step()
        resumed.step += 1
    expected = run.task.module.state_dict()
    for name, value in resumed.task.module.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_finished_student_knows_its_steps(finished) -> None:
    _, folder = finished
    pipeline = LTXPipeline.from_pretrained(folder)
    config = pipeline.scheduler.config
    assert config.allowed_inference_steps == [1.0, 0.75, 0.5, 0.25]
    assert config.default_num_inference_steps == 4 and config.default_guidance_scale == 1.0
    pipeline.set_progress_bar_config(disable=True)
    calls = []
    pipeline.transformer.register_forward_hook(
        lambda _module, args, kwargs, _out: calls.append(kwargs), with_kwargs=True
    )
    size = {"height": 32, "width": 64, "num_frames": 9, "output_type": "latent"}
    pipeline("a red circle", **size)
    levels = [kwargs["timestep"].unique().tolist() for kwargs in calls]
    assert levels == [[1000.0], [750.0], [500.0], [250.0]]
    assert all(len(kwargs["timestep"]) == 1 for kwargs in calls)  # no pass for guidance
    with pytest.raises(InputError, match="distilled for certain noise levels"):
        pipeline("a red circle", num_inference_steps=5, **size)


def test_the_teacher_is_the_guided_pipeline(tmp_path, base, monkeypatch) -> None:
    """Same tokens, levels and texts: same velocity as classifier-free guidance gives at inference."""
    task = trainer(tmp_path, base, distillation=DISTILLATION | {"own_inputs": 0.0}).task
    record = record_of(task, monkeypatch)
    rows = torch.tensor([2, 0])
    velocity = record.teacher(record.tokens[rows], record.levels[rows], rows)

    state = from_noise(unpack_latents(record.tokens[rows], 2, 1, 2), Placement(8.0, True))
    texts = {name: TextFeatures(text.embeds[rows], text.mask[rows]) for name, text in features(task).items()}
    guided = GuidedVelocity(task.distillation.teacher, texts, ClassifierFreeGuidance(3.0))
    with torch.no_grad():
        expected = guided(state, record.levels[rows] * 1000)
    torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=1e-4)
    weaker = ClassifierFreeGuidance(1.0)
    with torch.no_grad():
        plain = GuidedVelocity(task.distillation.teacher, texts, weaker)(state, record.levels[rows] * 1000)
    assert not torch.allclose(velocity, plain, atol=1e-4)


def test_own_inputs_are_where_sampling_stands(tmp_path, base, monkeypatch) -> None:
    """From the same noise, the student's way down to a level is that of the pipeline's loop."""
    changes = {"distillation": DISTILLATION | {"own_inputs": 1.0}, "conditions": {"first_frame": 0.0}}
    task = trainer(tmp_path, base, **changes).task
    record = record_of(task, monkeypatch)
    batch = task.batch(0, 0, 1)
    assert batch["start"].tolist() == [1.0] * 4
    sigma = batch["sigma"]
    assert len(set(sigma.tolist())) > 1
    torch.testing.assert_close(record.levels, sigma[:, None].expand_as(record.levels))

    noise = task.module.noised_tokens(batch["groups"][0], batch["start"], batch).tokens
    state = from_noise(unpack_latents(noise, 2, 1, 2), Placement(8.0, True))
    velocity = GuidedVelocity(
        task.module.transformer, {"positive": features(task)["positive"]}, ClassifierFreeGuidance(1.0)
    )
    scheduler = task.distillation.student_scheduler
    scheduler.set_timesteps()
    visited = {1.0: state.tokens}

    def keep(index: int, _timestep: object, state: object) -> object:
        visited[float(scheduler.sigmas[index + 1])] = state.tokens
        return state

    with torch.no_grad():
        denoise(state, velocity, scheduler, on_step_end=keep)
    for row, level in enumerate(sigma.tolist()):
        torch.testing.assert_close(record.tokens[row], visited[level][row], atol=1e-5, rtol=1e-4)


def test_given_tokens_keep_their_levels_and_do_not_count(tmp_path, base, monkeypatch) -> None:
    changes = {
        "distillation": DISTILLATION | {"own_inputs": 1.0},
        "conditions": {"first_frame": 1.0, "noise": 0.0},
    }
    record = record_of(trainer(tmp_path, base, **changes).task, monkeypatch)
    assert torch.equal(record.levels[:, :2], torch.zeros(4, 2))
    assert torch.equal(record.mask, torch.tensor([[False, False, True, True]] * 4))
    assert (record.levels[:, 2:] > 0).all()


def test_paths_stop_at_the_levels_of_both(tmp_path, base, monkeypatch) -> None:
    changes = {"distillation": {"steps": 3, "teacher_steps": 4, "guidance_scale": 1.0, "own_inputs": 0.0}}
    task = trainer(tmp_path, base, **changes).task
    record = record_of(task, monkeypatch)
    paths = {1.0: [1.0, 0.75, 2 / 3], 2 / 3: [2 / 3, 0.5, 1 / 3], 1 / 3: [1 / 3, 0.25, 0.0]}
    for row in record.path.tolist():
        assert row == pytest.approx(next(path for level, path in paths.items() if abs(level - row[0]) < 1e-3))
    assert task.distillation.forward_passes(4) == pytest.approx(2.0)


def test_levels_come_up_by_the_length_of_their_steps(tmp_path, base) -> None:
    changes = {
        "scheduler": {"schedule": "linear-quadratic"},
        "distillation": DISTILLATION | {"step_power": 1.0},
    }
    task = trainer(tmp_path, base, **changes).task
    sigma, start = task.distillation.draw(0, 1, 4000)
    lengths = task.distillation.levels[:-1] - task.distillation.levels[1:]
    for level, length in zip(task.distillation.levels.tolist(), lengths.tolist(), strict=False):
        assert (sigma == level).float().mean() == pytest.approx(length, abs=1e-3)
    assert (start[sigma < 1] == 1).float().mean() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(task.distillation.draw(0, 1, 4000)[0], sigma)


@pytest.mark.parametrize(
    ("adapter", "own_inputs", "works"), [(None, 0.5, False), ({"rank": 2}, 0.0, False), (None, 0.0, True)]
)
def test_a_student_in_parts_is_called_equally_often_by_all(
    tmp_path, base, monkeypatch, adapter, own_inputs, works
) -> None:
    changes = {"adapter": adapter, "distillation": DISTILLATION | {"own_inputs": own_inputs}}
    task = TransformerTask(parse_config(TransformerTrainConfig, settings(tmp_path, base, **changes)))
    monkeypatch.setattr(transformer_pass, "is_in_parts", lambda module: True)
    if works:
        assert task.module(task.batch(0, 0, 1))["loss"].isfinite().all()
    else:
        with pytest.raises(InputError, match="can't be sharded"):
            task.module(task.batch(0, 0, 1))


def test_a_lora_is_taught_by_the_model_beneath_it(tmp_path, base, monkeypatch) -> None:
    task = trainer(tmp_path, base, adapter={"rank": 2}, distillation=DISTILLATION | {"own_inputs": 0.0}).task
    record = record_of(task, monkeypatch)
    rows = torch.arange(4)
    taught = record.teacher(record.tokens, record.levels, rows)
    same = record.student(record.tokens, record.levels, rows)
    with torch.no_grad():
        for name, parameter in task.module.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    torch.testing.assert_close(record.teacher(record.tokens, record.levels, rows), taught)
    moved = record.student(record.tokens, record.levels, rows)
    assert not torch.allclose(moved, same, atol=1e-3)
    names = {name for name, parameter in task.module.named_parameters() if parameter.requires_grad}
    assert names and all("lora_" in name for name in names)


def test_a_student_teaches_one_of_fewer_steps(tmp_path, base, finished) -> None:
    _, folder = finished
    changes = {"distillation": {"steps": 2, "teacher_steps": 4, "guidance_scale": 1.0}}
    task = trainer(tmp_path / "fewer", folder, **changes, scheduler={}).task
    assert task.distillation.levels.tolist() == [1.0, 0.5, 0.0]
    assert task.scheduler.config.allowed_inference_steps == [1.0, 0.5]
    config = folder / "transformer" / "config.json"
    stated = config.read_text()
    config.write_text(stated.replace('"causal_temporal_positioning": true,', ""))  # as Diffusers' converters
    other = {"distillation": {"steps": 3, "teacher_steps": 4, "teacher": str(folder)}}
    run = trainer(tmp_path / "other", base, **other)
    with pytest.raises(InputError, match="distilled for certain noise levels"):
        run.train_step()
    config.write_text(stated)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation": None}, "go together"),
        ({"objective": "flow-matching"}, "go together"),
        ({"objective": "wavelet", "distillation": None}, "not one of a transformer"),
        ({"train_text_encoder": True}, "text encoder"),
        ({"distillation": DISTILLATION | {"teacher": "nowhere"}}, "'distillation.teacher': no such folder"),
        ({"distillation": {"step": 4}}, "did you mean steps"),
        ({"distillation": {"steps": 4}}, "guidance_scale' is needed"),
        ({"scheduler": {"schedule": "uniform", "shifting": "sd3"}}, "depend on the resolution"),
    ],
)
def test_settings_that_can_not_work(tmp_path, base, changes, message) -> None:
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, base, **changes)


def test_the_levels_of_the_official_distilled_models() -> None:
    scheduler = few_step_scheduler(LTXFlowMatchScheduler(schedule="linear-quadratic"), 8)
    official = [1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725, 0.4219]
    assert scheduler.config.allowed_inference_steps == pytest.approx(official, abs=1e-4)
