"""Pipelines that draw instead of denoising, so that an evaluation's figures are known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from diffusers.configuration_utils import FrozenDict

from ltx_diffusers.data.moving_shapes import COLORS, MOTIONS, SHAPES, ClipSpec, render
from ltx_diffusers.evaluation.shapes import ShapeCase

SIZE = {"default_num_frames": 9, "default_height": 64, "default_width": 64}


class DrawnPipeline:
    """Called like `LTXPipeline`; draws the clips of `cases`, found by the seeds of their generators.

    Args:
        cases: What it can draw.
        change: Applied to each clip's description before it is drawn; by index to get some wrong.
        noise: Standard deviation of Gaussian noise on the frames.
        image: Whether it takes first frames.
    """

    def __init__(
        self,
        cases: list[ShapeCase],
        change: Callable[[int, ClipSpec], ClipSpec] = lambda index, spec: spec,
        noise: float = 0.0,
        image: bool = False,
    ) -> None:
        self.cases = {case.seed: case for case in cases}
        self.change, self.noise, self.image = change, noise, image
        self.transformer = SimpleNamespace(config=SIZE)
        self.vae = ShiftingVAE()
        self.calls: list[dict] = []

    def __call__(self, **call) -> SimpleNamespace:
        assert ("image" in call) == self.image
        assert call["output_type"] == "np"
        self.calls.append(call)
        frames = []
        for number, generator in enumerate(call["generator"]):
            case = self.cases[generator.initial_seed()]
            assert call["prompt"][number] == case.prompt
            spec = self.change(case.index, case.spec)
            clip = render(spec, call["num_frames"], call["height"], call["width"])
            rng = np.random.default_rng(case.seed)
            frames.append(np.clip(clip + rng.normal(0, 1, clip.shape) * self.noise, 0, 1).astype(np.float32))
        return SimpleNamespace(frames=np.stack(frames))

    def set_progress_bar_config(self, **settings) -> None:
        pass

    def to(self, device: str) -> DrawnPipeline:
        return self


class ShiftingVAE:
    """A VAE whose latents are the video, and which decodes everything 0.1 too bright."""

    config = FrozenDict(timestep_conditioning=False, scaling_factor=1.0)
    device, dtype = torch.device("cpu"), torch.float32
    latents_mean, latents_std = torch.zeros(3), torch.ones(3)

    def encode(self, video: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: video))

    def decode(
        self, latents: torch.Tensor, temb: torch.Tensor | None, return_dict: bool
    ) -> tuple[torch.Tensor]:
        assert temb is None
        return (latents + 0.2,)


def wrong_everything(index: int, spec: ClipSpec) -> ClipSpec:
    """Another shape, colour and motion than those asked for, inside the frame."""
    shape = SHAPES[(SHAPES.index(spec.shape) + 1) % len(SHAPES)]
    color = list(COLORS)[(list(COLORS).index(spec.color) + 1) % len(COLORS)]
    motion = "grow" if spec.motion != "grow" else "still"
    assert motion in MOTIONS
    return replace(spec, shape=shape, color=color, motion=motion, start=(0.5, 0.5), travel=0.0)
