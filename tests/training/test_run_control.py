"""What happens to a run from outside: signals, kills, a second run, other settings; and which checkpoints it keeps."""

import json
import math
import os
import random
import signal
import time

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from helpers.toy_task import ToyTask, take_steps, toy_config, toy_run, weights_of
from safetensors.torch import load_file
from torch import multiprocessing

from ltx_diffusers.errors import InputError, TrainingError, TrainingStopped
from ltx_diffusers.training.checkpoints import best_checkpoint, latest_checkpoint, save_checkpoint
from ltx_diffusers.training.config import changed_settings
from ltx_diffusers.training.interruption import StopRequests
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.run_folder import LOCK_FILE, hold_run


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_with_a_checkpoint_and_the_run_goes_on_as_if_it_had_not(tmp_path, number, code):
    class Signalled(ToyTask):
        def batch(self, step, rank, world_size):
            if step == 2:
                os.kill(os.getpid(), number)
            return super().batch(step, rank, world_size)

    before = signal.getsignal(number)
    run = Trainer(Signalled(), toy_config(tmp_path / "stopped", checkpoint_every=100))
    with pytest.raises(TrainingStopped, match=f"{number.name} at step 3 of 6.*--resume") as stopped:
        run.train()
    assert stopped.value.exit_code == code and signal.getsignal(number) == before
    assert latest_checkpoint(tmp_path / "stopped").name == "step-00000003"
    toy_run(tmp_path / "stopped", resume=True).train()
    toy_run(tmp_path / "unbroken").train()
    ours, theirs = (
        load_file(tmp_path / name / "model/model.safetensors") for name in ("stopped", "unbroken")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_second_interrupt_does_not_wait_for_the_step():
    with StopRequests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def _killable(folder):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    torch.set_num_threads(1)
    run = toy_run(folder, resume=latest_checkpoint(folder) is not None, steps=40, checkpoint_every=1)
    batch = run.task.batch

    def slow_batch(*place):
        time.sleep(0.03)  # so that the first three kills come before the end, however fast the machine
        return batch(*place)

    run.task.batch = slow_batch
    run.train()


def test_killed_at_any_moment_again_and_again_it_ends_where_an_unbroken_run_ends(tmp_path):
    context = multiprocessing.get_context("fork")
    rng = random.Random(0)
    kills, last = 0, 0
    while True:
        process = context.Process(target=_killable, args=(tmp_path / "killed",))
        process.start()
        process.join(rng.uniform(0.02, 0.35) if kills < 12 else 60)
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        newest = latest_checkpoint(tmp_path / "killed")
        assert newest is None or int(newest.name[5:]) >= last
        last = 0 if newest is None else int(newest.name[5:])
    assert process.exitcode == 0 and kills >= 3
    toy_run(tmp_path / "unbroken", steps=40).train()
    ours, theirs = (load_file(tmp_path / name / "model/model.safetensors") for name in ("killed", "unbroken"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    left = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir())
    assert left == ["step-00000039", "step-00000040"]


def _try_to_hold(folder, results):
    try:
        hold_run(folder)
        results.put("held")
    except InputError as error:
        results.put(str(error))


def held_elsewhere(folder):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_try_to_hold, args=(folder, results))
    process.start()
    found = results.get(timeout=30)
    process.join()
    return found


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    run = toy_run(tmp_path)
    message = held_elsewhere(tmp_path)
    assert "another process is training" in message and f"process {os.getpid()} on" in message
    run.train()
    assert (tmp_path / LOCK_FILE).read_text() == ""
    assert held_elsewhere(tmp_path) == "held"
    hold_run(tmp_path)  # the other one has ended


def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path):
    run = toy_run(
        tmp_path,
        validate_every=1,
        checkpoint_every=1,
        keep_checkpoints=1,
        best={"figure": "score", "goal": "highest"},
    )
    run.task.scores = [1.0, 3.0, 2.0, 3.0, 0.0, 0.0]
    run.train()
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == ["best.json", "step-00000002", "step-00000006"]
    assert best_checkpoint(tmp_path)[1:] == ("score", 3.0)
    assert latest_checkpoint(tmp_path).name == "step-00000006"


def test_a_figure_that_is_no_number_is_soon_beaten(tmp_path):
    run = toy_run(
        tmp_path, validate_every=1, checkpoint_every=100, best={"figure": "score", "goal": "highest"}
    )
    run.task.scores = [math.nan, 1.0, math.nan, 0.0, 0.0, 0.0]
    run.train()
    assert best_checkpoint(tmp_path)[1:] == ("score", 1.0)


