"""Diffusers' own loaders on what we save."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel
from tiny import tiny_components

from ltx_diffusers import (
    AutoencoderKLLTX,
    LTXFlowMatchScheduler,
    LTXLatentUpsampler,
    LTXPipeline,
    LTXTransformer3DModel,
)

OWN = {"transformer": LTXTransformer3DModel, "vae": AutoencoderKLLTX, "scheduler": LTXFlowMatchScheduler}
CALL = {"prompt": "a red circle", "height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[LTXPipeline, Path]:
    """A pipeline of ours and the folder that it was saved in."""
    pipeline = LTXPipeline(**tiny_components(timestep_conditioning=True, causal=True, statistics=True))
    folder = tmp_path_factory.mktemp("saved")
    pipeline.save_pretrained(folder)
    return pipeline, folder


def assert_same_weights(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def video(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**CALL, generator=torch.Generator().manual_seed(0), output_type="pt").frames


def test_once_our_package_is_imported_diffusers_finds_our_classes(saved):
    """In a new process. A component's own folder names no library, so there a class of ours must be in use first."""
    code = """
import sys
import ltx_diffusers
from diffusers import AutoModel, DiffusionPipeline
folder = sys.argv[1]
try:
    AutoModel.from_pretrained(folder + "/vae")
except ValueError as error:
    print(error)
print(type(AutoModel.from_pretrained(folder, subfolder="transformer")))
print(type(AutoModel.from_pretrained(folder + "/vae")))
pipeline = DiffusionPipeline.from_pretrained(folder)
print(type(pipeline))
print(*(type(getattr(pipeline, name)) for name in ("transformer", "vae", "scheduler")), sep="\\n")
"""
    run = subprocess.run([sys.executable, "-c", code, str(saved[1])], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    refusal, *classes = run.stdout.splitlines()
    assert "has no class `AutoencoderKLLTX`" in refusal
    found = [LTXTransformer3DModel, AutoencoderKLLTX, diffusers.LTXPipeline, *OWN.values()]
    assert classes == [str(kind) for kind in found]


@pytest.mark.parametrize("name", ["transformer", "vae"])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a pipeline"])
def test_auto_model(saved, name, alone):
    pipeline, folder = saved
    place = (str(folder / name), {}) if alone else (str(folder), {"subfolder": name})
    model = diffusers.AutoModel.from_pretrained(place[0], **place[1])
    assert type(model) is OWN[name]
    assert_same_weights(model, getattr(pipeline, name))
    fresh = diffusers.AutoModel.from_config(json.loads((folder / name / "config.json").read_text()))
    assert type(fresh) is OWN[name]


def test_diffusion_pipeline(saved):
    """Diffusers takes the pipeline's class from its own names, so its namesake of ours; the components are ours."""
    pipeline, folder = saved
    generic = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert type(generic) is diffusers.LTXPipeline
    for name, kind in OWN.items():
        assert type(getattr(generic, name)) is kind
    for name in ("transformer", "vae", "text_encoder"):
        assert_same_weights(getattr(generic, name), getattr(pipeline, name))


@pytest.mark.parametrize(
    "load",
    [
        LTXPipeline.from_pretrained,
        lambda folder: LTXPipeline.from_pipe(diffusers.DiffusionPipeline.from_pretrained(folder)),
    ],
    ids=["from_pretrained", "from_pipe"],
)
def test_the_documented_ways_to_our_pipeline(saved, load):
    pipeline, folder = saved
    loaded = load(folder)
    assert type(loaded) is LTXPipeline
    torch.testing.assert_close(video(loaded), video(pipeline), atol=1e-5, rtol=0)


def test_the_upsampler_in_diffusers_pipeline(saved, tmp_path):
    """Saved, found again with our VAE, and giving the video of Diffusers' own classes."""
    torch.manual_seed(0)
    theirs = LTXLatentUpsamplerModel(in_channels=8, mid_channels=32, num_blocks_per_stage=1).eval()
    ours = LTXLatentUpsampler(in_channels=8, mid_channels=32, num_blocks_per_stage=1).eval()
    ours.load_state_dict(theirs.state_dict())
    diffusers.LTXLatentUpsamplePipeline(vae=saved[0].vae, latent_upsampler=ours).save_pretrained(tmp_path)
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert type(loaded) is diffusers.LTXLatentUpsamplePipeline
    assert (type(loaded.vae), type(loaded.latent_upsampler)) == (AutoencoderKLLTX, LTXLatentUpsampler)
    assert type(diffusers.AutoModel.from_pretrained(str(tmp_path / "latent_upsampler"))) is LTXLatentUpsampler

    vae = tiny_components(timestep_conditioning=True, causal=True, statistics=True, ours=False)["vae"]
    reference = diffusers.LTXLatentUpsamplePipeline(vae=vae, latent_upsampler=theirs)
    latents = torch.randn(1, 8, 2, 1, 2)
    outputs = [
        pipeline(latents=latents, height=32, width=64, output_type="latent").frames
        for pipeline in (loaded, reference)
    ]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=0)
    again = diffusers.LTXLatentUpsamplePipeline.from_pipe(loaded)
    assert again.latent_upsampler is loaded.latent_upsampler
