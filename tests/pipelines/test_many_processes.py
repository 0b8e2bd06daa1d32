"""Whole calls whose work two processes share give what one process gives."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from helpers.processes import run_on
from PIL import Image
from tiny import tiny_components
from torch.distributed.device_mesh import init_device_mesh

from ltx_diffusers import (
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXLongVideoPipeline,
    LTXPipeline,
)
from ltx_diffusers.denoising.guidance import SpatioTemporalGuidance
from ltx_diffusers.errors import InputError

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="shares out over CPU processes")

WAYS = {
    "ulysses": {"config": {"ulysses_degree": 2}},
    "ring": {"config": {"ring_degree": 2}},
    "cfg": {"cfg_degree": 2},
}

EVEN = {"height": 64, "width": 96, "num_frames": 17}
ODD = {"height": 32, "width": 96, "num_frames": 17}
"""18 and 9 tokens."""

COMMON = {
    "negative_prompt": "black wall",
    "num_inference_steps": 3,
    "frame_rate": 25,
    "guidance_scale": 3.0,
    "max_sequence_length": 7,
}


LONG = {"prompt": "a red circle", "num_frames": 25, "window_frames": 17, "overlap_frames": 9}


def picture(width: int, height: int) -> Image.Image:
    pixels = torch.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def calls() -> dict[str, tuple]:
    """Pipelines and what they are called with; a batch of prompts of different lengths, so that masks count."""
    prompts = ["a red circle moves left on the white wall", "a square"]
    guidance = SpatioTemporalGuidance(scale=3.0, stg_scale=1.0, stg_blocks=(1,))
    return {
        "text, batch": (LTXPipeline, EVEN | {"prompt": prompts}),
        "text, odd": (LTXPipeline, ODD | {"prompt": "a blue triangle"}),
        "text, no guidance": (LTXPipeline, EVEN | {"prompt": "a blue triangle", "guidance_scale": 1.0}),
        "image, batch": (LTXImageToVideoPipeline, EVEN | {"prompt": prompts, "image": picture(96, 64)}),
        "image, odd": (LTXImageToVideoPipeline, ODD | {"prompt": "a circle", "image": picture(96, 32)}),
        "perturbed, weak image": (
            LTXConditionPipeline,
            EVEN | {"prompt": "a square", "image": picture(96, 64), "strength": 0.6, "guidance": guidance},
        ),
        "long": (LTXLongVideoPipeline, ODD | LONG),
    }


def latents(
    pipeline: type,
    call: dict,
    transformer_setup: dict | None = None,
    seed: int | None = 5,
    speed: str = "exact",
) -> torch.Tensor:
    made = pipeline(**tiny_components(causal=True, statistics=True))
    made.set_progress_bar_config(disable=True)
    made.set_speed(speed)
    if transformer_setup is not None:
        setup = dict(transformer_setup)
        if "config" in setup:
            setup["config"] = ContextParallelConfig(**setup["config"])
        made.transformer.enable_parallelism(**setup)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return made(**COMMON | call, generator=generator, output_type="latent").frames


def share(rank: int) -> dict:
    dist.init_process_group("gloo")
    found = {
        (name, way): latents(*call, setup).tolist()
        for name, call in calls().items()
        for way, setup in WAYS.items()
    }
    name = "text, odd"
    # Each process draws otherwise, and the sampler draws at each step.
    torch.manual_seed(rank)
    noisy = (LTXConditionPipeline, calls()[name][1] | {"sampler": "stochastic"})
    found["unseeded"] = [latents(*noisy, setup, seed=None).tolist() for setup in WAYS.values()]
    torch.manual_seed(11)
    found["seeded globally"] = latents(*noisy, WAYS["ring"], seed=None).tolist()
    messages = []
    speed = ("exact", "fast")[rank]
    for changes, settings in (
        ({}, {"seed": rank}),
        ({"num_inference_steps": 3 + rank}, {}),
        ({}, {"speed": speed}),
    ):
        with pytest.raises(InputError) as caught:
            latents(LTXPipeline, calls()[name][1] | changes, WAYS["cfg"], **settings)
        messages.append(str(caught.value))
    long = LTXLongVideoPipeline(**tiny_components(causal=True))
    long.vae.enable_parallel_decoding()
    with pytest.raises(InputError, match="resume_folder"):
        long.stream(**COMMON | ODD | LONG, resume_folder="not made")
    return found | {"messages": messages}


def test_two_processes_give_what_one_gives() -> None:
    first, second = run_on(2, share)
    for name, call in calls().items():
        alone = latents(*call)
        assert alone.std() > 0.1
        for way in WAYS:
            torch.testing.assert_close(torch.tensor(first[name, way]), alone, rtol=1e-5, atol=1e-5)
            # To the bit, or processes would drift apart.
            assert first[name, way] == second[name, way]
    assert first["unseeded"] == second["unseeded"]
    torch.manual_seed(11)
    alone = latents(LTXConditionPipeline, calls()["text, odd"][1] | {"sampler": "stochastic"}, seed=None)
    torch.testing.assert_close(torch.tensor(first["seeded globally"]), alone, rtol=1e-5, atol=1e-5)
    assert first["messages"] == second["messages"]
    assert "different generator" in first["messages"][0]
    assert "different num_inference_steps" in first["messages"][1]
    assert "different speed" in first["messages"][2]


def share_both(rank: int) -> dict:
    dist.init_process_group("gloo")
    both = {"config": {"ring_degree": 2}, "cfg_degree": 2}
    names = "image, odd", "perturbed, weak image"
    found = {name: latents(*calls()[name], both).tolist() for name in names}
    # Two pairs of processes that make videos of their own.
    mesh = init_device_mesh("cpu", (2, 1, 2), mesh_dim_names=("videos", "ring", "ulysses"))
    pair = {"config": {"ulysses_degree": 2, "mesh": mesh}}
    return found | {"pairs": latents(*calls()["text, odd"], pair, seed=rank // 2).tolist()}


def test_four_processes_share_passes_and_tokens() -> None:
    found = run_on(4, share_both)
    for name in ("image, odd", "perturbed, weak image"):
        alone = latents(*calls()[name])
        torch.testing.assert_close(torch.tensor(found[3][name]), alone, rtol=1e-5, atol=1e-5)
        assert all(each[name] == found[0][name] for each in found)
    for rank in range(4):
        alone = latents(*calls()["text, odd"], seed=rank // 2)
        torch.testing.assert_close(torch.tensor(found[rank]["pairs"]), alone, rtol=1e-5, atol=1e-5)
