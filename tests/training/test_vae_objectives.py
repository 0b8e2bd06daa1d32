"""Training a VAE by every objective: chosen by config, resumed to the last bit, the same on two processes."""

import copy
import os
import socket

import pytest
import torch
from helpers.tiny_runs import TINY_VAE, vae_run
from torch import multiprocessing

from ltx_diffusers.errors import InputError
from ltx_diffusers.objectives.vae_objective import VAEObjective
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.processes import join_processes
from ltx_diffusers.training.vae import VAETask, VAETrainConfig

SMALL_3D = {"name": "patch-3d", "options": {"channels": 4, "num_layers": 2}}
SMALL_2D = {"name": "patch-2d", "options": {"channels": 4, "num_layers": 2}}
GAN = {
    "weight": 0.1,
    "start_step": 2,
    "options": {"discriminators": [SMALL_3D, SMALL_2D], "r1": 0.1, "lecam": 0.1},
}
EVERYTHING = {
    "l1": 1.0,
    "l2": 1.0,
    "kl": {"weight": 1e-3, "options": {"reduction": "pixels"}},
    "wavelet": {"weight": 0.5, "options": {"band_weights": {"HHH": 2.0}}},
    "random-features": {"weight": 0.1, "options": {"channels": [4, 4]}},
    "reconstruction-gan": GAN,
    "ordinary": GAN | {"name": "gan", "balance": {"kind": "constant"}, "start_step": 3},
    "local-correlation": 0.002,
    "latent-masking": {"options": {"ratios": [0.0, 0.5], "probabilities": [0.5, 0.5]}},
}
BUCKETS = [{"num_frames": 1, "batch_size": 4}, {"num_frames": 17, "batch_size": 2, "share": 2.0}]


def config_of(folder, **changes):
    settings = {
        "objectives": EVERYTHING,
        "learned_scale": True,
        "data": {"height": 64, "width": 64, "num_frames": 17},
        "stages": [{"steps": 8, "buckets": BUCKETS}],
        "discriminator": {"start_step": 1, "optimizer": {"name": "adamw", "learning_rate": 0.01}},
    }
    return parse_config(VAETrainConfig, vae_run(folder, **(settings | changes)))


def trainer(folder, *, resume=False, **changes):
    config = config_of(folder, **changes)
    return Trainer(VAETask(config), config, resume=resume)


def steps(run, count):
    figures = []
    for _ in range(count):
        figures.append(run.train_step())
        run.step += 1
    return figures


def state_of(run):
    sides = (run.task.module, run.adversary.module)
    return [copy.deepcopy(side.state_dict()) for side in sides]


def same(first, second):
    return all(
        torch.equal(value, second[index][name])
        for index, side in enumerate(first)
        for name, value in side.items()
    )


def test_every_objective_at_once_resumed_equals_unbroken_bit_for_bit(tmp_path):
    unbroken = trainer(tmp_path / "unbroken")
    figures = steps(unbroken, 8)
    assert "adversary/loss" not in figures[0] and "adversary/loss" in figures[1]
    assert "reconstruction-gan" not in figures[1] and "reconstruction-gan/factor" in figures[2]
    assert "ordinary" not in figures[2] and "ordinary/factor" not in figures[3]
    logged = {"wavelet", "random-features", "kl", "log_scale", "wavelet/HHH", "local-correlation/correlation"}
    assert logged | {"latent-masking/masked_share", "adversary/ordinary/r1"} <= set(figures[3])

    broken = trainer(tmp_path / "broken")
    steps(broken, 4)
    broken.save()
    halfway = state_of(broken)
    resumed = trainer(tmp_path / "broken", resume=True)
    assert resumed.step == 4 and same(halfway, state_of(resumed))
    assert steps(resumed, 4) == figures[4:]
    assert same(state_of(unbroken), state_of(resumed)) and not same(halfway, state_of(resumed))


def test_what_objectives_learned_is_kept_and_taken_up_by_a_decoders_run(tmp_path):
    stage = {"stages": [{"steps": 2, "buckets": BUCKETS}], "checkpoint_every": 9}
    first = trainer(tmp_path / "first", **stage)
    first.train()
    learned = sorted(
        str(path.relative_to(tmp_path / "first/objectives"))
        for path in (tmp_path / "first/objectives").rglob("*.safetensors")
    )
    assert learned == [
        "objectives.safetensors",
        "ordinary/0/diffusion_pytorch_model.safetensors",
        "ordinary/1/diffusion_pytorch_model.safetensors",
        "reconstruction-gan/0/diffusion_pytorch_model.safetensors",
        "reconstruction-gan/1/diffusion_pytorch_model.safetensors",
    ]
    kept = {name: EVERYTHING[name] for name in ("l1", "reconstruction-gan", "latent-masking")}
    second = trainer(
        tmp_path / "second",
        train="decoder",
        model={},
        initial_weights=str(tmp_path / "first/model"),
        initial_objectives=str(tmp_path / "first/objectives"),
        objectives=kept,
        **stage,
    )
    ours, theirs = second.task.module.objectives, first.task.module.objectives
    critics = [c.terms["reconstruction-gan"].discriminators.state_dict() for c in (ours, theirs)]
    assert same(critics[:1], critics[1:])
    tokens = [c.terms["latent-masking"].token for c in (ours, theirs)]
    exported = dict(zip(first.player.names, first.ema.shadow_params, strict=True))
    (averaged,) = (value for name, value in exported.items() if name.endswith("token"))
    assert torch.equal(tokens[0], averaged) and not torch.equal(tokens[0], tokens[1])
    before = copy.deepcopy(second.task.module.vae.state_dict())
    steps(second, 2)
    after = second.task.module.vae.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
    with pytest.raises(InputError, match="nothing of an objective"):
        trainer(tmp_path / "third", initial_objectives=str(tmp_path / "first/model"))


