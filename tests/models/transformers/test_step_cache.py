"""What a loop keeps from step to step, or computes once for several texts, changes nothing."""

from __future__ import annotations

import itertools
import weakref

import accelerate
import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup
from helpers.transformers import FRAME_RATE, GRID, MASK, TINY, relative_error, tiny_inputs
from peft import LoraConfig

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.coordinates import video_coordinates
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.models.transformers.attention_ltx import LTXAttnProcessor
from ltx_diffusers.models.transformers.perturbation import MODES, Perturbation
from ltx_diffusers.models.transformers.step_cache import StepCache, offloading_groups

RUNS = (8, 12, 4)
TOLERANCE = 1e-5


@pytest.fixture
def model() -> LTXTransformer3DModel:
    torch.manual_seed(0)
    return LTXTransformer3DModel(**TINY).eval()


def inputs_of(rows: int = 2, rate=FRAME_RATE) -> dict:
    coords = video_coordinates(VideoSize(*GRID), batch_size=rows, frame_rate=rate, causal=True)
    return {**tiny_inputs(), "video_coords": coords}


def at(step: int, inputs: dict) -> dict:
    """The inputs of another step: new tokens and timesteps, the same text and coordinates."""
    torch.manual_seed(step)
    return {**inputs, "hidden_states": torch.randn(2, 24, 8), "timestep": torch.rand(2) * 1000}


@torch.no_grad()
def assert_same_at_each_step(model, inputs: dict, cache: StepCache, steps: int = 3) -> None:
    for step in range(steps):
        now = at(step, inputs)
        assert relative_error(model(**now, step_cache=cache)[0], model(**now)[0]) < TOLERANCE


@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "no mask"])
@pytest.mark.parametrize("rate", [FRAME_RATE, torch.tensor([24.0, 30.0])], ids=["one rate", "rates"])
def test_steps_with_a_cache_are_steps_without(model, mask, rate) -> None:
    inputs = {**inputs_of(rate=rate), "encoder_attention_mask": mask}
    assert_same_at_each_step(model, inputs, StepCache())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [1, 2])
def test_perturbed_passes(model, mode, rows) -> None:
    perturbed = {"perturbation": Perturbation((0, 2), mode), "perturbed_rows": rows}
    assert_same_at_each_step(model, {**inputs_of(), **perturbed}, StepCache())


@torch.no_grad()
def test_keys_and_values_are_computed_once_for_each_text(model) -> None:
    calls = []
    for block in model.transformer_blocks:
        block.attn2.to_k.register_forward_hook(lambda *_: calls.append("key"))
    model.caption_projection.register_forward_hook(lambda *_: calls.append("text"))
    inputs, cache = inputs_of(), StepCache()
    other = {**inputs, "encoder_hidden_states": torch.randn(2, 6, 32)}
    for step in range(3):
        model(**at(step, inputs), step_cache=cache)
        model(**at(step, other), step_cache=cache)
    assert sorted(calls) == ["key"] * 2 * TINY["num_layers"] + ["text"] * 2


@torch.no_grad()
def test_sequential_offloading_is_no_change_of_weights(model) -> None:
    """Between their uses weights are place holders on the meta device, new ones after each use."""
    calls = []
    inputs, cache = inputs_of(), StepCache()
    expected = model(**inputs)[0]
    accelerate.cpu_offload(model, torch.device("cpu"), offload_buffers=True)
    model.caption_projection.register_forward_hook(lambda *_: calls.append("text"))
    for _ in range(3):
        assert relative_error(model(**inputs, step_cache=cache)[0], expected) < TOLERANCE
    assert calls == ["text"]


