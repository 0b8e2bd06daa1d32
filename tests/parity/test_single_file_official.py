"""Single files against the official package: what it writes, we read; what we write in its form, it reads.

The files are built with its models and its metadata, at reduced size, for the three kinds of VAE.
"""

from __future__ import annotations

import copy
import json
import types

import pytest
import torch
from helpers.autoencoders import LATENT_CHANNELS, VERSIONS, noise_levels, tiny_autoencoder
from helpers.checkpoints import TINY_TRANSFORMER, save_checkpoint
from safetensors.torch import save_file

from ltx_diffusers import AutoencoderKLLTX, LTXLatentUpsampler, LTXPipeline, LTXTransformer3DModel
from ltx_diffusers.conversion.official_configs import vae_to_official
from ltx_diffusers.conversion.releases import RELEASES

TOLERANCE = 1e-4
GRID = (3, 2, 4)
FRAME_RATE = 25.0
STATISTICS = "per_channel_statistics."

TRANSFORMER = {
    "_class_name": "Transformer3DModel",
    "_diffusers_version": "0.25.1",
    **TINY_TRANSFORMER,
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_type": "default",
    "double_self_attention": False,
    "dropout": 0.0,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "num_embeds_ada_norm": 1000,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "project_to_2d_pos": True,
    "upcast_attention": False,
    "use_linear_projection": False,
    "qk_norm": "rms_norm",
    "standardization_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "timestep_scale_multiplier": 1000,
}
SCHEDULERS = {
    "0.9.0": {"sampler": "Uniform", "shifting": "SD3", "target_shift_terminal": 0.1},
    "0.9.5": {"sampler": "LinearQuadratic", "shifting": None, "base_resolution": None},
}


@pytest.fixture(scope="module")
def official():
    """The official package's classes."""
    autoencoder = pytest.importorskip("ltx_video.models.autoencoders.causal_video_autoencoder")
    transformer = pytest.importorskip("ltx_video.models.transformers.transformer3d")
    scheduler = pytest.importorskip("ltx_video.schedulers.rf")
    upsampler = pytest.importorskip("ltx_video.models.autoencoders.latent_upsampler")
    return types.SimpleNamespace(
        Vae=autoencoder.CausalVideoAutoencoder,
        Transformer=transformer.Transformer3DModel,
        Scheduler=scheduler.RectifiedFlowScheduler,
        Upsampler=upsampler.LatentUpsampler,
    )


def official_models(official, version):
    """The official package's models of a kind, with random weights, and its metadata for them."""
    torch.manual_seed(0)
    causal = {"causal_temporal_positioning": True} if version == "0.9.5" else {}
    transformer_config = TRANSFORMER | causal
    transformer = official.Transformer.from_config(transformer_config).eval()
    vae_config = vae_to_official(tiny_autoencoder(version).config)
    vae = official.Vae.from_config(copy.deepcopy(vae_config)).eval()
    for name, parameter in vae.named_parameters():
        if "per_channel_scale" in name:  # zero when built: the noise would not be seen
            torch.nn.init.normal_(parameter)
    statistics = {
        "mean-of-means": torch.randn(LATENT_CHANNELS),
        "std-of-means": torch.rand(LATENT_CHANNELS) + 0.5,
        "mean-of-stds": torch.rand(LATENT_CHANNELS),
        "mean-of-stds_over_std-of-means": torch.rand(LATENT_CHANNELS),
        "channel": torch.arange(LATENT_CHANNELS).float(),
    }
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in transformer.state_dict().items()}
    tensors |= {f"vae.{name}": tensor for name, tensor in vae.state_dict().items()}
    tensors |= {f"vae.{STATISTICS}{name}": tensor for name, tensor in statistics.items()}
    config = {
        "transformer": transformer_config,
        "vae": vae_config,
        "scheduler": {"_class_name": "RectifiedFlowScheduler", **SCHEDULERS["0.9.5" if causal else "0.9.0"]},
    }
    return transformer, vae, statistics, tensors, config


def transformer_outputs(ours: LTXTransformer3DModel, theirs) -> tuple[torch.Tensor, torch.Tensor]:
    """Velocities of both for the same tokens, at coordinates that the official package computes."""
    from ltx_video.models.autoencoders.vae_encode import latent_to_pixel_coords_from_factors
    from ltx_video.models.transformers.symmetric_patchifier import SymmetricPatchifier

    tokens, indices = SymmetricPatchifier(1).patchify(torch.randn(2, 8, *GRID))
    causal = theirs.config.get("causal_temporal_positioning", False)
    coords = latent_to_pixel_coords_from_factors(indices, (8, 32, 32), causal).float()
    coords[:, 0] /= FRAME_RATE
    text, mask = torch.randn(2, 6, 16), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    levels = torch.rand(2, tokens.shape[1])
    inputs = {"encoder_hidden_states": text, "encoder_attention_mask": mask, "return_dict": False}
    with torch.no_grad():
        output = ours(
            tokens,
            timestep=levels * 1000,
            frame_rate=FRAME_RATE,
            **dict(zip(("num_frames", "height", "width"), GRID, strict=True)),
            **inputs,
        )[0]
        expected = theirs(tokens, timestep=levels, indices_grid=coords, **inputs)[0]
    return output, expected


