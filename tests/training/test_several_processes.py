"""The loop on two processes: the step that one takes, draws of each its own, resume on another number, sharding."""

import os
import signal

import pytest
import torch
from helpers.processes import run_on
from helpers.tiny_runs import transformer_run, weights_in
from helpers.toy_task import ToyTask, take_steps, toy_config, toy_run, weights_of
from helpers.vae_runs import SMALL_3D
from helpers.vae_runs import trainer as vae_trainer
from safetensors.torch import load_file

from ltx_diffusers.errors import InputError, TrainingStopped
from ltx_diffusers.training.checkpoints import latest_checkpoint
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_config import TransformerTrainConfig


def flat(weights):
    return torch.cat([value.flatten() for value in weights.values()]).tolist()


def _steps(rank, folder, count, settings, resume=False):
    run = toy_run(folder, resume=resume, **settings)
    figures = take_steps(run, count)
    return {
        "figures": figures,
        "weights": flat(weights_of(run)),
        "drawn": [draws.tolist() for draws in run.task.module.drawn],
        "average": [average.tolist() for average in run.ema.shadow_params],
        "notes": run.notes,
        "bins": run.bins.figures(),
    }


def _alone(folder, count, **settings):
    return run_on(1, _steps, folder, count, settings)[0]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_and_several_passes_take_the_step_of_one(tmp_path, accumulate):
    one = _alone(tmp_path / "one", 3)
    two = run_on(2, _steps, tmp_path / "two", 3, {"accumulate": accumulate})
    for found in two:
        assert found["weights"] == pytest.approx(one["weights"], abs=1e-5)
        for ours, theirs in zip(found["figures"], one["figures"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
        assert found["bins"] == pytest.approx(one["bins"], rel=1e-4)
    assert two[0]["weights"] == two[1]["weights"]


def test_a_step_in_several_passes_is_the_step_in_one(tmp_path):
    whole, parts = toy_run(tmp_path / "whole"), toy_run(tmp_path / "parts", accumulate=4)
    for ours, theirs in zip(take_steps(parts, 3), take_steps(whole, 3), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert flat(weights_of(parts)) == pytest.approx(flat(weights_of(whole)), abs=1e-5)
    assert len(parts.task.module.drawn) == 12 and parts.task.module.drawn[0].shape == (1, 4)


def test_discriminators_see_every_pass_of_a_step(tmp_path):
    """The VAE's game in one pass and in two: the same step where nothing is balanced or averaged over a pass."""
    rate = {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 0}
    gan = {"options": {"discriminators": [SMALL_3D]}, "balance": {"kind": "constant"}, "start_step": 0}
    settings = {
        "objectives": {"l1": 1.0, "kl": 1e-3, "gan": gan},
        "optimizer": rate,
        "discriminator": {"optimizer": rate},
        "stages": [{"steps": 2, "num_frames": 17, "batch_size": 2}],
        "learned_scale": False,
    }
    whole, parts = (vae_trainer(tmp_path / str(n), accumulate=n, **settings) for n in (1, 2))
    for ours, theirs in zip(take_steps(parts, 1), take_steps(whole, 1), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    for name in ("player", "opponent"):
        ours, theirs = (
            torch.cat([weight.detach().flatten() for weight in getattr(run, name).parameters])
            for run in (parts, whole)
        )
        # Not the mean: AdamW's first step is the sign of a gradient, be it 0 but for rounding, as before a norm.
        assert (ours - theirs).abs().median() < 1e-6


def test_processes_draw_different_noise_and_passes_that_of_processes(tmp_path):
    """What a pass draws by itself belongs to its share of the batch, whichever process takes it."""
    first, second = run_on(2, _steps, tmp_path / "two", 2, {"tied": False})
    assert all(ours != theirs for ours, theirs in zip(first["drawn"], second["drawn"], strict=True))
    passes = _alone(tmp_path / "one", 2, tied=False, accumulate=2)
    assert passes["drawn"][0::2] == first["drawn"] and passes["drawn"][1::2] == second["drawn"]
    assert passes["weights"] == pytest.approx(first["weights"], abs=1e-5)


def _save(rank, folder, count, settings):
    run = toy_run(folder, **settings)
    take_steps(run, count)
    run.save()
    return None


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_on_another_number_of_processes(tmp_path, before, after):
    unbroken = _alone(tmp_path / "unbroken", 5)
    run_on(before, _save, tmp_path / "moved", 3, {})
    found = run_on(after, _steps, tmp_path / "moved", 2, {}, True)[0]
    assert found["notes"][1:] == [f"changed number of processes: {before} -> {after}"]
    assert found["weights"] == pytest.approx(unbroken["weights"], abs=1e-5)
    for ours, theirs in zip(found["average"], unbroken["average"], strict=True):
        assert torch.allclose(torch.tensor(ours), torch.tensor(theirs), atol=1e-5)


class _Signalled(ToyTask):
    def batch(self, step, rank, world_size):
        if step == 1 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step, rank, world_size)


def _stopped(rank, folder):
    run = Trainer(_Signalled(), toy_config(folder, checkpoint_every=100))
    with pytest.raises(TrainingStopped) as stopped:
        run.train()
    return run.step, stopped.value.exit_code


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    assert run_on(2, _stopped, tmp_path) == [(2, 143), (2, 143)]
    assert latest_checkpoint(tmp_path).name == "step-00000002"


def _best(rank, folder):
    run = toy_run(folder, validate_every=1, checkpoint_every=100, best={"figure": "score", "goal": "lowest"})
    run.task.scores = [2.0, 1.0, 3.0, 4.0, 5.0, 6.0]
    run.train()
    return None


def test_all_processes_keep_the_best_that_the_first_one_found(tmp_path):
    run_on(2, _best, tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} >= {"best.json", "step-00000002"}


# Accelerate shards on accelerators only; the tests tell it that these processes have some.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def _pretend():
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    from ltx_diffusers.training.processes import join_processes

    join_processes()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def _sharded(rank, folder, count, settings, resume=False, finish=False):
    from torch.distributed.tensor import DTensor

    _pretend()
    run = toy_run(folder, resume=resume, **settings)
    assert all(isinstance(parameter, DTensor) for parameter in run.parameters)
    figures = take_steps(run, count)
    if finish:
        run.step = run.task.total_steps
        run.export()
    elif not resume:
        run.save()
    whole = {name: value.full_tensor() for name, value in run.task.module.state_dict().items()}
    average = torch.cat([value.full_tensor().flatten() for value in run.ema.shadow_params])
    return {
        "figures": figures,
        "weights": flat(whole),
        "local": run.parameters[0].to_local().numel(),
        "average": average.tolist(),
    }


def test_sharded_models_take_the_same_steps_resume_and_export(tmp_path):
    one = _alone(tmp_path / "one", 5)
    first = run_on(2, _sharded, tmp_path / "two", 3, {}, environment=FSDP)
    assert [found["local"] for found in first] == [8, 8]  # half of the first layer's 4 x 4
    for ours, theirs in zip(first[0]["figures"], one["figures"], strict=False):
        assert ours == pytest.approx(theirs, rel=1e-4)
    resumed = run_on(2, _sharded, tmp_path / "two", 2, {}, True, True, environment=FSDP)
    assert resumed[0]["weights"] == pytest.approx(one["weights"], abs=1e-5)
    average = torch.cat([torch.tensor(value).flatten() for value in one["average"]])
    assert torch.allclose(torch.tensor(resumed[0]["average"]), average, atol=1e-5)

    exported = load_file(tmp_path / "two/model/model.safetensors")
    trained = torch.cat([value.flatten() for name, value in exported.items() if "frozen" not in name])
    names = [name for name in sorted(exported) if "frozen" not in name]
    assert names == sorted(f"blocks.{index}.layer.{kind}" for index in (0, 1) for kind in ("weight", "bias"))
    assert trained.sum().item() == pytest.approx(average.sum().item(), abs=1e-4)


def _refused(rank, folder):
    _pretend()
    for optimizer in ({"name": "muon"}, {"name": "adamw", "offload": True}):
        with pytest.raises(InputError, match="can't work on a sharded model"):
            toy_run(folder, optimizer=optimizer)
    task = ToyTask()
    task.adversary = object()
    with pytest.raises(InputError, match="discriminators can't be sharded"):
        Trainer(task, toy_config(folder))


def test_what_can_not_be_sharded_is_refused(tmp_path):
    run_on(2, _refused, tmp_path, environment=FSDP)


def _transformer(rank, folder, vae, sharded):
    if sharded:
        _pretend()
    optimizer = {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 1}
    settings = transformer_run(folder, vae, optimizer=optimizer, loggers=[])
    config = parse_config(TransformerTrainConfig, settings)
    run = Trainer(TransformerTask(config), config)
    figures = take_steps(run, 3)
    run.export()
    names = {type(module).__name__ for module in run.task.module.modules()}
    assert ("FSDPLTXTransformerBlock" in names and "FSDPT5Block" in names) == sharded
    return [(step["loss"], step["gradient_norm"]) for step in figures]


def test_a_transformer_takes_the_same_steps_copied_and_in_parts(tmp_path, tiny_vae_folder):
    (alone,) = run_on(1, _transformer, tmp_path / "alone", tiny_vae_folder, False)
    for name, environment in (("copied", {}), ("parts", FSDP)):
        together = run_on(
            2, _transformer, tmp_path / name, tiny_vae_folder, bool(environment), environment=environment
        )
        for found in together:
            for ours, theirs in zip(found, alone, strict=True):
                assert ours == pytest.approx(theirs, rel=1e-4)
    exported = [weights_in(tmp_path / name / "model") for name in ("alone", "copied", "parts")]
    for other in exported[1:]:
        assert other.keys() == exported[0].keys()
        for name, value in exported[0].items():
            torch.testing.assert_close(other[name], value, rtol=0.02, atol=1e-4)  # they are in bfloat16


_MIXED = {
    "token_dropping": 0.2,
    "buckets": [{"num_frames": 9, "height": 32, "width": 64}, {"num_frames": 1, "height": 32, "width": 160}],
    "conditions": {"clips": [{"frame": -1, "share": 1.0}]},  # of videos only: they have more tokens
    "validation_clips": 0,
}


def _mixed(rank, world_size, folder, vae, sharded):
    if sharded:
        _pretend()
    optimizer = {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 1}
    settings = transformer_run(folder, vae, optimizer=optimizer, loggers=[], **_MIXED)
    config = parse_config(TransformerTrainConfig, settings)
    run = Trainer(TransformerTask(config), config)
    kinds = [len(run.task.batch(step, rank, world_size)["groups"]) for step in range(3)]
    return [(step["loss"], step["gradient_norm"]) for step in take_steps(run, 3)], kinds


def test_processes_with_samples_of_different_lengths_take_steps_in_parts(tmp_path, tiny_vae_folder):
    ((alone, _),) = run_on(1, _mixed, 1, tmp_path / "alone", tiny_vae_folder, False)
    parts = run_on(2, _mixed, 2, tmp_path / "parts", tiny_vae_folder, True, environment=FSDP)
    assert parts[0][1] != parts[1][1]  # the one calls the transformer more often than the other
    for found, _ in parts:
        for ours, theirs in zip(found, alone, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
