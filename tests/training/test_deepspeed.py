"""Runs under DeepSpeed on two gloo processes: the steps of one, resumed, averaged and exported; what it can't do."""

import pytest
import torch
from helpers.processes import run_on
from helpers.tiny_runs import lora_run, transformer_run, weights_in
from helpers.toy_task import ToyTask, take_steps, toy_config, toy_run, weights_of

from ltx_diffusers.errors import InputError
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.processes import join_processes
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_config import TransformerTrainConfig

pytest.importorskip("deepspeed")

# What `accelerate launch` makes of configs/accelerate/deepspeed_zero2.yaml, but for what a run sets by itself.
ZERO2 = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
    "DS_ACCELERATOR": "cpu",
}


def together(function, *arguments, **environment):
    return run_on(2, _started, function, *arguments, environment=ZERO2 | environment)


def _started(rank, function, *arguments):
    import deepspeed.comm.torch

    deepspeed.comm.torch.build_shm_op = lambda: None  # a minute of compiling, to talk by shared memory
    join_processes()
    return function(rank, *arguments)


def _toy(rank, folder, count, settings, resume=False):
    run = toy_run(folder, resume=resume, **settings)
    figures = take_steps(run, count)
    run.save()
    optimizer = run.player.optimizers[0]
    kept = sum(v.numel() for state in optimizer.state.values() for k, v in state.items() if k == "exp_avg")
    return {
        "figures": figures,
        "weights": torch.cat([value.flatten() for value in weights_of(run).values()]).tolist(),
        "average": torch.cat([value.flatten() for value in run.ema.shadow_params]).tolist(),
        "kept": kept,
    }


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_take_the_steps_of_one_and_resume(tmp_path, accumulate):
    settings = {
        "optimizer": {"name": "adamw", "learning_rate": 0.05, "warmup_steps": 2, "gradient_clip": 0.2}
    }
    (one,) = run_on(1, _toy, tmp_path / "one", 5, settings)
    settings |= {"accumulate": accumulate}
    first = together(_toy, tmp_path / "two", 3, settings)
    then = together(_toy, tmp_path / "two", 2, settings, True)
    for ours, theirs in zip(first[0]["figures"] + then[0]["figures"], one["figures"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert any(step["gradient_norm"] > 0.2 for step in one["figures"])  # clipping was something to do
    for found in then:
        assert found["weights"] == pytest.approx(one["weights"], abs=1e-5)
        assert found["average"] == pytest.approx(one["average"], abs=1e-5)
        assert found["kept"] == one["kept"] / 2  # each has half of the optimizer's averages


def _transformer(rank, folder, settings):
    config = parse_config(TransformerTrainConfig, settings | {"output": str(folder)})
    run = Trainer(TransformerTask(config), config)
    figures = take_steps(run, 3)
    run.export()
    types = {parameter.dtype for parameter in run.parameters}
    return [(step["loss"], step["gradient_norm"]) for step in figures], [str(kind) for kind in types]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_transformer_takes_the_same_steps(tmp_path, tiny_vae_folder, precision):
    optimizer = {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 1}
    settings = transformer_run(
        tmp_path, tiny_vae_folder, optimizer=optimizer, loggers=[], precision=precision
    )
    compare(tmp_path, settings, 1e-4 if precision == "fp32" else 0.02)


def test_a_lora_takes_the_same_steps(tmp_path, base):
    compare(tmp_path, lora_run(tmp_path, base, loggers=[]), 1e-4)


def compare(folder, settings, tolerance):
    ((alone, types),) = run_on(1, _transformer, folder / "alone", settings)
    for found, kinds in together(_transformer, folder / "zero", settings):
        assert kinds == types == ["torch.float32"]
        for ours, theirs in zip(found, alone, strict=True):
            assert ours == pytest.approx(theirs, rel=tolerance)
    ours, theirs = (weights_in(folder / name / "model") for name in ("zero", "alone"))
    assert ours.keys() == theirs.keys() and ours
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0.02, atol=max(tolerance / 10, 1e-4))


def _resume_elsewhere(rank, folder):
    with pytest.raises(InputError, match="on as many processes as wrote it; got 1 processes; expected 2"):
        toy_run(folder, resume=True)


def _refuse(rank, folder):
    for optimizer in ({"name": "muon"}, {"name": "adamw", "offload": True}):
        with pytest.raises(InputError, match="can't work on a sharded model"):
            toy_run(folder, optimizer=optimizer)
    task = ToyTask()
    task.adversary = object()
    with pytest.raises(InputError, match="discriminators can't be sharded"):
        Trainer(task, toy_config(folder))


def _refuse_stage(rank, folder):
    with pytest.raises(InputError, match="ZeRO-3 isn't supported.*got zero_stage: 3.*FSDP2"):
        toy_run(folder)


def test_what_it_can_not_do_is_refused(tmp_path):
    together(_toy, tmp_path / "two", 1, {})
    run_on(1, _started, _resume_elsewhere, tmp_path / "two", environment=ZERO2)
    together(_refuse, tmp_path / "refused")
    together(_refuse_stage, tmp_path / "three", ACCELERATE_DEEPSPEED_ZERO_STAGE="3")
