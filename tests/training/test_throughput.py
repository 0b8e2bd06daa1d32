"""Figures of a run's speed, its losses by kind of sample, and what it trades for memory."""

import pytest
import torch
from helpers.toy_task import toy_run
from torch.utils.flop_counter import FlopCounterMode

from ltx_diffusers.errors import InputError
from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ltx_diffusers.models.transformers.transformer_ltx import LTXTransformer3DModel
from ltx_diffusers.training.loss_bins import LossBins, noise_level_bins, noise_level_names
from ltx_diffusers.training.memory import apply_switches
from ltx_diffusers.training.throughput import Throughput, Work, measure_peak, transformer_flops

TINY = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "num_layers": 2,
    "caption_channels": 24,
    "causal_temporal_positioning": True,
}


def tiny_transformer():
    torch.manual_seed(0)
    return LTXTransformer3DModel(**TINY)


def prediction(transformer, tokens=12, text=5):
    generator = torch.Generator().manual_seed(0)
    return transformer(
        torch.randn(2, tokens, 8, generator=generator),
        encoder_hidden_states=torch.randn(2, text, 24, generator=generator),
        timestep=torch.full((2,), 500.0),
        encoder_attention_mask=torch.ones(2, text),
        num_frames=tokens // 4,
        height=2,
        width=2,
        frame_rate=8.0,
        return_dict=False,
    )[0]


def test_speed_is_a_mean_between_two_log_lines():
    speed = Throughput(peak=100.0)
    assert speed.figures() == {}
    speed.add(1.0, Work(samples=4, tokens=40, flops=30.0))
    speed.add(3.0, Work(samples=4, tokens=80, flops=50.0))
    assert speed.figures() == {
        "seconds_per_step": 2.0,
        "samples_per_second": 2.0,
        "tokens_per_second": 30.0,
        "model_flops_utilisation": 0.2,
    }
    speed.add(2.0)
    assert speed.figures() == {"seconds_per_step": 2.0}


def test_the_peak_is_the_rate_of_a_matrix_product():
    assert 1e8 < measure_peak(torch.device("cpu"), torch.float32, size=128) < 1e14


@pytest.mark.parametrize(("tokens", "text"), [(96, 5), (48, 40)])
def test_a_transformers_operations_are_those_that_pytorch_counts(tokens, text):
    transformer = tiny_transformer()
    transformer.set_attention_backend("_native_math")  # the counter doesn't know the CPU's fused attention
    with FlopCounterMode(display=False) as counter:
        prediction(transformer, tokens, text).sum().backward()
    computed = transformer_flops(
        batch=2,
        tokens=tokens,
        text_tokens=text,
        layers=2,
        width=32,
        cross_width=32,
        in_channels=8,
        out_channels=8,
        caption_channels=24,
    )
    # Left out: the time embedding; and nothing flows back into the inputs of the ends.
    assert computed == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_losses_are_told_apart_by_bin():
    bins = LossBins({"timestep": noise_level_names(4)})
    levels = torch.tensor([0.0, 0.24, 0.25, 0.99, 1.0])
    assert noise_level_bins(levels, 4).tolist() == [0, 0, 1, 3, 3]
    bins.add("timestep", noise_level_bins(levels, 4), torch.tensor([1.0, 3.0, 5.0, 7.0, 8.0]))
    bins.add("bucket", torch.tensor([2]), torch.tensor([9.0]))
    assert bins.figures() == {
        "loss_by_bucket/2": 9.0,
        "loss_by_timestep/0-0.25": 2.0,
        "loss_by_timestep/0.25-0.5": 5.0,
        "loss_by_timestep/0.75-1": 7.5,
    }
    assert bins.figures() == {}


def test_a_run_logs_speed_and_bins_and_says_how_long_the_rest_takes(tmp_path, capsys):
    logged = {}
    run = toy_run(tmp_path, log_every=3)
    run.accelerator.log = lambda figures, step: logged.setdefault(step, {}).update(figures)
    run.train()
    assert set(logged) == {3, 6}
    assert {"train/loss", "train/gradient_norm", "train/loss_by_parity/even", "final/loss"} <= set(logged[6])
    assert "train/bin/parity" not in logged[6]
    speed = logged[3]
    assert speed["train/tokens_per_second"] == pytest.approx(10 * speed["train/samples_per_second"])
    # 1000 operations a step of a machine whose peak is told to be 10^6 in a second
    assert speed["train/model_flops_utilisation"] == pytest.approx(1e-3 / speed["train/seconds_per_step"])
    lines = capsys.readouterr().err.splitlines()
    assert "left 0:00:0" in lines[0] and "left" not in lines[1] and "tokens_per_second" in lines[0]


def test_checkpointing_is_switched_on_in_the_trained_models_only():
    trained, frozen = tiny_transformer(), tiny_transformer().requires_grad_(False)
    both = torch.nn.ModuleList([trained, frozen])
    before = prediction(trained)
    apply_switches(both, gradient_checkpointing=True, backend=None)
    assert trained.is_gradient_checkpointing and not frozen.is_gradient_checkpointing
    assert torch.equal(prediction(trained.train()), before)
    with pytest.raises(InputError, match="no model of this run supports it"):
        apply_switches(torch.nn.Linear(1, 1), gradient_checkpointing=True, backend=None)


def test_compiled_blocks_predict_the_same():
    transformer = tiny_transformer()
    before = prediction(transformer)
    names = list(transformer.state_dict())
    apply_switches(torch.nn.ModuleList([transformer]), gradient_checkpointing=False, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    torch.testing.assert_close(prediction(transformer), before)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert list(transformer.state_dict()) == names


def test_what_cannot_be_compiled_is_said():
    from helpers.tiny_runs import TINY_VAE

    with pytest.raises(InputError, match="has repeated blocks"):
        apply_switches(AutoencoderKLLTX(**TINY_VAE), gradient_checkpointing=False, backend="inductor")
    with pytest.raises(InputError, match="no such backend; got fast"):
        apply_switches(tiny_transformer(), gradient_checkpointing=False, backend="fast")
