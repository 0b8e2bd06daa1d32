"""What a checkpoint is, told from its header."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from helpers.autoencoders import tiny_autoencoder
from helpers.checkpoints import (
    official_config,
    official_tensors,
    save_checkpoint,
    tiny_transformer,
)
from helpers.headers import Header
from safetensors.torch import save_file

from ltx_diffusers import AutoencoderKLLTX, LTXTransformer3DModel
from ltx_diffusers.conversion.describe import Checkpoint, describe
from ltx_diffusers.conversion.model_classes import shapes_of
from ltx_diffusers.conversion.official_configs import vae_to_official
from ltx_diffusers.conversion.releases import RELEASES
from ltx_diffusers.conversion.renames import to_official
from ltx_diffusers.conversion.tensors import open_tensors
from ltx_diffusers.embedded import embedded_model_path
from ltx_diffusers.errors import CheckpointError, UnknownNameError
from ltx_diffusers.models.autoencoders.released import RELEASED as VAES
from ltx_diffusers.models.transformers.released import RELEASED as TRANSFORMERS


def shapes(
    transformer: str | None = None, vae: str | None = None, prefixes=("model.diffusion_model.", "vae.")
):
    """Official names and shapes of released models."""
    found = {}
    if transformer is not None:
        for name, shape in shapes_of("transformer", TRANSFORMERS[transformer]).items():
            found[prefixes[0] + to_official("transformer", name)] = shape
    if vae is not None:
        for name, shape in shapes_of("vae", VAES[vae]).items():
            found[prefixes[1] + to_official("vae", name, vae)] = shape
    return found


@functools.cache
def metadata(release: str) -> dict[str, str]:
    """What the file of a release says of itself."""
    settings = RELEASES[release]
    with torch.device("meta"):
        transformer = LTXTransformer3DModel(
            **TRANSFORMERS[settings.size], causal_temporal_positioning=settings.causal
        )
        vae = AutoencoderKLLTX(**VAES[settings.vae])
    return {"config": json.dumps(official_config(transformer, vae, release))}


def described(path: Path, **options) -> Checkpoint:
    with open_tensors(path) as source:
        return describe(source, **options)


# Released files

MODELS = [name for name, release in RELEASES.items() if release.size]
ALONE = {"0.9.0", "0.9.1"}
"""Releases that no other can be mistaken for."""


@pytest.mark.parametrize("release", MODELS)
def test_a_released_file_is_recognised_by_its_metadata(release):
    settings = RELEASES[release]
    found = describe(Header(shapes(settings.size, settings.vae), metadata(release)))
    assert found.layout == "official"
    assert set(found.parts) == {"transformer", "vae"}
    assert release in found.candidates
    same_kind = {
        name
        for name in MODELS
        if (RELEASES[name].size, RELEASES[name].vae, RELEASES[name].distilled)
        == (settings.size, settings.vae, settings.distilled)
    }
    assert set(found.candidates) == same_kind
    assert (found.version, found.version_from) == (
        (release, "metadata") if release in ALONE else (None, None)
    )
    transformer, vae = found.part("transformer"), found.part("vae")
    assert transformer.config["causal_temporal_positioning"] == settings.causal
    assert vae.vae_family == settings.vae
    assert len(transformer.names) == {"2b": 715, "13b": 1215}[settings.size]
    assert found.scheduler_config["schedule"] == settings.schedule["schedule"]
    assert found.allowed_inference_steps == settings.scheduler_config["allowed_inference_steps"]
    assert found.unexpected == []
    assert found.precision == "bf16"


@pytest.mark.parametrize("release", MODELS)
def test_a_version_that_is_asked_for_settles_the_rest(release):
    settings = RELEASES[release]
    for info in (metadata(release), None):
        found = describe(Header(shapes(settings.size, settings.vae), info), version=release)
        assert (found.version, found.version_from) == (release, "asked")
        expected = settings.scheduler_config
        assert {name: found.sampler_config()[name] for name in expected} == expected
        assert found.part("transformer").config["causal_temporal_positioning"] == settings.causal


def test_the_distilled_2b_releases_sample_differently():
    """Their files say the same, but one adds noise in every step: the sampler needs the version."""
    found = describe(Header(shapes("2b", "0.9.5"), metadata("0.9.8-2b-distilled")))
    assert found.candidates == ("0.9.6-distilled", "0.9.8-2b-distilled")
    with pytest.raises(
        CheckpointError, match=r"one of 0\.9\.6-distilled, 0\.9\.8-2b-distilled; give it as version="
    ):
        found.sampler_config()
    path = "ltxv-2b-0.9.8-distilled.safetensors"
    found = describe(Header(shapes("2b", "0.9.5"), metadata("0.9.8-2b-distilled"), path))
    with pytest.raises(CheckpointError, match=r"the file's name says 0\.9\.8-2b-distilled"):
        found.sampler_config()


def test_equal_settings_need_no_version():
    """Of the two distilled 13B releases, everything that matters is the same."""
    found = describe(Header(shapes("13b", "0.9.5"), metadata("0.9.7-distilled")))
    assert found.candidates == ("0.9.7-distilled", "0.9.8-13b-distilled")
    assert found.version is None
    assert found.sampler_config()["default_num_inference_steps"] == 8


# Without metadata


@pytest.mark.parametrize("family", VAES)
def test_a_file_without_metadata_is_told_by_its_vae(family):
    found = describe(Header(shapes("2b", family)))
    assert found.part("vae").vae_family == family
    assert found.part("transformer").config["causal_temporal_positioning"] == (family == "0.9.5")
    if family in ALONE:
        assert (found.version, found.version_from) == (family, "tensors")
        assert found.sampler_config()["shifting"] == "sd3"
    else:
        assert found.version is None
        with pytest.raises(
            CheckpointError, match=r"one of 0\.9\.5, 0\.9\.6-dev, 0\.9\.6-distilled, 0\.9\.8-2b"
        ):
            found.sampler_config()


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_a_lone_2b_transformer_needs_its_version(prefix):
    source = Header(shapes("2b", prefixes=(prefix, "")))
    with pytest.raises(CheckpointError) as error:
        describe(source)
    choices = [name for name in MODELS if RELEASES[name].size == "2b"]
    assert f"one of {', '.join(choices)}; give it as version=" in str(error.value)
    assert (
        describe(source, undecided_ok=True).part("transformer").config["causal_temporal_positioning"] is None
    )
    assert (
        describe(source, version="0.9.1").part("transformer").config["causal_temporal_positioning"] is False
    )
    assert describe(source, version="0.9.5").part("transformer").config["causal_temporal_positioning"] is True


def test_a_lone_13b_transformer_is_causal():
    found = describe(Header(shapes("13b", prefixes=("", ""))))
    assert found.part("transformer").config["causal_temporal_positioning"] is True
    with pytest.raises(CheckpointError, match="how this model is sampled"):
        found.sampler_config()  # dev or distilled?


@pytest.mark.parametrize("prefix", ["vae.", "first_stage_model.", ""])
@pytest.mark.parametrize("family", VAES)
def test_a_lone_vae_needs_no_version(family, prefix):
    found = describe(Header(shapes(vae=family, prefixes=("", prefix))))
    assert set(found.parts) == {"vae"}
    assert found.part("vae").vae_family == family
    assert found.version == (family if family in ALONE else None)


@pytest.mark.parametrize(
    ("kind", "spatial", "temporal", "version"),
    [
        ("spatial_upsampler", True, False, None),
        ("temporal_upsampler", False, True, "0.9.7-temporal-upsampler"),
        ("spatial_upsampler", True, True, None),
    ],
)
@pytest.mark.parametrize("stated", [False, True])
def test_an_upsampler_is_recognised(kind, spatial, temporal, version, stated):
    config = {
        "in_channels": 128,
        "mid_channels": 512,
        "num_blocks_per_stage": 4,
        "dims": 3,
        "spatial_upsample": spatial,
        "temporal_upsample": temporal,
    }
    info = {"config": json.dumps({"_class_name": "LatentUpsampler", **config})} if stated else None
    found = describe(Header(shapes_of(kind, config), info))
    assert set(found.parts) == {kind}
    assert found.part(kind).config == config
    assert found.version == version
    assert found.scheduler_config is None


# Layouts


def test_comfy_files_are_recognised(tmp_path):
    save_checkpoint(tmp_path / "x.safetensors", "0.9.5")
    assert described(tmp_path / "x.safetensors").layout == "official"

    def with_text_encoder(tensors):
        return tensors | {"text_encoders.t5xxl.transformer.shared.weight": torch.zeros(2, 2)}

    save_checkpoint(tmp_path / "y.safetensors", "0.9.5", change=with_text_encoder)
    found = described(tmp_path / "y.safetensors")
    assert found.layout == "comfy"
    assert list(found.part("text_encoder").names) == ["t5xxl.transformer.shared.weight"]
    assert found.unexpected == []


def test_diffusers_folders_are_recognised():
    """A transformer's folder in a pipeline states its coordinates, or its VAE's folder tells."""
    for kind in ("transformer", "vae"):
        with open_tensors(embedded_model_path() / kind) as source:
            found = describe(source)
        assert found.layout == "diffusers"
        assert set(found.parts) == {kind}
        assert all(ours == stored for ours, stored in found.part(kind).names.items())


def test_a_vae_without_an_official_form_is_described(tmp_path):
    """Its channels grow by 3/2 in a stage; official VAEs multiply them by whole numbers."""
    vae = tiny_autoencoder("0.9.0", block_out_channels=(8, 12, 24, 24))
    vae.save_pretrained(tmp_path)
    found = described(tmp_path)
    assert found.part("vae").vae_family is None
    assert found.candidates == ()
    with pytest.raises(CheckpointError, match="multiplies channels by whole numbers; got 8 to 12"):
        vae_to_official(found.part("vae").config)


def test_a_diffusers_transformer_is_told_by_the_vae_beside_it(tmp_path):
    from diffusers import LTXVideoTransformer3DModel
    from tiny import transformer_config

    LTXVideoTransformer3DModel(**transformer_config()).save_pretrained(tmp_path / "transformer")
    with pytest.raises(CheckpointError, match="whether its time coordinates are causal"):
        described(tmp_path / "transformer")
    for version in VAES:
        tiny_autoencoder(version).save_pretrained(tmp_path / "vae")
        found = described(tmp_path / "transformer")
        assert found.part("transformer").config["causal_temporal_positioning"] == (version == "0.9.5")


def test_statistics_that_no_model_uses_are_listed(tmp_path):
    save_checkpoint(tmp_path / "x.safetensors", "0.9.5")
    found = described(tmp_path / "x.safetensors")
    assert sorted(found.part("vae").dropped) == [
        "vae.per_channel_statistics.channel",
        "vae.per_channel_statistics.mean-of-stds",
        "vae.per_channel_statistics.mean-of-stds_over_std-of-means",
    ]


def test_tensors_of_nothing_are_listed(tmp_path):
    extra = {"model.diffusion_model.more.weight": torch.ones(1), "lora.weight": torch.ones(1)}
    save_checkpoint(tmp_path / "x.safetensors", "0.9.5", change=lambda tensors: tensors | extra)
    found = described(tmp_path / "x.safetensors")
    assert sorted(found.unexpected) == sorted(extra)
    assert found.part("transformer").unexpected == ["model.diffusion_model.more.weight"]


# Contradictions and damage


def test_a_version_can_t_contradict_the_file():
    full = Header(shapes("2b", "0.9.5"), metadata("0.9.5"))
    for version, message in [
        ("0.9.7-dev", "size of the transformer is another; got 2b; expected 13b"),
        ("0.9.1", r"kind of VAE is another; got 0\.9\.5; expected 0\.9\.1"),
        ("0.9.6-distilled", "a model for any number of steps; expected a distilled model"),
        ("0.9.7-spatial-upsampler", "part is another"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            describe(full, version=version)
    alone = Header(
        shapes("2b"),
        {"config": json.dumps({"transformer": json.loads(metadata("0.9.5")["config"])["transformer"]})},
    )
    with pytest.raises(
        CheckpointError, match="causal_temporal_positioning is another; got True; expected False"
    ):
        describe(alone, version="0.9.0")
    with pytest.raises(UnknownNameError, match=r"unknown release '0\.9\.9'"):
        describe(full, version="0.9.9")


def change_config(path: Path, release: str, change) -> None:
    """Write a checkpoint whose metadata is changed."""
    transformer, vae = tiny_transformer(RELEASES[release].causal), tiny_autoencoder(RELEASES[release].vae)
    config = official_config(transformer, vae, release)
    text = change if isinstance(change, str) else json.dumps(change(config))
    save_file(official_tensors(transformer, vae), path, metadata={"config": text})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "the metadata's config isn't a JSON object"),
        ("[]", "the metadata's config isn't a JSON object"),
        ("[" * 10_000, "the metadata's config isn't a JSON object"),
        (lambda config: config | {"transformer": 5}, "must be an object; got int"),
        (lambda config: config | {"scheduler": []}, "must be an object; got list"),
        (lambda config: config | {"allowed_inference_steps": "all"}, "allowed_inference_steps must be"),
        (
            lambda config: config | {"transformer": config["transformer"] | {"num_layers": 10**5}},
            "other layers than",
        ),
        (
            lambda config: config | {"transformer": config["transformer"] | {"num_layers": 3}},
            "lacks 25 of the transf",
        ),
        (
            lambda config: config | {"transformer": config["transformer"] | {"in_channels": 9}},
            "another shape",
        ),
        (lambda config: config | {"vae": config["vae"] | {"latent_channels": 9}}, "another shape"),
        (lambda config: config | {"vae": config["vae"] | {"encoder_base_channels": 64}}, "another shape"),
        (lambda config: config | {"vae": config["vae"] | {"timestep_conditioning": False}}, None),
        (lambda config: {name: config[name] for name in ("vae", "scheduler")}, "isn't of a released size"),
    ],
)
def test_metadata_that_doesn_t_fit_is_refused(tmp_path, change, message):
    change_config(tmp_path / "x.safetensors", "0.9.5", change)
    if message is None:
        # Every tensor that such a decoder has is there; that there are others is left to who loads it.
        found = described(tmp_path / "x.safetensors")
        assert found.part("vae").unexpected == found.unexpected
        assert any("last_time_embedder" in name for name in found.unexpected)
        return
    with pytest.raises(CheckpointError, match=message):
        described(tmp_path / "x.safetensors")


def test_a_missing_tensor_is_named(tmp_path):
    def without(tensors):
        del tensors["model.diffusion_model.proj_out.bias"]
        return tensors

    save_checkpoint(tmp_path / "x.safetensors", "0.9.5", change=without)
    with pytest.raises(
        CheckpointError, match=r"lacks 1 of the transformer's 65 tensors; got no proj_out\.bias"
    ):
        described(tmp_path / "x.safetensors")


def test_a_missing_mean_is_zero_as_officially(tmp_path):
    def without(tensors):
        del tensors["vae.per_channel_statistics.mean-of-means"]
        return tensors

    save_checkpoint(tmp_path / "x.safetensors", "0.9.5", change=without)
    assert "latents_mean" not in described(tmp_path / "x.safetensors").part("vae").names


def test_integers_aren_t_weights(tmp_path):
    name = "model.diffusion_model.proj_out.weight"
    save_checkpoint(tmp_path / "x.safetensors", "0.9.5", change=lambda t: t | {name: t[name].to(torch.int8)})
    with pytest.raises(CheckpointError, match=r"isn't stored as floating-point numbers; got torch\.int8"):
        described(tmp_path / "x.safetensors")


def test_two_tensors_can_t_be_one(tmp_path):
    """Official and Diffusers' names of one tensor in one file."""
    name = "model.diffusion_model."
    save_checkpoint(
        tmp_path / "x.safetensors",
        "0.9.5",
        change=lambda t: t | {f"{name}proj_in.bias": t[f"{name}patchify_proj.bias"] + 1},
    )
    with pytest.raises(CheckpointError, match=r"two tensors are proj_in\.bias"):
        described(tmp_path / "x.safetensors")


def test_other_models_are_named(tmp_path):
    save_file({"unet.weight": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(
        CheckpointError, match=r"is no LTX-Video checkpoint; got tensors such as unet\.weight"
    ):
        described(tmp_path / "x.safetensors")
    save_file({"diffusion_model.proj_out.lora_A.weight": torch.ones(1)}, tmp_path / "z.safetensors")
    with pytest.raises(CheckpointError, match="it is a LoRA: give it to a pipeline's load_lora_weights"):
        described(tmp_path / "z.safetensors")
    save_file({"model.diffusion_model.audio_patchify_proj.weight": torch.ones(1)}, tmp_path / "y.safetensors")
    with pytest.raises(CheckpointError, match="is a model of LTX-2"):
        described(tmp_path / "y.safetensors")


def test_a_part_that_isn_t_there_is_named():
    found = describe(Header(shapes("13b")))
    with pytest.raises(CheckpointError, match="has no vae; got only transformer"):
        found.part("vae")
