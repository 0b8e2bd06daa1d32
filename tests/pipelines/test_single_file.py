"""Pipelines from one checkpoint file."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.autoencoders import tiny_autoencoder
from helpers.checkpoints import (
    official_config,
    official_tensors,
    same_tensors,
    save_checkpoint,
    tiny_transformer,
)
from safetensors.torch import save_file
from tiny import tiny_text_encoder, tiny_tokenizer

from ltx_diffusers import AutoencoderKLLTX, LTXConditionPipeline, LTXImageToVideoPipeline, LTXPipeline
from ltx_diffusers.conversion import single_file
from ltx_diffusers.conversion.releases import RELEASES
from ltx_diffusers.errors import CheckpointError, InputError

CALL = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 2, "output_type": "pt"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


def texts() -> dict:
    """A text encoder and its tokenizer, whose features have the tiny transformer's width."""
    torch.manual_seed(0)
    return {"text_encoder": tiny_text_encoder(), "tokenizer": tiny_tokenizer()}


def video(pipe, **inputs) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(**CALL, **inputs, generator=torch.Generator().manual_seed(0)).frames


@pytest.mark.parametrize("version", ["0.9.0", "0.9.1", "0.9.5", "0.9.8-2b-distilled"])
def test_a_file_gives_its_models_and_its_sampler(path, version):
    transformer, vae = save_checkpoint(path, version)
    pipe = LTXPipeline.from_single_file(path, version=version, **texts())
    assert type(pipe) is LTXPipeline
    assert same_tensors(pipe.transformer, transformer)
    assert same_tensors(pipe.vae, vae)
    assert pipe.transformer.config.causal_temporal_positioning == RELEASES[version].causal
    expected = RELEASES[version].scheduler_config
    assert {name: pipe.scheduler.config[name] for name in expected} == expected
    assert video(pipe, prompt="a red circle").shape == (1, 9, 3, 64, 64)


@pytest.mark.parametrize("pipeline", [LTXImageToVideoPipeline, LTXConditionPipeline])
def test_every_pipeline_can(path, pipeline):
    save_checkpoint(path, "0.9.5")
    assert type(pipeline.from_single_file(path)) is pipeline


def test_it_makes_the_same_video_as_its_parts(path):
    transformer, vae = save_checkpoint(path, "0.9.5")
    loaded = LTXPipeline.from_single_file(path, **texts())
    built = LTXPipeline(loaded.scheduler, vae, transformer=transformer, **texts())
    assert torch.equal(video(loaded, prompt="a red circle"), video(built, prompt="a red circle"))


def test_a_saved_pipeline_is_the_same(path, tmp_path):
    save_checkpoint(path, "0.9.8-2b-distilled")
    pipe = LTXPipeline.from_single_file(path, version="0.9.8-2b-distilled", **texts())
    pipe.save_pretrained(tmp_path / "saved")
    again = LTXPipeline.from_pretrained(tmp_path / "saved")
    for name in ("transformer", "vae", "scheduler"):
        before, after = dict(getattr(pipe, name).config), dict(getattr(again, name).config)
        for entry in ("_name_or_path", "_use_default_values"):
            before.pop(entry, None)
            after.pop(entry, None)
        assert json.loads(json.dumps(before)) == json.loads(json.dumps(after))
    assert same_tensors(again.transformer, pipe.transformer)


# Texts


def test_without_a_text_encoder_prompts_are_features(path):
    save_checkpoint(path, "0.9.5")
    pipe = LTXPipeline.from_single_file(path)
    assert pipe.text_encoder is None
    assert pipe.tokenizer is None
    embeds, mask = torch.randn(1, 6, 16), torch.ones(1, 6)
    frames = video(pipe, prompt_embeds=embeds, prompt_attention_mask=mask, guidance_scale=1.0)
    assert frames.shape == (1, 9, 3, 64, 64)
    with pytest.raises(InputError):
        video(pipe, prompt="a red circle")


@pytest.mark.parametrize("nested", [True, False])
def test_a_text_encoder_comes_from_a_folder(path, tmp_path, nested):
    """Of a pipeline, with its parts in folders; or one for both."""
    save_checkpoint(path, "0.9.5")
    given = texts()
    for name, part in given.items():
        part.save_pretrained(tmp_path / "texts" / (name if nested else ""))
    pipe = LTXPipeline.from_single_file(path, text_encoder=tmp_path / "texts", dtype=torch.float32)
    assert same_tensors(pipe.text_encoder, given["text_encoder"])
    assert pipe.tokenizer("a red circle").input_ids == given["tokenizer"]("a red circle").input_ids


