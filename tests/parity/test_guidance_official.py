"""Perturbed self-attention against the official transformer, with rows perturbed by hand-made masks."""

from __future__ import annotations

import pytest
import torch
from helpers.transformers import FRAME_RATE, GRID, OFFICIAL, TINY, relative_error, tiny_inputs

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.functional.coordinates import video_coordinates
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.models.transformers.perturbation import MODES, Perturbation

transformer3d = pytest.importorskip("ltx_video.models.transformers.transformer3d")
Strategy = pytest.importorskip("ltx_video.utils.skip_layer_strategy").SkipLayerStrategy

STRATEGIES = {
    "attention-values": Strategy.AttentionValues,
    "attention-skip": Strategy.AttentionSkip,
    "transformer-block": Strategy.TransformerBlock,
}
RENAMES = (
    ("proj_in", "patchify_proj"),
    ("time_embed", "adaln_single"),
    ("norm_q", "q_norm"),
    ("norm_k", "k_norm"),
)


@pytest.fixture
def models() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Ours and the official one with the same weights."""
    ours = LTXTransformer3DModel(**TINY).eval()
    official = transformer3d.Transformer3DModel(**TINY, **OFFICIAL).eval()
    weights = ours.state_dict()
    for new, old in RENAMES:
        weights = {key.replace(new, old): value for key, value in weights.items()}
    official.load_state_dict(weights)
    return ours, official


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("blocks", [(1,), (0, 2)])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("timesteps", ["per sample", "per token"])
@torch.no_grad()
def test_perturbed_rows(models, mode: str, blocks: tuple[int, ...], rows: int, timesteps: str) -> None:
    ours, official = models
    inputs = tiny_inputs(timesteps)
    coords = video_coordinates(VideoSize(*GRID), batch_size=2, frame_rate=FRAME_RATE, causal=True)
    output = ours(
        **inputs, video_coords=coords, perturbation=Perturbation(blocks, mode), perturbed_rows=rows
    )[0]
    mask = torch.ones(TINY["num_layers"], 2)
    mask[list(blocks), 2 - rows :] = 0
    expected = official(
        **{**inputs, "timestep": inputs["timestep"] / 1000},
        indices_grid=coords,
        skip_layer_mask=mask,
        skip_layer_strategy=STRATEGIES[mode],
    )[0]
    assert relative_error(output, expected) < 1e-5
    plain = ours(**inputs, video_coords=coords)[0]
    assert relative_error(output[-rows:], plain[-rows:]) > 1e-3
    if rows == 1:
        assert relative_error(output[:1], plain[:1]) < 1e-6