@torch.no_grad()
@pytest.mark.parametrize("ahead", [False, True])
def test_layers_that_fetch_the_next_ones_ahead_all_run_at_each_step(model, monkeypatch, ahead: bool) -> None:
    """Diffusers' group offloading of single layers with a stream; the stream is only said to be there."""
    for name in ("onload_", "offload_"):
        monkeypatch.setattr(ModuleGroup, name, lambda group: None)
    inputs, cache, calls = inputs_of(), StepCache(), []
    expected = model(**inputs)[0]
    cpu = torch.device("cpu")
    model.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    for group in offloading_groups(model):
        group.stream = object() if ahead else None
    for layer in (model.caption_projection.linear_1, model.transformer_blocks[1].attn2.to_k):
        layer.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        assert relative_error(model(**inputs, step_cache=cache)[0], expected) < TOLERANCE
    assert len(calls) == (6 if ahead else 2)


def test_a_text_that_was_written_to_is_a_new_one(model) -> None:
    inputs, cache = inputs_of(), StepCache()
    assert_same_at_each_step(model, inputs, cache, 1)
    inputs["encoder_hidden_states"].mul_(2)
    inputs["video_coords"].mul_(2)
    assert_same_at_each_step(model, inputs, cache, 1)


def _step_of_optimizer(model) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)


def _new_adapter(model) -> None:
    torch.manual_seed(1)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False), "second")
    model.set_adapters(["second"])


CHANGES = {
    "optimizer": _step_of_optimizer,
    "weight of the adapter": lambda model: model.set_adapters(["first"], [0.3]),
    "off": lambda model: model.disable_lora(),
    "fused": lambda model: model.fuse_lora(),
    "another": _new_adapter,
    "gone": lambda model: model.unload_lora(),
    "projections": lambda model: model.unload_lora() or model.fuse_qkv_projections(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_change_between_steps(model, change) -> None:
    model.add_adapter(
        LoraConfig(r=2, target_modules=["to_k", "to_v", "linear_1"], init_lora_weights=False), "first"
    )
    inputs, cache = inputs_of(), StepCache()
    assert_same_at_each_step(model, inputs, cache)
    before = model(**inputs)[0]
    CHANGES[change](model)
    assert change in ("fused",) or relative_error(model(**inputs)[0], before) > 1e-4
    assert_same_at_each_step(model, inputs, cache)


def test_lora_scale_of_a_call(model) -> None:
    model.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False))
    inputs, cache = inputs_of(), StepCache()
    for scale in (1.0, 0.2, 1.0):
        assert_same_at_each_step(model, {**inputs, "attention_kwargs": {"scale": scale}}, cache)


@torch.no_grad()
def test_forgetting_is_for_changes_that_nobody_can_see(model) -> None:
    inputs, cache = inputs_of(), StepCache()
    model(**inputs, step_cache=cache)
    model.transformer_blocks[0].attn2.to_v.weight.data.mul_(2)
    assert relative_error(model(**inputs, step_cache=cache)[0], model(**inputs)[0]) > 1e-4
    cache.forget()
    assert_same_at_each_step(model, inputs, cache)