@pytest.mark.parametrize("export", [True, False])
def test_the_finished_model_is_that_of_the_best_checkpoint_if_asked(tmp_path, export):
    run = toy_run(
        tmp_path,
        validate_every=1,
        checkpoint_every=100,
        ema_decay=0.0,
        best={"figure": "loss", "goal": "lowest", "export": export},
    )
    weights = {}
    measure = run.task.validate

    def validate(folder):
        weights[run.step] = weights_of(run)
        return measure(folder) | {"loss": abs(run.step - 2.0)}

    run.task.validate = validate
    run.train()
    assert not torch.equal(weights[2]["blocks.0.layer.weight"], weights[5]["blocks.0.layer.weight"])
    exported = load_file(tmp_path / "model/model.safetensors")
    expected = weights[2] if export else weights_of(run)
    assert all(torch.equal(exported[name], value) for name, value in expected.items())
    if not export:
        assert not torch.equal(exported["blocks.0.layer.weight"], weights[2]["blocks.0.layer.weight"])


def test_a_figure_that_validation_lacks_is_an_error_that_lists_them(tmp_path):
    run = toy_run(tmp_path, validate_every=1, best={"figure": "psnr", "goal": "highest"})
    with pytest.raises(InputError, match="no such figure; got psnr; expected loss, score"):
        run.train()


def test_a_task_that_names_its_figures_is_refused_before_the_first_step(tmp_path):
    config = toy_config(tmp_path, validate_every=1, best={"figure": "psnr", "goal": "highest"})
    task = ToyTask()
    task.validation_figures = ("loss",)
    with pytest.raises(InputError, match="no such figure; got psnr; expected loss"):
        Trainer(task, config)


def test_a_run_that_failed_lets_other_processes_train_in_its_folder(tmp_path):
    run = toy_run(tmp_path, validate_every=1, best={"figure": "psnr", "goal": "highest"})
    with pytest.raises(InputError, match="no such figure"):
        run.train()
    assert held_elsewhere(tmp_path) == "held"


def test_a_run_that_could_not_begin_lets_other_processes_train_in_its_folder(tmp_path):
    toy_run(tmp_path, steps=1).train()
    (tmp_path / "checkpoints/step-00000001/model.safetensors").write_bytes(b"")
    with pytest.raises(TrainingError):
        toy_run(tmp_path, resume=True, steps=2)
    assert held_elsewhere(tmp_path) == "held"


def test_what_killed_processes_left_is_swept_away(tmp_path):
    run = toy_run(tmp_path)
    folder = tmp_path / "checkpoints"
    for name in ("step-00000001.partial", "step-00000001.old"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").touch()
    run.step = 1
    run.save()
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]
    record = json.loads((folder / "step-00000001" / "run.json").read_text())
    assert record == {"processes": 1, "accumulate": 1, "step": 1}


def test_a_broken_deletion_leaves_nothing_that_looks_like_a_checkpoint(tmp_path, monkeypatch):
    run = toy_run(tmp_path, keep_checkpoints=1)
    run.step = 1
    run.save()
    import shutil

    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if killed on the way
    save_checkpoint(run.accelerator, tmp_path, 2, keep=1)
    assert latest_checkpoint(tmp_path).name == "step-00000002"
    assert (tmp_path / "checkpoints" / "step-00000001.old").is_dir()


def test_a_damaged_checkpoint_is_named(tmp_path):
    run = toy_run(tmp_path)
    run.step = 1
    run.save()
    path = tmp_path / "checkpoints" / "step-00000001" / "optimizer.bin"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match="step-00000001.*delete it"):
        toy_run(tmp_path, resume=True)


def test_resuming_tells_what_is_different(tmp_path, capsys):
    run = toy_run(tmp_path)
    take_steps(run, 1)
    run.save()
    same = toy_run(tmp_path, resume=True)
    assert same.notes == [f"resumed from {tmp_path / 'checkpoints' / 'step-00000001'}"]
    other = toy_run(
        tmp_path, resume=True, optimizer={"name": "adamw", "learning_rate": 0.01, "warmup_steps": 0}, seed=3
    )
    assert other.notes[1:] == [
        "changed setting: seed: 0 -> 3",
        "changed setting: optimizer.learning_rate: 0.05 -> 0.01",
    ]
    other.train()
    assert "changed setting: optimizer.learning_rate: 0.05 -> 0.01" in capsys.readouterr().err


def test_changed_settings_name_keys_that_came_and_went():
    assert changed_settings({"a": 1, "b": {"c": 2}}, {"b": {"c": 2, "d": [1]}}) == [
        "a: 1 -> None",
        "b.d: None -> [1]",
    ]
    before, now = {"stages": [{"steps": 5}, {"steps": 6}]}, {"stages": [{"steps": 5}, {"steps": 7}]}
    assert changed_settings(before, now) == ["stages.1.steps: 6 -> 7"]
    assert changed_settings(before, {"stages": []}) == ["stages: [{'steps': 5}, {'steps': 6}] -> []"]


def test_an_average_may_begin_in_a_resumed_run(tmp_path):
    run = toy_run(tmp_path, ema_decay=0.0)
    assert run.ema.shadow_params == []
    take_steps(run, 2)
    run.save()
    resumed = toy_run(tmp_path, resume=True, ema_decay=0.9)
    assert all(
        torch.equal(ours, p) for ours, p in zip(resumed.ema.shadow_params, resumed.parameters, strict=True)
    )
    take_steps(resumed, 2)
    assert not torch.equal(resumed.ema.shadow_params[0], resumed.parameters[0])