def test_texts_that_can_t_be_found_are_named_before_weights_are_read(path, tmp_path, monkeypatch):
    save_checkpoint(path, "0.9.5")
    monkeypatch.setattr(single_file, "build_empty", lambda *_: pytest.fail("a model was built"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no text encoder found; got .*empty"):
        LTXPipeline.from_single_file(path, text_encoder=tmp_path / "empty")
    with pytest.raises(InputError, match="no text encoder found; got owner/missing"):
        LTXPipeline.from_single_file(path, text_encoder="owner/missing", local_files_only=True)
    with pytest.raises(InputError, match="a text encoder needs its tokenizer"):
        LTXPipeline.from_single_file(path, text_encoder=texts()["text_encoder"])


# VAEs


def test_a_transformer_without_a_vae_needs_one(path, tmp_path):
    transformer, vae = tiny_transformer(True), tiny_autoencoder("0.9.5")
    config = official_config(transformer, release="0.9.5")
    save_file(official_tensors(transformer), path, metadata={"config": json.dumps(config)})
    with pytest.raises(CheckpointError, match="has no VAE; pass vae="):
        LTXPipeline.from_single_file(path)

    alone = tmp_path / "vae.safetensors"
    save_file(official_tensors(vae=vae), alone, metadata={"config": json.dumps(official_config(vae=vae))})
    vae.save_pretrained(tmp_path / "pipeline" / "vae")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no vae found; got .*empty"):
        LTXPipeline.from_single_file(path, vae=tmp_path / "empty")
    places = (vae, alone, str(alone), tmp_path / "pipeline", tmp_path / "pipeline" / "vae")
    for place in places:
        pipe = LTXPipeline.from_single_file(path, vae=place)
        assert type(pipe.vae) is AutoencoderKLLTX
        assert same_tensors(pipe.vae, vae)


def test_a_vae_in_place_of_the_file_s(path):
    save_checkpoint(path, "0.9.5")
    other = tiny_autoencoder("0.9.5", seed=1)
    assert LTXPipeline.from_single_file(path, vae=other).vae is other


# What the file can't tell


def test_a_sampler_that_the_file_can_t_tell_is_asked_for(path, monkeypatch):
    save_checkpoint(path, "0.9.6-distilled")
    monkeypatch.setattr(single_file, "build_empty", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(CheckpointError, match="how this model is sampled; expected its release"):
        LTXPipeline.from_single_file(path)


def test_the_version_decides(path):
    """Two releases whose files say the same."""
    save_checkpoint(path, "0.9.6-distilled")
    for version, stochastic in (("0.9.6-distilled", True), ("0.9.8-2b-distilled", False)):
        pipe = LTXPipeline.from_single_file(path, version=version)
        assert pipe.scheduler.config.stochastic_sampling is stochastic


def test_a_file_without_a_transformer_is_named(path):
    vae = tiny_autoencoder("0.9.5")
    save_file(official_tensors(vae=vae), path, metadata={"config": json.dumps(official_config(vae=vae))})
    with pytest.raises(CheckpointError, match="has no transformer; got only vae"):
        LTXPipeline.from_single_file(path)


# Precision


def test_models_from_elsewhere_get_the_transformer_s_precision(path, tmp_path):
    save_checkpoint(path, "0.9.5", change=lambda t: {name: tensor.bfloat16() for name, tensor in t.items()})
    for name, part in texts().items():
        part.save_pretrained(tmp_path / "texts" / name)
    tiny_autoencoder("0.9.5").save_pretrained(tmp_path / "vae")
    pipe = LTXPipeline.from_single_file(path, text_encoder=tmp_path / "texts", vae=tmp_path / "vae")
    assert {pipe.transformer.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}


def test_a_revision_is_the_checkpoint_s(path, monkeypatch):
    """Other repositories have other revisions; everything else that is said about the Hub holds for them, too."""
    from ltx_diffusers.pipelines import single_file as pipelines

    save_checkpoint(path, "0.9.5")
    asked = []
    monkeypatch.setattr(pipelines, "find_file", lambda place, **hub: asked.append(hub) or path)
    monkeypatch.setattr(pipelines, "_from_pretrained", lambda *given, **_: asked.append(given[3]))
    hub = {"revision": "v1", "token": "t", "local_files_only": True}
    LTXPipeline.from_single_file("owner/repo/x.safetensors", text_encoder="owner/texts", **hub)
    assert asked == [hub, *[{"token": "t", "local_files_only": True}] * 2]


def test_wrong_arguments_are_refused_before_the_file_is_read(path):
    with pytest.raises(InputError, match="unknown treatment of fp8 weights"):
        LTXPipeline.from_single_file(path, fp8="drop")
    with pytest.raises(CheckpointError, match="there is no file"):
        LTXPipeline.from_single_file(path)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_all_models_get_the_precision(path, name):
    save_checkpoint(path, "0.9.5")
    pipe = LTXPipeline.from_single_file(path, **{name: torch.bfloat16})
    assert {pipe.transformer.dtype, pipe.vae.dtype} == {torch.bfloat16}


def test_a_transformer_that_stays_in_fp8(path):
    """Its layers compute in the precision that was asked for, and so does everything else."""

    def with_fp8(tensors):
        names = [name for name in tensors if ".transformer_blocks." in name and tensors[name].ndim == 2]
        return tensors | {
            name: tensors[name].to(torch.float8_e4m3fn) for name in names if name.endswith("weight")
        }

    save_checkpoint(path, "0.9.5", change=with_fp8)
    pipe = LTXPipeline.from_single_file(path, fp8="keep", dtype=torch.float32, **texts())
    assert pipe.transformer.transformer_blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    assert pipe.vae.dtype == torch.float32
    plain = LTXPipeline.from_single_file(path, dtype=torch.float32, **texts())
    kept, expected = video(pipe, prompt="a red circle"), video(plain, prompt="a red circle")
    assert not torch.equal(kept, expected)  # biases are rounded, too
    torch.testing.assert_close(kept, expected, atol=0.05, rtol=0)


def test_a_quantised_transformer(path):
    """One of Diffusers' quantisers, applied while the file is read."""
    torchao = pytest.importorskip("torchao.quantization")
    from diffusers import TorchAoConfig

    transformer, _ = save_checkpoint(path, "0.9.5")
    config = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    pipe = LTXPipeline.from_single_file(path, quantization_config=config, **texts())
    weight = pipe.transformer.transformer_blocks[0].attn1.to_q.weight
    assert type(weight).__name__ != "Parameter"
    original = transformer.transformer_blocks[0].attn1.to_q.weight
    assert (weight.dequantize() - original).abs().max() < 0.01 * original.abs().max()
    assert video(pipe, prompt="a red circle").isfinite().all()
