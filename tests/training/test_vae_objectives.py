"""Training a VAE by every objective: chosen by config, resumed to the last bit."""

import copy

import pytest
import torch
from helpers.tiny_runs import TINY_VAE
from helpers.vae_runs import BUCKETS, EVERYTHING, GAN, config_of, same, state_of, steps, trainer

from ltx_diffusers.errors import InputError
from ltx_diffusers.objectives.vae_objective import VAEObjective
from ltx_diffusers.training.vae import VAETask


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
