"""The training loop: exact resume, checkpoints that are whole or absent, averages, and stops with a reason."""

import copy
import errno
from pathlib import Path

import pytest
import torch
from helpers.tiny_runs import vae_run

from ltx_diffusers.errors import InputError, TrainingError
from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ltx_diffusers.training.checkpoints import latest_checkpoint, publish_folder
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.loop import Trainer, check_run
from ltx_diffusers.training.vae import VAETask, VAETrainConfig


def trainer(folder: Path, *, resume: bool = False, **changes: object) -> Trainer:
    config = parse_config(VAETrainConfig, vae_run(folder, **changes))
    return Trainer(VAETask(config), config, resume=resume)


def state_of(run: Trainer) -> dict[str, torch.Tensor]:
    return copy.deepcopy(run.task.module.state_dict())


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path):
    unbroken = trainer(tmp_path / "unbroken")
    unbroken.train()

    broken = trainer(tmp_path / "broken")
    for _ in range(4):
        broken.train_step()
        broken.step += 1
    broken.save()
    resumed = trainer(tmp_path / "broken", resume=True)
    assert resumed.step == 4
    resumed.train()

    for name, value in state_of(unbroken).items():
        assert torch.equal(value, state_of(resumed)[name]), name
    for ours, theirs in zip(unbroken.ema.shadow_params, resumed.ema.shadow_params, strict=True):
        assert torch.equal(ours, theirs)
    exported = [
        AutoencoderKLLTX.from_pretrained(tmp_path / name / "model").state_dict()
        for name in ("unbroken", "broken")
    ]
    assert all(torch.equal(exported[0][name], exported[1][name]) for name in exported[0])


def test_training_lowers_the_loss_and_exports_the_average(tmp_path):
    run = trainer(
        tmp_path,
        stages=[{"steps": 60, "num_frames": 1, "batch_size": 4}],
        optimizer={"warmup_steps": 2, "learning_rate": 0.02},
        checkpoint_every=100,
        log_every=60,
        ema_decay=0.9,
    )

    def loss_on_the_first_clips() -> float:
        with torch.no_grad():
            return (
                run.task.module(run.task.batch(0, 0, 1), torch.Generator().manual_seed(0))["loss"]
                .mean()
                .item()
            )

    before = loss_on_the_first_clips()
    run.train()
    assert loss_on_the_first_clips() < 0.8 * before
    exported = AutoencoderKLLTX.from_pretrained(tmp_path / "model")
    trained = {name: p for name, p in run.task.module.vae.named_parameters() if p.requires_grad}
    average = dict(zip(trained, run.ema.shadow_params, strict=True))
    exported_weights = dict(exported.named_parameters())
    assert all(torch.equal(exported_weights[name], average[name]) for name in trained)
    assert any(not torch.equal(exported_weights[name], trained[name]) for name in trained)
    assert exported.latents_std.min() > 0 and not torch.equal(exported.latents_std, torch.ones(8))


def test_runs_are_not_mixed_up(tmp_path):
    with pytest.raises(InputError, match="no checkpoint"):
        trainer(tmp_path, resume=True)
    run = trainer(tmp_path)
    run.train_step()
    run.step += 1
    run.save()
    with pytest.raises(InputError, match="add --resume"):
        trainer(tmp_path)


def test_finished_models_and_files_are_not_overwritten(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "file").write_text("a file")
    for folder, message in ((tmp_path, "already holds a model"), (tmp_path / "file" / "run", "can't write")):
        with pytest.raises(InputError, match=message):
            check_run(parse_config(VAETrainConfig, vae_run(folder)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]


def test_old_checkpoints_go_and_broken_ones_are_not_seen(tmp_path):
    run = trainer(tmp_path, keep_checkpoints=2)
    for step in (1, 2, 3):
        run.step = step
        run.save()
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000003"]
    (folder / "step-00000009.partial").mkdir()
    assert latest_checkpoint(tmp_path).name == "step-00000003"


def test_a_full_disk_leaves_the_last_checkpoint_and_one_error(tmp_path):
    resource = pytest.importorskip("resource")
    run = trainer(tmp_path)
    run.step = 1
    run.save()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    run.step = 2
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(TrainingError, match="checkpoint of step 2 could not be written"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    trainer(tmp_path, resume=True)


@pytest.mark.parametrize("place", ["validate", "export"])
def test_a_disk_that_is_full_elsewhere_leaves_the_last_checkpoint_and_one_error(tmp_path, monkeypatch, place):
    run = trainer(tmp_path, checkpoint_every=1, validate_every=2)

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a file")

    monkeypatch.setattr(run, place, full)
    with pytest.raises(TrainingError, match=r"after step \d.*No space left.*--resume goes on"):
        run.train()
    assert latest_checkpoint(tmp_path) is not None
    trainer(tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_with_the_samples_named(tmp_path):
    run = trainer(tmp_path)
    with torch.no_grad():
        run.task.module.vae.decoder.conv_out.conv.bias.fill_(float("nan"))
    before = [p.detach().clone() for p in run.task.module.vae.encoder.parameters()]
    with pytest.raises(TrainingError, match=r"2 of 2 samples.*step 0.*clip 0 of moving-shapes"):
        run.train_step()
    assert all(
        torch.equal(a, b) for a, b in zip(before, run.task.module.vae.encoder.parameters(), strict=True)
    )


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path):
    run = trainer(tmp_path)
    weight = run.task.module.vae.decoder.conv_out.conv.weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.detach().clone()
    with pytest.raises(TrainingError, match="gradient is not finite at step 0"):
        run.train_step()
    assert torch.equal(before, weight)


@pytest.mark.gpu
def test_a_run_resumes_on_a_gpu(tmp_path):
    run = trainer(tmp_path)
    run.train_step()
    run.step += 1
    run.save()
    resumed = trainer(tmp_path, resume=True)
    resumed.train_step()
    assert all(average.is_cuda for average in resumed.ema.shadow_params)


def test_a_failed_write_leaves_the_old_folder(tmp_path):
    target = tmp_path / "model"
    with publish_folder(target) as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(OSError, match="disk full"), publish_folder(target, replace=True) as folder:
        (folder / "weights").write_text("new")
        raise OSError("disk full")
    assert (target / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
