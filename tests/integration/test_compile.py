"""`torch.compile` on our models: no graph break, no needless second compilation, the same numbers."""

from __future__ import annotations

import pytest
import torch
from helpers.autoencoders import noise_levels, tiny_autoencoder
from helpers.transformers import TINY, on_grid, tiny_inputs
from PIL import Image
from tiny import tiny_components

from ltx_diffusers import LTXImageToVideoPipeline, LTXPipeline, LTXTransformer3DModel
from ltx_diffusers.pipelines.speed import compile_blocks, leave_uncompiled


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


def test_the_transformer_is_one_graph(model):
    """With coordinates computed in it, and a timestep for each token."""
    inputs = {**tiny_inputs("per token"), **on_grid()}
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


@pytest.mark.parametrize("kind", [LTXPipeline, LTXImageToVideoPipeline])
def test_blocks_are_compiled_once_for_all_sizes_and_steps(kind):
    """With guidance, a first frame's levels for each token, and the text's keys and values kept or not yet."""
    pipeline = kind(**tiny_components(causal=True))
    pipeline.set_progress_bar_config(disable=True)
    call = {"prompt": "a", "num_inference_steps": 3, "output_type": "latent"}
    if kind is LTXImageToVideoPipeline:
        call["image"] = Image.new("RGB", (64, 64), (200, 40, 40))
    sizes = [(64, 64, 9), (96, 64, 17)]

    def videos() -> list[torch.Tensor]:
        return [
            pipeline(
                **call,
                height=height,
                width=width,
                num_frames=frames,
                generator=torch.Generator().manual_seed(0),
            ).frames
            for height, width, frames in sizes
        ]

    expected = videos()
    graphs = Graphs()
    compile_blocks(pipeline.transformer, backend=graphs)
    for made, plain in zip(videos(), expected, strict=True):
        torch.testing.assert_close(made, plain, rtol=1e-4, atol=1e-5)
    assert graphs.count == 1
    leave_uncompiled(pipeline.transformer)
    torch._dynamo.reset()
    assert torch.equal(videos()[0], expected[0])
    assert graphs.count == 1


@pytest.mark.parametrize("kind", [LTXPipeline, LTXImageToVideoPipeline])
def test_a_pipeline_compiles_its_transformer_once(kind):
    """Neither another step nor another call needs another graph."""
    pipeline = kind(**tiny_components(causal=True))
    pipeline.set_progress_bar_config(disable=True)
    call = {"prompt": "a", "height": 64, "width": 64, "num_frames": 9, "output_type": "latent"}
    if kind is LTXImageToVideoPipeline:
        call["image"] = torch.rand(3, 64, 64)

    def video(steps: int) -> torch.Tensor:
        return pipeline(**call, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).frames

    expected = video(3)
    graphs = Graphs()
    pipeline.transformer.compile(backend=graphs, fullgraph=True)
    torch.testing.assert_close(video(3), expected)
    video(2)
    assert graphs.count == 1


def test_both_halves_of_the_vae_are_one_graph_each():
    vae = tiny_autoencoder("0.9.5")
    video, levels = torch.rand(1, 3, 9, 64, 64) * 2 - 1, noise_levels("0.9.5", 1)
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
