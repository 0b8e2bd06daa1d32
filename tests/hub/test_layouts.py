"""Folders in the native layout and in Diffusers': what each side loads, and that nothing is lost between them."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from helpers.saved_models import DEFAULTS, save_tiny_pipeline
from tiny import tiny_components

from ltx_diffusers import AutoencoderKLLTX, LTXLatentUpsampler, LTXPipeline
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.errors import CheckpointError, InputError
from ltx_diffusers.hub.layouts import (
    files_in_layout,
    is_repository_name,
    read_folder,
    save_for_diffusers,
    write_files,
)


@pytest.fixture
def all_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Whatever Diffusers and Transformers log as a warning, and what is warned by `warnings`."""
    found: list[str] = []

    class Gather(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Gather(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
    yield found
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.parametrize("which", ["0.9.0", "0.9.5", "embedded"])
def test_diffusers_alone_loads_it_without_a_warning(
    which: str, tmp_path: Path, all_warnings: list[str]
) -> None:
    if which == "embedded":
        source = embedded_model_path()
    else:
        LTXPipeline(**tiny_components(causal=which == "0.9.5", statistics=True)).save_pretrained(
            tmp_path / "own"
        )
        source = tmp_path / "own"
    target = save_for_diffusers(source, tmp_path / "theirs")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        pipe = diffusers.LTXPipeline.from_pretrained(target)
    assert all_warnings == []
    assert [str(each.message) for each in warned if "diffusers" in str(each.message)] == []
    assert type(pipe.transformer) is diffusers.LTXVideoTransformer3DModel
    assert type(pipe.vae) is diffusers.AutoencoderKLLTXVideo
    assert type(pipe.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
    assert "ltx_diffusers" not in (target / "model_index.json").read_text()

    own = LTXPipeline.from_pretrained(source)
    for theirs, ours in ((pipe.transformer, own.transformer), (pipe.vae, own.vae)):
        theirs, ours = theirs.state_dict(), ours.state_dict()
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key]) for key in ours)
    latents = torch.randn(1, own.vae.config.latent_channels, 2, 2, 2)
    timestep = torch.tensor([0.05]) if own.vae.config.timestep_conditioning else None
    with torch.no_grad():
        assert torch.allclose(
            pipe.vae.decode(latents, timestep).sample, own.vae.decode(latents, timestep).sample, atol=1e-5
        )


def test_diffusers_makes_the_same_video_of_it(tmp_path: Path) -> None:
    """For 0.9.0, where Diffusers' pipeline has the model's own coordinates and schedule."""
    LTXPipeline(**tiny_components()).save_pretrained(tmp_path / "own")
    target = save_for_diffusers(tmp_path / "own", tmp_path / "theirs")
    prompts = torch.randn(1, 6, 16)
    call = {
        "prompt_embeds": prompts,
        "prompt_attention_mask": torch.ones(1, 6),
        "negative_prompt_embeds": -prompts,
        "negative_prompt_attention_mask": torch.ones(1, 6),
        "height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 2, "output_type": "np",
    }  # fmt: skip
    videos = [
        kind.from_pretrained(folder)(**call, generator=torch.Generator().manual_seed(0)).frames
        for kind, folder in ((diffusers.LTXPipeline, target), (LTXPipeline, tmp_path / "own"))
    ]
    assert np.abs(videos[0] - videos[1]).max() < 1e-4


