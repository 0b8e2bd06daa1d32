"""What Diffusers' LTX pipelines do on several processes. Ours: tests/pipelines/test_many_processes.py."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, LTXImageToVideoPipeline, LTXPipeline
from helpers.processes import run_on
from PIL import Image
from tiny import tiny_components

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="shares out over CPU processes")

CALLS = {
    "no accelerator": (LTXPipeline, {"ulysses_degree": 2}, {}),
    "text": (LTXPipeline, {"ulysses_degree": 2}, {}),
    "text, ring": (LTXPipeline, {"ring_degree": 2}, {}),
    "text, odd": (LTXPipeline, {"ulysses_degree": 2}, {"height": 32}),
    "image": (LTXImageToVideoPipeline, {"ulysses_degree": 2}, {"image": Image.new("RGB", (96, 64))}),
}


def failures(rank: int) -> dict[str, str]:
    dist.init_process_group("gloo")
    found = {}
    for name, (kind, config, changes) in CALLS.items():
        pipe = kind(**tiny_components(ours=False))
        pipe.set_progress_bar_config(disable=True)
        size = {"height": 64, "width": 96, "num_frames": 17}
        common = {"max_sequence_length": 8, "num_inference_steps": 1, "output_type": "latent"}
        try:
            pipe.transformer.enable_parallelism(config=ContextParallelConfig(**config))
            pipe(prompt="a square", **size | common | changes)
        except (RuntimeError, ValueError, AssertionError, ZeroDivisionError) as error:
            found[name] = f"{type(error).__name__}: {error}"
        torch.accelerator.device_count = lambda: 1  # it divides by their number
    return found


def test_diffusers_pipelines_fail_on_several_processes() -> None:
    for found in run_on(2, failures):
        assert set(found) == set(CALLS)
        assert "modulo by zero" in found["no accelerator"]
        # The mask of the text is expanded to all heads, of which each process has a part.
        assert "doesn't match the broadcast shape" in found["text"]
        assert "return_lse" in found["text, ring"]
        assert "must be divisible" in found["text, odd"]
        # Timesteps of all tokens meet the process's share of them.
        assert "must match the size" in found["image"]