def vae_outputs(ours: AutoencoderKLLTX, theirs, version: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Moments and decoded videos of both."""
    video, temb = torch.randn(2, 3, 9, 64, 32), noise_levels(version, 2)
    with torch.no_grad():
        moments, expected = (
            ours.encode(video).latent_dist.parameters,
            theirs.encode(video).latent_dist.parameters,
        )
        latents = expected[:, :LATENT_CHANNELS]
        torch.manual_seed(1)
        decoded = ours.decode(latents, temb).sample
        torch.manual_seed(1)
        other = theirs.decode(latents, target_shape=video.shape, timestep=temb).sample
    return [(moments, expected), (decoded, other)]


def assert_close(output: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(output, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("version", VERSIONS)
def test_official_files_give_the_official_outputs(official, version, tmp_path):
    transformer, vae, statistics, tensors, config = official_models(official, version)
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"config": json.dumps(config)})

    ours = LTXTransformer3DModel.from_single_file(path)
    assert ours.config.causal_temporal_positioning == (version == "0.9.5")
    assert ours.dtype == torch.float32
    assert_close(*transformer_outputs(ours, transformer))
    ours = AutoencoderKLLTX.from_single_file(path)
    for output, expected in vae_outputs(ours, vae, version):
        assert_close(output, expected)
    assert torch.equal(ours.latents_mean, statistics["mean-of-means"])
    assert torch.equal(ours.latents_std, statistics["std-of-means"])


@pytest.mark.parametrize("version", VERSIONS)
def test_official_files_give_the_official_schedule(official, version, tmp_path):
    *_, tensors, config = official_models(official, version)
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    pipe = LTXPipeline.from_single_file(path)
    theirs = official.Scheduler.from_pretrained(path)
    theirs.set_timesteps(8, samples_shape=(1, 2048, 128))
    pipe.scheduler.set_timesteps(8, num_tokens=2048)
    torch.testing.assert_close(pipe.scheduler.sigmas[:-1], theirs.timesteps)


@pytest.mark.parametrize("version", VERSIONS)
def test_files_in_official_form_are_read_by_the_official_loader(official, version, tmp_path):
    path = tmp_path / "x.safetensors"
    transformer, vae = save_checkpoint(path, version)
    theirs = official.Transformer.from_pretrained(path).eval()
    assert_close(*transformer_outputs(transformer, theirs))
    theirs = official.Vae.from_pretrained(path).eval()
    for output, expected in vae_outputs(vae, theirs, version):
        assert_close(output, expected)
    assert torch.equal(vae.latents_mean, theirs.mean_of_means)
    assert torch.equal(vae.latents_std, theirs.std_of_means)
    sampler = official.Scheduler.from_pretrained(path)
    assert (
        sampler.sampler
        == {"uniform": "Uniform", "linear-quadratic": "LinearQuadratic"}[
            RELEASES[version].schedule["schedule"]
        ]
    )


def test_the_embedded_model_is_read_by_the_official_loader(official, tmp_path):
    """Also a VAE of another structure than the released ones."""
    from helpers.checkpoints import official_config, official_tensors

    from ltx_diffusers.embedded import embedded_model_path

    vae = AutoencoderKLLTX.from_pretrained(embedded_model_path() / "vae", dtype=torch.float32).eval()
    path = tmp_path / "x.safetensors"
    metadata = {"config": json.dumps(official_config(vae=vae))}
    save_file(official_tensors(vae=vae), path, metadata=metadata)
    theirs = official.Vae.from_pretrained(path).eval()
    video, temb = torch.randn(1, 3, 9, 64, 32), torch.tensor([0.05])
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mean
        assert_close(latents, theirs.encode(video).latent_dist.mean)
        expected = theirs.decode(latents, target_shape=video.shape, timestep=temb).sample
        assert_close(vae.decode(latents, temb).sample, expected)


@pytest.mark.parametrize("in_time", [False, True])
def test_an_upsampler_s_file_is_read_by_both(official, tmp_path, in_time):
    config = {
        "_class_name": "LatentUpsampler",
        "in_channels": 8,
        "mid_channels": 32,
        "num_blocks_per_stage": 1,
        "dims": 3,
        "spatial_upsample": not in_time,
        "temporal_upsample": in_time,
    }
    theirs = official.Upsampler.from_config(config).eval()
    path = tmp_path / "x.safetensors"
    save_file(theirs.state_dict(), path, metadata={"config": json.dumps(config)})
    ours = LTXLatentUpsampler.from_single_file(path)
    latents = torch.randn(1, 8, 3, 4, 4)
    with torch.no_grad():
        assert_close(ours(latents), theirs(latents))
    assert official.Upsampler.from_pretrained(path).state_dict().keys() == ours.state_dict().keys()
