"""The transformer against Diffusers' and, where Diffusers is wrong, against the official package."""

from __future__ import annotations

import pytest
import torch
from diffusers import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_ltx import LTXVideoRotaryPosEmbed, apply_rotary_emb
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline as DiffusersPipeline
from helpers.transformers import (
    FRAME_RATE,
    GRID,
    OFFICIAL,
    SCALE,
    TIMESTEPS,
    TINY,
    on_grid,
    relative_error,
    tiny_inputs,
)

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.functional.coordinates import scaled_coordinates, video_coordinates
from ltx_diffusers.functional.latents import (
    denormalize_latents,
    normalize_latents,
    pack_latents,
    unpack_latents,
)
from ltx_diffusers.functional.rope import apply_rotary, rotary_embedding
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.models.transformers.released import RELEASED

TOLERANCE = 1e-5
SIZE = VideoSize(*GRID)


def pair(**settings) -> tuple[LTXTransformer3DModel, LTXVideoTransformer3DModel]:
    """Our model and Diffusers' with the same random weights."""
    theirs = LTXVideoTransformer3DModel(**TINY, **settings)
    ours = LTXTransformer3DModel(**TINY, **settings)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def run(model: torch.nn.Module, **inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Output, and gradients of a loss by all parameters and by tokens and text."""
    for name in ("hidden_states", "encoder_hidden_states"):
        inputs[name] = inputs[name].clone().requires_grad_()
    output = model(**inputs)[0]
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name in ("hidden_states", "encoder_hidden_states"):
        gradients[name] = inputs[name].grad
    return output.detach(), gradients


def assert_same_results(ours: torch.nn.Module, theirs: torch.nn.Module, **inputs) -> None:
    output, gradients = run(ours, **inputs)
    expected, expected_gradients = run(theirs, **inputs)
    assert relative_error(output, expected) < TOLERANCE
    assert gradients.keys() == expected_gradients.keys()
    # Of the whole gradient, and of each parameter: biases of keys have none but rounding.
    total = torch.stack([g.norm() for g in expected_gradients.values()]).norm()
    for name, expected_gradient in expected_gradients.items():
        error = (gradients[name] - expected_gradient).norm()
        assert error < max(TOLERANCE * expected_gradient.norm(), 1e-7 * total), name


@pytest.mark.parametrize("name", RELEASED)
def test_released_models_have_the_tensors_of_diffusers(name) -> None:
    with torch.device("meta"):
        ours, theirs = LTXTransformer3DModel(**RELEASED[name]), LTXVideoTransformer3DModel(**RELEASED[name])
    shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("coords", ["given", "computed"])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("timesteps", TIMESTEPS)
def test_outputs_and_gradients_are_those_of_diffusers(timesteps, mask, coords, checkpointing) -> None:
    ours, theirs = pair()
    if checkpointing:
        ours.enable_gradient_checkpointing()
    where = on_grid()
    if coords == "given":
        where = {"video_coords": video_coordinates(SIZE, batch_size=2, frame_rate=FRAME_RATE, causal=True)}
    assert_same_results(ours, theirs, **tiny_inputs(timesteps, mask), **where)


@pytest.mark.parametrize(
    "settings",
    [
        {"norm_elementwise_affine": True, "norm_eps": 1e-3},
        {"attention_bias": False, "attention_out_bias": False},
        {"activation_fn": "geglu"},
    ],
)
def test_other_settings_mean_the_same(settings) -> None:
    ours, theirs = pair(**settings)
    for model in (ours, theirs):
        for name, parameter in model.named_parameters():
            if ".norm" in name:  # norms start at 1, where a missing weight would not show
                parameter.data.copy_(torch.linspace(0.5, 1.5, parameter.numel()))
    assert_same_results(ours, theirs, **tiny_inputs(), **on_grid())


def test_half_precision_is_as_near_to_fp32_as_diffusers() -> None:
    ours, theirs = pair()
    inputs = {**tiny_inputs("per token"), **on_grid()}
    expected = theirs(**inputs)[0]
    low = {k: v.bfloat16() if k.endswith("hidden_states") else v for k, v in inputs.items()}
    errors = [relative_error(model.bfloat16()(**low)[0].float(), expected) for model in (ours, theirs)]
    assert errors[0] < 1.2 * errors[1]


def test_each_class_loads_what_the_other_saved(tmp_path) -> None:
    ours, theirs = pair()
    inputs = {**tiny_inputs(), **on_grid()}
    expected = theirs(**inputs)[0]
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    for cls, folder in ((LTXVideoTransformer3DModel, "ours"), (LTXTransformer3DModel, "theirs")):
        loaded, info = cls.from_pretrained(tmp_path / folder, output_loading_info=True)
        assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert relative_error(loaded(**inputs)[0], expected) < TOLERANCE
        assert {key: loaded.config[key] for key in TINY} == TINY


def test_diffusers_does_not_know_the_causal_rule() -> None:
    """Called alike, a causal model gives another result than Diffusers': the rule can be seen in the output."""
    _, theirs = pair()
    causal = LTXTransformer3DModel(**TINY, causal_temporal_positioning=True)
    causal.load_state_dict(theirs.state_dict())
    inputs = {**tiny_inputs(), **on_grid()}
    assert relative_error(causal(**inputs)[0], theirs(**inputs)[0]) > 1e-3


def test_packing_and_normalisation_are_those_of_diffusers() -> None:
    latents = torch.randn(2, 3, 4, 4, 6)
    mean, std = torch.randn(3), torch.rand(3) + 0.5
    for patches in ((1, 1), (2, 1), (2, 2)):
        tokens = pack_latents(latents, *patches)
        assert torch.equal(tokens, DiffusersPipeline._pack_latents(latents, *patches))
        grid = (4 // patches[1], 4 // patches[0], 6 // patches[0])
        theirs = DiffusersPipeline._unpack_latents(tokens, *grid, *patches)
        assert torch.equal(unpack_latents(tokens, 4, 4, 6, *patches), theirs)
    theirs = DiffusersPipeline._normalize_latents(latents, mean, std, 0.7)
    torch.testing.assert_close(normalize_latents(latents, mean, std, 0.7), theirs)
    theirs = DiffusersPipeline._denormalize_latents(latents, mean, std, 0.7)
    torch.testing.assert_close(denormalize_latents(latents, mean, std, 0.7), theirs)


def test_rotary_embedding_is_that_of_diffusers() -> None:
    coords = video_coordinates(SIZE, batch_size=2, frame_rate=FRAME_RATE, causal=True)
    x = torch.randn(2, 24, 64)
    rope = LTXVideoRotaryPosEmbed(64)
    ours = rotary_embedding(coords, 64)
    for mine, theirs in zip(ours, rope(x, video_coords=coords), strict=True):
        assert torch.equal(mine, theirs)
    computed = rotary_embedding(scaled_coordinates(SIZE, SCALE, batch_size=2), 64)
    for mine, theirs in zip(computed, rope(x, *GRID, SCALE), strict=True):
        assert torch.equal(mine, theirs)
    torch.testing.assert_close(apply_rotary(x, *ours), apply_rotary_emb(x, ours), rtol=0, atol=1e-6)


class TestOfficial:
    """Against `ltx_video`, the package of the model's authors."""

    RENAMES = (
        ("patchify_proj", "proj_in"),
        ("adaln_single", "time_embed"),
        ("q_norm", "norm_q"),
        ("k_norm", "norm_k"),
    )

    @pytest.fixture
    def official(self) -> torch.nn.Module:
        transformer3d = pytest.importorskip("ltx_video.models.transformers.transformer3d")
        return transformer3d.Transformer3DModel(**TINY, **OFFICIAL)

    @staticmethod
    def tokens_and_coordinates(latents: torch.Tensor, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
        patchifier = pytest.importorskip("ltx_video.models.transformers.symmetric_patchifier")
        vae_encode = pytest.importorskip("ltx_video.models.autoencoders.vae_encode")
        tokens, indices = patchifier.SymmetricPatchifier(1).patchify(latents)
        coords = vae_encode.latent_to_pixel_coords_from_factors(indices, (8, 32, 32), causal).float()
        coords[:, 0] = coords[:, 0] * (1.0 / FRAME_RATE)
        return tokens, coords

    @pytest.mark.parametrize("causal", [False, True])
    def test_tokens_and_coordinates(self, causal) -> None:
        latents = torch.randn(2, 8, *GRID)
        tokens, coords = self.tokens_and_coordinates(latents, causal)
        assert torch.equal(pack_latents(latents), tokens)
        ours = video_coordinates(SIZE, batch_size=2, frame_rate=FRAME_RATE, causal=causal)
        torch.testing.assert_close(ours, coords, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("where", ["frame_rate", "rope_interpolation_scale", "video_coords"])
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("timesteps", ["per sample", "per token"])
    def test_outputs_and_gradients(self, official, timesteps, causal, where) -> None:
        weights = official.state_dict()
        for old, new in self.RENAMES:
            weights = {key.replace(old, new): value for key, value in weights.items()}
        ours = LTXTransformer3DModel(**TINY, causal_temporal_positioning=causal)
        ours.load_state_dict(weights)

        tokens, coords = self.tokens_and_coordinates(torch.randn(2, 8, *GRID), causal)
        inputs = {**tiny_inputs(timesteps), "hidden_states": tokens}
        grid = dict(zip(("num_frames", "height", "width"), GRID, strict=True))
        told = {
            "frame_rate": {"frame_rate": FRAME_RATE, **grid},
            "rope_interpolation_scale": {"rope_interpolation_scale": SCALE, **grid},
            "video_coords": {"video_coords": coords},
        }[where]
        output, gradients = run(ours, **inputs, **told)
        expected, expected_gradients = run(
            official, **{**inputs, "timestep": inputs["timestep"] / 1000}, indices_grid=coords
        )
        assert relative_error(output, expected) < TOLERANCE
        for old, new in self.RENAMES:
            expected_gradients = {k.replace(old, new): v for k, v in expected_gradients.items()}
        assert gradients.keys() == expected_gradients.keys()
        everything = [torch.cat([g[k].flatten() for k in gradients]) for g in (gradients, expected_gradients)]
        assert relative_error(*everything) < TOLERANCE
