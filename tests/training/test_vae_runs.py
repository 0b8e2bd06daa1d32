"""Runs of the VAE under what happens to runs: kill -9, a full disk, broken data, other numbers of processes."""

import os
import random
import signal
import time

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from helpers.media_sets import picture_bytes, write_tar
from helpers.processes import run_on
from helpers.small_disk import fill, on_small_disk
from helpers.tiny_runs import TINY_VAE
from helpers.vae_runs import GAN, same, state_of, steps, trainer
from torch import multiprocessing

from ltx_diffusers.errors import TrainingError
from ltx_diffusers.training.checkpoints import latest_checkpoint, step_of

BUCKETS = [{"num_frames": 1, "batch_size": 2}, {"num_frames": 17, "batch_size": 1}]
LONG = {"stages": [{"steps": 40, "buckets": BUCKETS}], "checkpoint_every": 3}


def _forked_run(folder, settings):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    torch.set_num_threads(1)
    trainer(folder, **settings).train()


def test_killed_without_warning_it_goes_on_as_if_nothing_had_happened(tmp_path):
    """kill -9 at some moment behind the first checkpoint; the next 20 steps are those of an unbroken run."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_forked_run, args=(tmp_path / "killed", LONG))
    process.start()
    deadline = time.monotonic() + 60
    while latest_checkpoint(tmp_path / "killed") is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.5))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL

    resumed = trainer(tmp_path / "killed", resume=True, **LONG)
    start = step_of(latest_checkpoint(tmp_path / "killed"))
    assert resumed.step == start and 3 <= start <= 18
    figures = steps(resumed, 20)
    unbroken = trainer(tmp_path / "unbroken", **LONG)
    assert steps(unbroken, start + 20)[start:] == figures
    assert same(state_of(unbroken), state_of(resumed))
    for ours, theirs in zip(resumed.ema.shadow_params, unbroken.ema.shadow_params, strict=True):
        assert torch.equal(ours, theirs)


def _on_a_full_disk(disk):
    run = trainer(disk / "run")
    steps(run, 3)
    run.save()
    steps(run, 1)
    ballast = fill(disk)
    with pytest.raises(TrainingError, match="checkpoint of step 4 could not be written"):
        run.save()
    left = [path.name for path in (disk / "run" / "checkpoints").iterdir()]
    ballast.unlink()
    resumed = trainer(disk / "run", resume=True)
    figures = steps(resumed, 2)
    resumed.save()
    return left, resumed.step, figures, latest_checkpoint(disk / "run").name


def test_a_full_disk_leaves_the_last_checkpoint_to_go_on_from(tmp_path):
    left, step, figures, newest = on_small_disk(tmp_path / "disk", 64 << 20, _on_a_full_disk)
    assert left == ["step-00000003"] and step == 5 and newest == "step-00000005"
    assert steps(trainer(tmp_path / "unbroken"), 5)[3:] == figures


def broken_tars(folder):
    """Good pictures among broken members, an empty tar, a cut one, and wrong lines of metadata."""
    good = [(f"{number:06d}.png", picture_bytes(12 * number, 64, 64)) for number in range(16)]
    members = [("a.png", b"no picture"), *good[:2], ("b.mp4", b"no video"), *good[2:], ("c.png", b"")]
    write_tar(folder / "0.tar", members)
    lines = ['{"key": "000000", "caption": "first"}', "{wrong", '{"key": "elsewhere"}', '{"key": 2}']
    (folder / "0.meta.jsonl").write_text("\n".join(lines))
    (folder / "1.tar").write_bytes(b"")
    whole = write_tar(folder / "2.tar", good[:2]).read_bytes()
    (folder / "2.tar").write_bytes(whole[:600])
    return folder


def test_broken_data_are_left_out_listed_and_never_end_a_run(tmp_path):
    settings = {
        "data": {
            "reader": "webdataset",
            "height": 64,
            "width": 64,
            "num_frames": 1,
            "options": {"path": str(broken_tars(tmp_path / "tars")), "held_out_share": 0.4},
        },
        "stages": [{"steps": 6, "num_frames": 1, "batch_size": 4}],
    }
    run = trainer(tmp_path / "run", **settings)
    unbroken = steps(run, 3)
    run.save()
    unbroken += steps(run, 3)
    skipped = {problem.name for problem in run.task.clips.skipped}
    assert {"0.tar/a.png", "0.tar/b.mp4", "1.tar", "2.tar"} <= {name.partition(",")[0] for name in skipped}
    assert {name.rpartition(" ")[2] for name in skipped if "line" in name} == {"2", "4"}
    assert steps(trainer(tmp_path / "run", resume=True, **settings), 3) == unbroken[3:]


def _two_steps(rank, folder, settings):
    run = trainer(folder, **settings)
    figures = steps(run, 2)
    sides = (run.task.module, run.adversary.module)
    return figures, [torch.cat([p.detach().flatten() for p in side.parameters()]).numpy() for side in sides]


def test_two_processes_take_the_step_that_one_takes(tmp_path):
    """1 process with 4 clips, 2 with 2 each: all draws of both sides of the game belong to the clips."""
    rate = {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 0}
    settings = {
        "model": TINY_VAE | {"decoder_inject_noise": [True] * 4},
        "objectives": {
            "l1": 1.0,
            "wavelet": 0.5,
            "kl": 1e-3,
            "gan": GAN | {"start_step": 0},
            "reconstruction-gan": GAN | {"start_step": 0},
            "latent-masking": {"options": {"ratios": [0.5], "probabilities": [1.0]}},
            "local-correlation": {"weight": 0.1, "options": {"scope": "sample"}},
        },
        "optimizer": rate,
        "discriminator": {"optimizer": rate},
        "stages": [{"steps": 2, "num_frames": 17, "batch_size": 4}],
        "learned_scale": True,
    }
    ((alone, weights),) = run_on(1, _two_steps, tmp_path / "one", settings)
    for figures, shared in run_on(2, _two_steps, tmp_path / "two", settings):
        for step, tolerance in enumerate((1e-3, 2e-2)):
            assert figures[step].keys() == alone[step].keys()
            for name, value in alone[step].items():
                assert figures[step][name] == pytest.approx(value, rel=tolerance, abs=1e-4), (step, name)
        for ours, theirs in zip(shared, weights, strict=True):
            # Not the largest difference: AdamW's first step is the sign of a gradient, be it 0 but for rounding.
            assert abs(ours - theirs).mean() < 1e-5
