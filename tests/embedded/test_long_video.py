"""A long video of the embedded model changes when its prompt does, without a jump."""

from __future__ import annotations

import numpy as np
import torch

from ltx_diffusers import LTXLongVideoPipeline
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.evaluation.judge import ShapesJudge


def test_a_circle_turns_when_it_is_told_to() -> None:
    pipe = LTXLongVideoPipeline.from_pretrained(embedded_model_path(), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    prompt = [
        (0, "a red circle moving left on a black background"),
        (2, "a red circle moving right on a black background"),
    ]
    video = pipe.stream(prompt, 33, num_inference_steps=20, generator=torch.Generator().manual_seed(1))
    frames = np.concatenate(list(video))
    judge = ShapesJudge()
    before, after, whole = judge.read(frames[:17]), judge.read(frames[16:]), judge.read(frames)
    assert [(read.shape, read.color, read.motion) for read in (before, after)] == [
        ("circle", "red", "left"),
        ("circle", "red", "right"),
    ]
    assert np.abs(np.diff(whole.track, axis=0)).max() < 0.06