def test_our_classes_find_all_their_settings_again(tmp_path: Path) -> None:
    own = save_tiny_pipeline(tmp_path / "own")
    settings = json.loads((own / "scheduler" / "scheduler_config.json").read_text())
    settings |= {"allowed_inference_steps": [1.0, 0.5], "stochastic_sampling": True}
    (own / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    target = save_for_diffusers(own, tmp_path / "theirs")
    before, after = LTXPipeline.from_pretrained(own), LTXPipeline.from_pretrained(target)
    for part in ("transformer", "vae", "scheduler"):
        expected, got = dict(getattr(before, part).config), dict(getattr(after, part).config)
        drop = {"_name_or_path", "_class_name", "_diffusers_version"}
        assert {key: got.get(key) for key in expected if key not in drop} == {
            key: value for key, value in expected.items() if key not in drop
        }
    assert after.transformer.config.default_height == DEFAULTS["height"]


def test_diffusers_keeps_them_when_it_saves_again(tmp_path: Path) -> None:
    target = save_for_diffusers(save_tiny_pipeline(tmp_path / "own"), tmp_path / "theirs")
    diffusers.LTXPipeline.from_pretrained(target).save_pretrained(tmp_path / "again")
    assert (
        LTXPipeline.from_pretrained(tmp_path / "again").transformer.config.causal_temporal_positioning is True
    )


@pytest.mark.parametrize("causal", [False, True])
def test_a_repository_of_diffusers_becomes_native(tmp_path: Path, causal: bool) -> None:
    theirs = diffusers.LTXPipeline(**tiny_components(causal=causal, ours=False))
    theirs.save_pretrained(tmp_path / "theirs")
    folder = read_folder(tmp_path / "theirs")
    assert folder.contents.layout == "diffusers"
    write_files(
        files_in_layout(folder, "native"), tmp_path / "own", lambda a, b: b.write_bytes(a.read_bytes())
    )

    index = json.loads((tmp_path / "own" / "model_index.json").read_text())
    assert index["transformer"] == ["ltx_diffusers", "LTXTransformer3DModel"]
    assert index["scheduler"] == ["ltx_diffusers", "LTXFlowMatchScheduler"]
    pipe = LTXPipeline.from_pretrained(tmp_path / "own")
    assert pipe.transformer.config.causal_temporal_positioning is causal
    assert pipe.scheduler.config.schedule == ("linear-quadratic" if causal else "uniform")
    expected = LTXPipeline.from_pretrained(tmp_path / "theirs").scheduler.config
    assert {key: value for key, value in pipe.scheduler.config.items() if key[0] != "_"} == {
        key: value for key, value in expected.items() if key[0] != "_"
    }


def test_pipelines_and_single_models_are_saved_too(tmp_path: Path) -> None:
    parts = tiny_components()
    target = save_for_diffusers(LTXPipeline(**parts), tmp_path / "a" / "pipe")
    assert type(diffusers.DiffusionPipeline.from_pretrained(str(target))) is diffusers.LTXPipeline
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["pipe"]
    save_for_diffusers(parts["vae"], tmp_path / "vae")
    assert type(diffusers.AutoModel.from_pretrained(str(tmp_path / "vae"))) is diffusers.AutoencoderKLLTXVideo
    upsampler = LTXLatentUpsampler(in_channels=4, mid_channels=32, num_blocks_per_stage=1)
    save_for_diffusers(upsampler, tmp_path / "upsampler")
    from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

    theirs = LTXLatentUpsamplerModel.from_pretrained(tmp_path / "upsampler").state_dict()
    assert all(torch.equal(theirs[key], value) for key, value in upsampler.state_dict().items())


def test_what_diffusers_can_not_express(tmp_path: Path) -> None:
    own = save_tiny_pipeline(tmp_path / "own")
    config = own / "scheduler" / "scheduler_config.json"
    plain = config.read_text()
    config.write_text(json.dumps(json.loads(plain) | {"shifting": "simple-diffusion"}))
    with pytest.raises(InputError, match="can't express this shift"):
        save_for_diffusers(own, tmp_path / "theirs")
    config.write_text(plain)

    index = own / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"vae": ["my_plugin", "MyVAE"]}))
    with pytest.raises(InputError, match="no class for the vae of this pipeline; got my_plugin.MyVAE"):
        save_for_diffusers(own, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_tensors_that_diffusers_class_lacks(tmp_path: Path) -> None:
    vae = AutoencoderKLLTX(**dict(tiny_components()["vae"].config))
    vae.register_buffer("extra", torch.zeros(3))
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(
        CheckpointError, match="has other tensors than this vae; got 1 that differ, such as extra"
    ):
        save_for_diffusers(tmp_path / "vae", tmp_path / "theirs")


def test_a_target_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="the target exists"):
        save_for_diffusers(save_tiny_pipeline(tmp_path / "own"), tmp_path / "theirs")
    assert (tmp_path / "theirs" / "mine.txt").read_text() == "mine"


def test_names_of_repositories(tmp_path: Path) -> None:
    assert is_repository_name("Lightricks/LTX-Video")
    for text in (
        "/a/b",
        "a",
        "a/b/c",
        "./a",
        "~/a",
        "../a",
        "a\\b/c",
        str(tmp_path),
        "src/ltx_diffusers",
        "",
    ):
        assert not is_repository_name(text)
