"""The embedded model: what it has to be, and that it makes what a prompt asks for."""

import json

import numpy as np
import pytest
import torch

from ltx_diffusers import LTXImageToVideoPipeline, LTXPipeline
from ltx_diffusers.data.moving_shapes import render, sample_spec
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.evaluation.judge import ShapesJudge


@pytest.fixture(scope="module")
def pipeline() -> LTXPipeline:
    pipe = LTXPipeline.from_pretrained(embedded_model_path(), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_small_and_has_a_card():
    folder = embedded_model_path()
    weights = list(folder.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in weights) <= 24e6
    assert (folder / "README.md").read_text().startswith("---")
    index = json.loads((folder / "model_index.json").read_text())
    assert {"transformer", "vae", "text_encoder", "tokenizer", "scheduler"} <= set(index)


def test_its_configs_name_no_place_on_a_disk():
    for path in embedded_model_path().rglob("*.json"):
        assert "_name_or_path" not in json.loads(path.read_text()), path


def test_it_has_the_structure_of_the_large_models(pipeline):
    assert tuple(pipeline.ratios) == (8, 32, 32)
    assert pipeline.vae.config.timestep_conditioning
    assert pipeline.transformer.config.causal_temporal_positioning
    assert pipeline.vae.config.latent_channels == pipeline.transformer.config.in_channels == 128


def test_colors_and_motions_are_those_of_the_prompts(pipeline):
    prompts = {
        "a red circle moving right on a black background": ("red", "right"),
        "a blue square moving left on a white background": ("blue", "left"),
        "a green circle moving up on a black background": ("green", "up"),
        "a yellow circle growing on a black background": ("yellow", "grow"),
    }
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    videos = pipeline(list(prompts), generator=generators, output_type="np").frames
    assert videos.shape == (4, 17, 96, 96, 3)
    readings = [ShapesJudge().read(video) for video in videos]
    right = sum((r.color, r.motion) == wanted for r, wanted in zip(readings, prompts.values(), strict=True))
    assert right >= 3, readings


def test_the_first_frame_is_kept(pipeline):
    spec = sample_spec(np.random.default_rng(0))
    image = render(spec, 17, 96, 96)[0]
    generator = torch.Generator().manual_seed(0)
    animate = LTXImageToVideoPipeline.from_pipe(pipeline)
    animate.set_progress_bar_config(disable=True)
    video = animate(
        image=torch.from_numpy(image).permute(2, 0, 1)[None],
        prompt=f"a {spec.color} {spec.shape} moving left",
        generator=generator,
        output_type="np",
    ).frames[0]
    error = np.square(video[0] - image).mean()
    plain = np.square(image.mean((0, 1)) - image).mean()
    assert error < 0.15 * plain