def test_another_processor_computes_keys_and_values_itself(model) -> None:
    class Doubled(LTXAttnProcessor):
        def __call__(
            self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None
        ):
            inputs = (hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
            return 2 * super().__call__(attn, *inputs)

    inputs, cache = inputs_of(), StepCache()
    assert_same_at_each_step(model, inputs, cache, 1)
    model.set_attn_processor(Doubled())
    assert_same_at_each_step(model, inputs, cache)


def test_gradients_leave_the_cache_alone(model) -> None:
    inputs, cache = inputs_of(), StepCache()
    with torch.no_grad():
        model(**inputs, step_cache=cache)
    model(**inputs, step_cache=cache)[0].sum().backward()
    assert model.transformer_blocks[0].attn2.to_k.weight.grad.abs().sum() > 0
    assert model.caption_projection.linear_1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("perturbed", [(), (0,), (1,)], ids=["plain", "first block", "second block"])
@pytest.mark.parametrize("rate", [FRAME_RATE, torch.tensor([24.0, 30.0])], ids=["one rate", "rates"])
@pytest.mark.parametrize("timesteps", ["per sample", "per token", "runs"])
def test_several_texts_for_the_same_tokens(model, grad, perturbed, rate, timesteps) -> None:
    inputs = inputs_of(rate=rate)
    runs = {}
    if timesteps == "per token":
        inputs["timestep"] = torch.rand(2, 24) * 1000
    if timesteps == "runs":
        inputs["timestep"], runs = torch.rand(2, 3) * 1000, {"timestep_runs": RUNS}
    text, mask = torch.randn(6, 6, 32), (torch.rand(6, 6) > 0.3).long()
    mask[:, 0] = 1
    texts = {"encoder_hidden_states": text, "encoder_attention_mask": mask}
    if perturbed:
        texts |= {"perturbation": Perturbation(perturbed), "perturbed_rows": 2}
    with torch.set_grad_enabled(grad):
        together = model(**{**inputs, **texts}, **runs)[0]
        repeated = {
            name: inputs[name].repeat(3, *[1] * (inputs[name].ndim - 1))
            for name in ("hidden_states", "timestep", "video_coords")
        }
        apart = model(**{**inputs, **texts, **repeated}, **runs)[0]
    assert together.shape == (6, 24, 8)
    assert relative_error(together, apart) < TOLERANCE


@pytest.mark.parametrize("grad", [False, True])
def test_runs_of_timesteps_are_timesteps_per_token(model, grad) -> None:
    inputs, levels = inputs_of(), torch.rand(2, 3) * 1000
    per_token = levels.repeat_interleave(torch.tensor(RUNS), dim=1)
    with torch.set_grad_enabled(grad):
        expected = model(**{**inputs, "timestep": per_token})[0]
        got = model(**{**inputs, "timestep": levels}, timestep_runs=RUNS)[0]
        assert relative_error(got, expected) < TOLERANCE
        one = model(**{**inputs, "timestep": levels[:, :1]}, timestep_runs=(24,))[0]
        assert relative_error(one, model(**{**inputs, "timestep": levels[:, 0]})[0]) < TOLERANCE


@torch.no_grad()
def test_timesteps_are_embedded_once_for_each_run(model) -> None:
    seen = []
    model.time_embed.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    model(**{**inputs_of(), "timestep": torch.rand(2, 3)}, timestep_runs=RUNS)
    assert seen == [(6,)]


@pytest.mark.parametrize(
    ("runs", "shape"), [((8, 12), (2, 2)), ((8, 16), (2, 3)), ((24, 0), (2, 2)), ((8, 16), (1, 2))]
)
def test_runs_that_do_not_fit_are_refused(model, runs, shape) -> None:
    with pytest.raises(InputError, match="timestep_runs"):
        model(**{**inputs_of(), "timestep": torch.zeros(shape)}, timestep_runs=runs)


def test_texts_must_be_a_multiple_of_the_tokens(model) -> None:
    with pytest.raises(InputError, match="encoder_hidden_states"):
        model(**{**inputs_of(), "encoder_hidden_states": torch.zeros(3, 6, 32)})


def test_a_cache_knows_sources_by_identity_and_keeps_few() -> None:
    cache, made = StepCache(), itertools.count()
    source, equal = torch.zeros(2), torch.zeros(2)
    assert [cache.get("x", (key,), lambda: next(made)) for key in (source, equal, source)] == [0, 1, 0]
    assert cache.get("y", (source,), lambda: next(made)) == 2
    assert cache.get("x", (source,), lambda: next(made), state="other") == 3
    others = [torch.zeros(1) for _ in range(8)]
    for other in others:
        cache.get("x", (other,), lambda: next(made))
    assert cache.get("x", (source,), lambda: next(made)) == 12


def test_a_result_that_is_out_of_date_makes_room_for_the_new_one() -> None:
    cache, source = StepCache(), torch.zeros(2)
    results = [weakref.ref(cache.get("x", (source,), lambda: torch.zeros(1), state)) for state in range(3)]
    assert [reference() is None for reference in results] == [True, True, False]
