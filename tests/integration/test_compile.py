"""`torch.compile` on our models: no graph break, no needless second compilation, the same numbers."""

from __future__ import annotations

import pytest
import torch
from helpers.autoencoders import noise_levels, tiny_autoencoder
from helpers.transformers import TINY, on_grid, tiny_inputs

from ltx_diffusers import LTXTransformer3DModel


class Graphs:
    """A backend that runs graphs as they are and counts them: quick, since it generates no code."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, example_inputs: list[torch.Tensor]):
        self.count += 1
        return graph.forward


@pytest.fixture(autouse=True)
def forget_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def model() -> LTXTransformer3DModel:
    return LTXTransformer3DModel(**TINY, causal_temporal_positioning=True).eval()


@pytest.mark.parametrize("timesteps", ["per sample", "per token"])
def test_the_transformer_is_one_graph(model, timesteps):
    inputs = {**tiny_inputs(timesteps), **on_grid()}
    graphs = Graphs()
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(**inputs)[0], model(**inputs)[0])
            inputs["hidden_states"] = torch.randn_like(inputs["hidden_states"])
            inputs["timestep"] = inputs["timestep"] / 2
    assert graphs.count == 1


def test_repeated_blocks_are_compiled_once(model):
    inputs = {**tiny_inputs(), **on_grid()}
    expected = model(**inputs)[0]
    graphs = Graphs()
    model.compile_repeated_blocks(backend=graphs, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs)[0], expected)
    assert TINY["num_layers"] > 1
    assert graphs.count == 1


@pytest.mark.parametrize("version", ["0.9.0", "0.9.5"])
def test_both_halves_of_the_vae_are_one_graph_each(version):
    vae = tiny_autoencoder(version)
    video, levels = torch.rand(1, 3, 9, 64, 64) * 2 - 1, noise_levels(version, 1)
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()
        expected = vae.decode(latents, levels).sample
        graphs = {"encoder": Graphs(), "decoder": Graphs()}
        for name, backend in graphs.items():
            getattr(vae, name).compile(backend=backend, fullgraph=True)
        for _ in range(2):
            torch.testing.assert_close(vae.encode(video).latent_dist.mode(), latents)
            torch.testing.assert_close(vae.decode(latents, levels).sample, expected)
    assert {name: backend.count for name, backend in graphs.items()} == {"encoder": 1, "decoder": 1}


@pytest.mark.slow
@pytest.mark.parametrize("blocks_only", [False, True], ids=["whole", "repeated blocks"])
def test_generated_code_gives_the_same(model, blocks_only):
    inputs = {**tiny_inputs("per token"), **on_grid()}
    expected = model(**inputs)[0]
    if blocks_only:
        model.compile_repeated_blocks(fullgraph=True)
    else:
        model.compile(fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs)[0], expected, atol=1e-4, rtol=1e-4)
