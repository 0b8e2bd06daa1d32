"""The passes of a guidance in few runs of the model, against a run of its own for each."""

from __future__ import annotations

import pytest
import torch
from helpers.transformers import FRAME_RATE, GRID, TINY

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.denoising.guidance import ClassifierFreeGuidance, Pass, SpatioTemporalGuidance
from ltx_diffusers.denoising.guidance.base import ConstantGuidance
from ltx_diffusers.denoising.state import at_noise_level, from_noise
from ltx_diffusers.denoising.velocity import GuidedVelocity, TextFeatures
from ltx_diffusers.functional.coordinates import Placement
from ltx_diffusers.models.transformers.perturbation import Perturbation

VALUES, SKIP = Perturbation((1,)), Perturbation((0, 2), "attention-skip")


class Keeping(ConstantGuidance):
    """Keeps the predictions it is given, in its passes' order."""

    def __init__(self, *passes: Pass) -> None:
        self.passes = passes

    def combine(self, predictions):
        self.predictions = predictions
        return predictions[0]


GUIDANCES = {
    "text": (ClassifierFreeGuidance(3.0).passes, [4]),
    "one perturbation": (SpatioTemporalGuidance(3.0, stg_blocks=(1,)).passes, [6]),
    "perturbed first": ((Pass("positive", VALUES), Pass("positive")), [4]),
    "two perturbations": ((Pass("positive", SKIP), Pass("negative", VALUES), Pass("negative")), [4, 2]),
    "all perturbed": ((Pass("positive", SKIP), Pass("negative", SKIP)), [4]),
}


@pytest.mark.parametrize("name", GUIDANCES)
@torch.no_grad()
def test_few_runs_give_what_a_run_for_each_pass_gives(name: str) -> None:
    passes, batches = GUIDANCES[name]
    transformer = LTXTransformer3DModel(**TINY).eval()
    placement = Placement(FRAME_RATE, causal=True)
    state = at_noise_level(from_noise(torch.randn(2, 8, *GRID), placement), 1.0)
    texts = {text: TextFeatures(torch.randn(2, 6, 32), torch.ones(2, 6)) for text in ("positive", "negative")}
    timestep = torch.tensor([700.0, 300.0])

    seen = []
    transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    keeping = Keeping(*passes)
    GuidedVelocity(transformer, texts, keeping)(state, timestep)
    assert seen == batches
    for run, prediction in zip(passes, keeping.predictions, strict=True):
        alone = Keeping(run)
        GuidedVelocity(transformer, texts, alone)(state, timestep)
        torch.testing.assert_close(prediction, alone.predictions[0], rtol=1e-4, atol=1e-5)
