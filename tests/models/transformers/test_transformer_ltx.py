from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from helpers.transformers import FRAME_RATE, GRID, MASK, TIMESTEPS, TINY, on_grid, relative_error, tiny_inputs

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.errors import InputError
from ltx_diffusers.functional.coordinates import video_coordinates
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.models.transformers.attention_ltx import LTXAttnProcessor
from ltx_diffusers.models.transformers.released import RELEASED

FRAMES = dict(zip(("num_frames", "height", "width"), GRID, strict=True))


@pytest.fixture
def model() -> LTXTransformer3DModel:
    return LTXTransformer3DModel(**TINY, causal_temporal_positioning=True).eval()


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"), [("2b", 1_923_385_472, 715), ("13b", 13_042_569_344, 1215)]
)
def test_released_sizes(name, parameters, tensors) -> None:
    with torch.device("meta"):
        model = LTXTransformer3DModel(**RELEASED[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(model.state_dict()) == tensors


@pytest.mark.parametrize("timesteps", TIMESTEPS)
def test_a_batch_gives_what_single_calls_give(model, timesteps) -> None:
    inputs = {**tiny_inputs(timesteps), **FRAMES, "frame_rate": torch.tensor([24.0, 30.0])}
    batch = model(**inputs)[0]
    for i, rate in enumerate((24.0, 30.0)):
        single = {k: v[i : i + 1] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        assert relative_error(batch[i : i + 1], model(**{**single, "frame_rate": rate})[0]) < 1e-5


@pytest.mark.parametrize("causal", [False, True])
def test_three_ways_to_tell_the_coordinates(causal) -> None:
    model = LTXTransformer3DModel(**TINY, causal_temporal_positioning=causal)
    inputs = tiny_inputs()
    coords = video_coordinates(VideoSize(*GRID), frame_rate=FRAME_RATE, causal=causal)
    given = model(**inputs, video_coords=coords)[0]
    assert relative_error(model(**inputs, **FRAMES, frame_rate=FRAME_RATE)[0], given) < 1e-5
    assert relative_error(model(**inputs, **on_grid())[0], given) < 1e-5
    other = video_coordinates(VideoSize(*GRID), frame_rate=FRAME_RATE, causal=not causal)
    assert relative_error(model(**inputs, video_coords=other)[0], given) > 1e-3


def test_other_ratios_and_patches_scale_computed_coordinates() -> None:
    settings = {"temporal_compression_ratio": 4, "spatial_compression_ratio": 16}
    model = LTXTransformer3DModel(**TINY, **settings, patch_size=2, patch_size_t=2)
    inputs = tiny_inputs()
    coords = video_coordinates(VideoSize(*GRID), frame_rate=FRAME_RATE, causal=False)
    given = model(**inputs, video_coords=coords)[0]
    assert relative_error(model(**inputs, **FRAMES, frame_rate=FRAME_RATE)[0], given) < 1e-5
    scale = (4 / FRAME_RATE, 16, 16)
    assert relative_error(model(**inputs, **FRAMES, rope_interpolation_scale=scale)[0], given) < 1e-5


def test_equal_timesteps_of_all_tokens_are_one_of_the_sample(model) -> None:
    inputs = {**tiny_inputs(), **on_grid()}
    expected = model(**inputs)[0]
    per_token = inputs["timestep"][:, None].expand(-1, 24)
    assert relative_error(model(**{**inputs, "timestep": per_token})[0], expected) < 1e-5
    # The timestep of one token changes that token, and others through attention.
    per_token = per_token.clone()
    per_token[0, 5] = 0
    changed = (model(**{**inputs, "timestep": per_token})[0] - expected).norm(dim=-1)
    assert changed[0].min() > 1e-6
    assert changed[1].max() < 1e-5
    assert changed[0].argmax() == 5


@pytest.mark.parametrize(
    "mask",
    [MASK, MASK.bool(), MASK.float(), ((1 - MASK.float()) * -10000)[:, None]],
    ids=["int", "bool", "float", "bias"],
)
def test_masked_text_does_not_count(model, mask) -> None:
    inputs = {**tiny_inputs(), **on_grid(), "encoder_attention_mask": mask}
    expected = model(**inputs)[0]
    text = inputs["encoder_hidden_states"].clone()
    text[1, 4:] = 100.0
    assert relative_error(model(**{**inputs, "encoder_hidden_states": text})[0], expected) < 1e-6
    short = {k: v[1:] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    short.update(encoder_hidden_states=text[1:, :4], encoder_attention_mask=None)
    assert relative_error(expected[1:], model(**short)[0]) < 1e-5


def test_no_mask_is_a_mask_of_ones(model) -> None:
    inputs = {**tiny_inputs(), **on_grid(), "encoder_attention_mask": torch.ones(2, 6, dtype=torch.long)}
    expected = model(**inputs)[0]
    assert relative_error(model(**{**inputs, "encoder_attention_mask": None})[0], expected) < 1e-6


def test_output_kinds(model) -> None:
    inputs = {**tiny_inputs(), **on_grid()}
    assert torch.equal(model(**{**inputs, "return_dict": True}).sample, model(**inputs)[0])


def test_fused_projections_and_backends_give_the_same(model) -> None:
    inputs = {**tiny_inputs(), **on_grid()}
    expected = model(**inputs)[0]
    model.fuse_qkv_projections()
    assert model.transformer_blocks[0].attn1.fused_projections
    assert relative_error(model(**inputs)[0], expected) < 1e-6
    model.unfuse_qkv_projections()
    model.set_attention_backend("_native_math")
    assert relative_error(model(**inputs)[0], expected) < 1e-6


def test_set_attention_backend_reaches_the_dispatcher(model, monkeypatch) -> None:
    used = []

    def spy(*args, backend, **kwargs) -> torch.Tensor:
        used.append(backend)
        return dispatch(*args, backend=backend, **kwargs)

    from ltx_diffusers.models.transformers import attention_ltx

    dispatch = attention_ltx.dispatch_attention_fn
    monkeypatch.setattr(attention_ltx, "dispatch_attention_fn", spy)
    with attention_backend("_native_math"):
        model(**tiny_inputs(), **on_grid())
    assert set(used) == {None}
    used.clear()
    model.set_attention_backend("native")
    model(**tiny_inputs(), **on_grid())
    assert used == ["native"] * 2 * TINY["num_layers"]


def test_a_processor_can_be_replaced(model) -> None:
    class Nothing(LTXAttnProcessor):
        def __call__(self, attn, hidden_states, *args, **kwargs) -> torch.Tensor:
            return torch.zeros_like(hidden_states)

    assert len(model.attn_processors) == 2 * TINY["num_layers"]
    model.set_attn_processor(Nothing())
    inputs = {**tiny_inputs(), **on_grid()}
    text = torch.zeros_like(inputs["encoder_hidden_states"])
    assert torch.equal(model(**inputs)[0], model(**{**inputs, "encoder_hidden_states": text})[0])


def test_compiles_without_graph_breaks(model) -> None:
    torch._dynamo.reset()
    inputs = {**tiny_inputs("per token"), **on_grid()}
    expected = model(**inputs)[0]
    compiled = copy.deepcopy(model)
    compiled.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert relative_error(compiled(**inputs)[0], expected) < 1e-6
    whole = torch.compile(model, fullgraph=True, backend="eager")
    assert relative_error(whole(**inputs)[0], expected) < 1e-6


REFUSED = {
    "channels": ({"hidden_states": torch.zeros(2, 24, 9)}, "hidden_states"),
    "not packed": ({"hidden_states": torch.zeros(2, 8, 3, 2, 4)}, "hidden_states"),
    "text channels": ({"encoder_hidden_states": torch.zeros(2, 6, 31)}, "encoder_hidden_states"),
    "text batch": ({"encoder_hidden_states": torch.zeros(1, 6, 32)}, "encoder_hidden_states"),
    "grid of other length": ({"num_frames": 4}, "coordinates"),
    "coordinates of other length": ({"video_coords": torch.zeros(2, 3, 23)}, "coordinates"),
    "coordinates transposed": ({"video_coords": torch.zeros(2, 24, 3)}, "coordinates"),
    "coordinates of other batch": ({"video_coords": torch.zeros(3, 3, 24)}, "coordinates"),
    "no grid": ({"width": None}, "where the tokens are"),
    "no rate": ({"rope_interpolation_scale": None}, "neither"),
    "two rates": ({"frame_rate": 24.0}, "both"),
    "no positive rate": ({"rope_interpolation_scale": None, "frame_rate": 0.0}, "positive"),
    "timesteps of other batch": ({"timestep": torch.zeros(3)}, "timesteps"),
    "timesteps of other length": ({"timestep": torch.zeros(2, 23)}, "timesteps"),
    "timestep without batch": ({"timestep": torch.tensor(1.0)}, "timesteps"),
    "mask of other length": ({"encoder_attention_mask": torch.ones(2, 5)}, "encoder_attention_mask"),
    "mask of other batch": ({"encoder_attention_mask": torch.ones(1, 6)}, "encoder_attention_mask"),
    "mask as bias": ({"encoder_attention_mask": torch.ones(2, 1, 6).long()}, "encoder_attention_mask"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_do_not_fit_are_refused(model, case) -> None:
    changes, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        model(**{**tiny_inputs(), **on_grid(), **changes})


@pytest.mark.parametrize("changes", [{"cross_attention_dim": 63}, {"qk_norm": "layer_norm"}])
def test_settings_that_do_not_fit_are_refused(changes) -> None:
    with pytest.raises(InputError):
        LTXTransformer3DModel(**{**TINY, **changes})


def test_causal_rule_needs_tokens_of_one_latent_frame() -> None:
    model = LTXTransformer3DModel(**TINY, patch_size_t=2, causal_temporal_positioning=True)
    with pytest.raises(InputError, match="patch_size_t"):
        model(**tiny_inputs(), **on_grid())