def test_hooks_are_called_in_their_order(tmp_path):
    calls = []

    class Spy(VAEObjective):
        def on_posterior(self, posterior):
            assert posterior.mean.shape == (2, 8, 3, 2, 2) and len(posterior.captions) == 2
            calls.append("posterior")

        def on_latents(self, latents, draws):
            calls.append("latents")
            return torch.zeros_like(latents)

        def on_reconstruction(self, record):
            calls.append("reconstruction")
            assert self.training == torch.equal(record.latents, torch.zeros_like(record.latents))
            return record.reconstruction.flatten(1).mean(1)

        def balance(self, loss, reference, layer, cap):
            calls.append("balance")
            return torch.tensor(1.0)

        def diagnostics(self):
            calls.append("diagnostics")
            return {}

    from ltx_diffusers.objectives import objectives

    objectives._entries["spy"] = Spy
    try:
        task = VAETask(
            config_of(
                tmp_path,
                objectives={"l1": 1.0, "spy": {"balance": {"kind": "adaptive"}}},
                clean_share=1.0,
                stages=[{"steps": 1, "buckets": BUCKETS[1:]}],
            )
        )
    finally:
        del objectives._entries["spy"]
    task.module.train()(task.batch(0, 0, 1), torch.Generator().manual_seed(0))
    assert calls == ["posterior", "latents", "reconstruction", "balance", "diagnostics"]
    calls.clear()
    with torch.no_grad():
        task.module.eval()(task.batch(0, 0, 1), torch.Generator().manual_seed(0))
    assert calls == ["posterior", "reconstruction", "diagnostics"]


def test_injected_noise_belongs_to_the_sample(tmp_path):
    model = TINY_VAE | {"decoder_inject_noise": [True] * 4}
    task = VAETask(config_of(tmp_path, model=model, objectives={"l2": 1.0}))
    for name, parameter in task.module.vae.named_parameters():
        if "per_channel_scale" in name:
            torch.nn.init.ones_(parameter)
    batch = task.batch(0, 0, 1)

    def loss(*numbers):
        torch.rand(1)
        return task.module.eval()(batch | {"numbers": numbers}, torch.Generator())["loss"]

    first, other = loss(0, 1), loss(0, 2)
    assert torch.equal(first, loss(0, 1)) and first[0] == other[0] and first[1] != other[1]


def test_checkpointing_changes_memory_only(tmp_path):
    losses = []
    for number, checkpointing in enumerate((False, True)):
        run = trainer(
            tmp_path / str(number),
            gradient_checkpointing=checkpointing,
            objectives={"l1": 1.0, "gan": GAN | {"start_step": 0}},
            stages=[{"steps": 2, "buckets": BUCKETS[1:]}],
            discriminator={},
        )
        losses.append(steps(run, 2))
        assert run.task.module.vae.is_gradient_checkpointing == checkpointing
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": {"l1": 1.0, "wavelet": {"options": {"levls": 2}}}}, "options.levls.*levels"),
        ({"objectives": {"kl": 1.0, "gan": {}}}, "reconstruction objective"),
        ({"objectives": {"l1": 1.0, "local-correlation": {}}, "train": "decoder"}, "isn't trained"),
        ({"data": {"height": 96, "width": 96, "num_frames": 17}}, "latents of 1x3x3"),
        ({"discriminator": {"start_step": 5}}, "can't begin after"),
        ({"initial_objectives": "nowhere"}, "no such folder"),
        ({"objectives": {"latent-masking": {}}}, "no objective with a loss"),
    ],
)
def test_what_cannot_work_is_refused_before_training(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        VAETask(config_of(tmp_path, **changes))


def _on_process(rank, world_size, port, folder, settings, results):
    from accelerate.state import AcceleratorState

    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    run = trainer(folder, **settings)
    assert join_processes().num_processes == world_size
    figures = steps(run, 2)
    weights = [
        torch.cat([p.detach().flatten() for p in side.parameters()])
        for side in (run.task.module, run.adversary.module)
    ]
    results.put((rank, figures, [weight.numpy() for weight in weights]))
    run.accelerator.wait_for_everyone()
    if world_size > 1:
        torch.distributed.destroy_process_group()


def run_on(world_size, folder, settings):
    """Steps on several processes: their figures and weights, in the order of their ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")  # they find everything imported
    results = context.Queue()
    processes = [
        context.Process(
            target=_on_process, args=(rank, world_size, port, folder, settings, results), daemon=True
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    found = sorted((results.get(timeout=60) for _ in processes), key=lambda result: result[0])
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return found


def test_two_processes_take_the_step_that_one_takes(tmp_path):
    """1 process with 4 clips, 2 with 2 each: all draws of both sides of the game belong to the clips."""
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
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 0},
        "discriminator": {"optimizer": {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 0}},
        "stages": [{"steps": 2, "num_frames": 17, "batch_size": 4}],
        "learned_scale": True,
    }
    ((_, alone, weights),) = run_on(1, tmp_path / "one", settings)
    together = run_on(2, tmp_path / "two", settings)
    for _, figures, shared in together:
        for step, tolerance in enumerate((1e-3, 2e-2)):
            assert figures[step].keys() == alone[step].keys()
            for name, value in alone[step].items():
                assert figures[step][name] == pytest.approx(value, rel=tolerance, abs=1e-4), (step, name)
        for ours, theirs in zip(shared, weights, strict=True):
            # Not the largest difference: AdamW's first step is the sign of a gradient, be it 0 but for rounding.
            assert abs(ours - theirs).mean() < 1e-5
