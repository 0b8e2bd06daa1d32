"""The plain script makes on two processes what one call makes, and writes it once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import run_on
from PIL import Image
from tiny import tiny_components

from ltx_diffusers import LTXImageToVideoPipeline, LTXPipeline

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="shares out over CPU processes")

SCRIPT = Path(__file__).parents[2] / "examples" / "parallel_inference.py"
SIZE = ["--width", "96", "--height", "32", "--frames", "17", "--steps", "2", "--seed", "3"]


def run_script(rank: int, words: list[str]) -> None:
    spec = importlib.util.spec_from_file_location("parallel_inference_example", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(["a red circle", *words, *SIZE])


def frames_in(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]).astype(int)


def test_two_processes_make_the_video_of_one(tmp_path: Path) -> None:
    LTXPipeline(**tiny_components(causal=True)).save_pretrained(tmp_path / "model")
    pixels = np.linspace(0, 255, 32 * 96 * 3).reshape(32, 96, 3).astype(np.uint8)
    first = tmp_path / "first.png"
    Image.fromarray(pixels).save(first)
    ways = {"text": ["--cfg", "2"], "image": ["--ulysses", "2", "--image", str(first)]}
    given = {"text": {}, "image": {"image": Image.fromarray(pixels)}}
    for name, pipeline in (("text", LTXPipeline), ("image", LTXImageToVideoPipeline)):
        where = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / name)]
        run_on(2, run_script, ways[name] + where)
        pipe = pipeline.from_pretrained(tmp_path / "model")
        alone = pipe(
            prompt="a red circle",
            width=96,
            height=32,
            num_frames=17,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
            **given[name],
        ).frames[0]
        made = frames_in(tmp_path / name)
        assert made.shape == (17, 32, 96, 3)
        assert np.abs(made - (alone * 255).round()).max() <= 1  # rounding to bytes
        assert made.std() > 1
