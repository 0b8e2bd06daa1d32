"""Files of the official package, converted and back: its own loader reads them, with the same outputs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from diffusers import LTXPipeline as DiffusersPipeline
from helpers.transformers import OFFICIAL, relative_error
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx_diffusers import LTXPipeline
from ltx_diffusers.conversion.convert import convert

transformer3d = pytest.importorskip("ltx_video.models.transformers.transformer3d")
causal_video_autoencoder = pytest.importorskip("ltx_video.models.autoencoders.causal_video_autoencoder")
latent_upsampler = pytest.importorskip("ltx_video.models.autoencoders.latent_upsampler")
rf = pytest.importorskip("ltx_video.schedulers.rf")

FAMILIES = ("0.9.0", "0.9.1", "0.9.5")
CHANNELS = 16

TRANSFORMER = OFFICIAL | {
    "_class_name": "Transformer3DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_layers": 2,
    "cross_attention_dim": 32,
    "caption_channels": 24,
    "num_embeds_ada_norm": 1000,
    "adaptive_norm": "single_scale_shift",
}
OLD_BLOCKS = [
    ["res_x", 1], ["compress_all", 1], ["res_x_y", 1], ["res_x", 2], ["compress_all", 1], ["res_x_y", 1],
    ["res_x", 1], ["compress_all", 1], ["res_x", 1], ["res_x", 1],
]  # fmt: skip
UP = ["compress_all", {"residual": True, "multiplier": 2}]
BLOCKS = {
    "0.9.0": (OLD_BLOCKS, OLD_BLOCKS),
    "0.9.1": (
        OLD_BLOCKS,
        [
            ["res_x", {"num_layers": 2, "inject_noise": True}], UP, ["res_x", {"num_layers": 1, "inject_noise": True}],
            UP, ["res_x", {"num_layers": 1, "inject_noise": True}], UP, ["res_x", {"num_layers": 1}],
        ],
    ),
    "0.9.5": (
        [
            ["res_x", 1], ["compress_space_res", {"multiplier": 2}], ["res_x", 2],
            ["compress_time_res", {"multiplier": 2}], ["res_x", 1], ["compress_all_res", {"multiplier": 2}],
            ["res_x", 1], ["compress_all_res", {"multiplier": 2}], ["res_x", 1],
        ],
        [["res_x", 2], UP, ["res_x", 1], UP, ["res_x", 1], UP, ["res_x", 1]],
    ),
}  # fmt: skip
SCHEDULERS = {
    "0.9.0": {"sampler": "Uniform", "shifting": "SD3", "target_shift_terminal": 0.1},
    "0.9.1": {"sampler": "Uniform", "shifting": "SD3", "target_shift_terminal": 0.1},
    "0.9.5": {"sampler": "LinearQuadratic", "shifting": None},
}


def vae_config(family: str) -> dict:
    encoder, decoder = BLOCKS[family]
    return {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "latent_channels": CHANNELS,
        "encoder_blocks": encoder,
        "decoder_blocks": decoder,
        "encoder_base_channels": 8,
        "decoder_base_channels": 8,
        "norm_layer": "pixel_norm",
        "patch_size": 4,
        "latent_log_var": "uniform",
        "use_quant_conv": False,
        "causal_decoder": False,
        "timestep_conditioning": family != "0.9.0",
    }


def official_file(path: Path, family: str, dtype: torch.dtype = torch.float32) -> None:
    """A checkpoint of the official package's models, with random weights and its metadata."""
    torch.manual_seed(0)
    transformer = transformer3d.Transformer3DModel.from_config(
        TRANSFORMER | {"causal_temporal_positioning": family == "0.9.5"}
    )
    vae = causal_video_autoencoder.CausalVideoAutoencoder.from_config(vae_config(family))
    tensors = {f"model.diffusion_model.{name}": value for name, value in transformer.state_dict().items()}
    tensors |= {f"vae.{name}": value for name, value in vae.state_dict().items()}
    tensors = {name: (value + 0.02 * torch.randn(value.shape)).to(dtype) for name, value in tensors.items()}
    for name in ("mean-of-means", "std-of-means", "mean-of-stds", "mean-of-stds_over_std-of-means"):
        tensors[f"vae.per_channel_statistics.{name}"] = torch.rand(CHANNELS).to(dtype) + 0.5
    tensors["vae.per_channel_statistics.channel"] = torch.arange(CHANNELS)
    config = {
        "transformer": TRANSFORMER | {"causal_temporal_positioning": family == "0.9.5"},
        "vae": vae_config(family),
        "scheduler": {"_class_name": "RectifiedFlowScheduler", "num_train_timesteps": 1000}
        | SCHEDULERS[family],
    }
    save_file(tensors, path, {"config": json.dumps(config)})


@torch.no_grad()
def official_outputs(path: Path) -> dict[str, torch.Tensor]:
    """What the models that the official loaders make of a file compute."""
    transformer = transformer3d.Transformer3DModel.from_pretrained(path).eval()
    vae = causal_video_autoencoder.CausalVideoAutoencoder.from_pretrained(path).eval()
    scheduler = rf.RectifiedFlowScheduler.from_pretrained(path)
    generator = torch.Generator().manual_seed(1)
    grid = torch.rand(1, 3, 12, generator=generator) * 20
    velocity = transformer(
        torch.randn(1, 12, CHANNELS, generator=generator),
        indices_grid=grid,
        encoder_hidden_states=torch.randn(1, 4, 24, generator=generator),
        timestep=torch.tensor([0.7]),
        return_dict=False,
    )[0]
    video = torch.randn(1, 3, 9, 64, 32, generator=generator)
    latents = vae.encode(video).latent_dist.mean
    level = torch.tensor([0.05]) if vae.decoder.timestep_conditioning else None
    torch.manual_seed(2)  # the noise that 0.9.1 injects
    decoded = vae.decode(latents, timestep=level, target_shape=video.shape, return_dict=False)[0]
    scheduler.set_timesteps(8, samples_shape=torch.Size((1, CHANNELS, 4, 16, 16)))
    return {
        "velocity": velocity,
        "latents": latents,
        "decoded": decoded,
        "mean": vae.mean_of_means,
        "std": vae.std_of_means,
        "timesteps": scheduler.timesteps,
        "causal": torch.tensor(transformer.config.causal_temporal_positioning),
    }


def same_bits(left: Path, right: Path) -> bool:
    first, second = load_file(left), load_file(right)
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype
        and torch.equal(tensor.reshape(-1).view(torch.uint8), second[name].reshape(-1).view(torch.uint8))
        for name, tensor in first.items()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_official_files_come_back_bit_for_bit_and_load_in_the_official_package(
    family: str, tmp_path: Path
) -> None:
    source, folder, back = tmp_path / "source.safetensors", tmp_path / "folder", tmp_path / "back.safetensors"
    official_file(source, family)
    convert(source, folder, "diffusers", version=family)
    convert(folder, back, "official")
    assert same_bits(source, back)
    before, after = official_outputs(source), official_outputs(back)
    for name in before:  # the same weights elsewhere in memory may be summed up in another order
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_comes_back_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    source, folder, back = tmp_path / "source.safetensors", tmp_path / "folder", tmp_path / "back.safetensors"
    official_file(source, "0.9.5", dtype)
    convert(source, folder, "diffusers", version="0.9.5", shard_size=100_000)
    convert(folder, back, "official")
    assert same_bits(source, back)


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_loads_the_folder_without_a_warning(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Diffusers' classes and ours hold the same weights; ours also know the release's settings."""
    official_file(tmp_path / "source.safetensors", family)
    convert(tmp_path / "source.safetensors", tmp_path / "folder", "diffusers", version=family)
    for name in ("diffusers", "transformers"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    theirs = DiffusersPipeline.from_pretrained(tmp_path / "folder", text_encoder=None, tokenizer=None)
    ours = LTXPipeline.from_pretrained(tmp_path / "folder", text_encoder=None, tokenizer=None)
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warned == []
    assert type(theirs.transformer).__module__.startswith("diffusers.")
    for part in ("transformer", "vae"):
        left, right = getattr(theirs, part).state_dict(), getattr(ours, part).state_dict()
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert ours.transformer.config.causal_temporal_positioning == (family == "0.9.5")
    assert ours.scheduler.config.schedule == ("linear-quadratic" if family == "0.9.5" else "uniform")


def test_our_own_outputs_are_the_official_ones(tmp_path: Path) -> None:
    """The folder's transformer, run by our class, gives what the official loader's gives of the source."""
    official_file(tmp_path / "source.safetensors", "0.9.5")
    convert(tmp_path / "source.safetensors", tmp_path / "folder", "diffusers", version="0.9.5")
    ours = LTXPipeline.from_pretrained(tmp_path / "folder", text_encoder=None, tokenizer=None)
    before = official_outputs(tmp_path / "source.safetensors")
    generator = torch.Generator().manual_seed(1)
    grid = torch.rand(1, 3, 12, generator=generator) * 20
    with torch.no_grad():
        velocity = ours.transformer(
            torch.randn(1, 12, CHANNELS, generator=generator),
            torch.randn(1, 4, 24, generator=generator),
            timestep=torch.tensor([700.0]),
            video_coords=grid,
            return_dict=False,
        )[0]
        latents = ours.vae.encode(torch.randn(1, 3, 9, 64, 32, generator=generator)).latent_dist.mean
    assert relative_error(velocity, before["velocity"]) < 1e-4
    assert relative_error(latents, before["latents"]) < 1e-4


@pytest.mark.parametrize(
    "config",
    [
        {"spatial_upsample": True, "temporal_upsample": False},
        {"spatial_upsample": False, "temporal_upsample": True},
    ],
    ids=["spatial", "temporal"],
)
def test_upsamplers_come_back_and_load_in_the_official_package(config: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = latent_upsampler.LatentUpsampler(
        in_channels=CHANNELS, mid_channels=32, num_blocks_per_stage=1, dims=3, **config
    )
    source, folder, back = tmp_path / "source.safetensors", tmp_path / "folder", tmp_path / "back.safetensors"
    save_file(model.state_dict(), source, {"config": json.dumps(model.config())})
    convert(source, folder, "diffusers")
    convert(folder, back, "official")
    assert same_bits(source, back)
    latents = torch.randn(1, CHANNELS, 2, 4, 4)
    loaded = latent_upsampler.LatentUpsampler.from_pretrained(back)
    with torch.no_grad():
        assert torch.equal(loaded(latents), model(latents))


def test_the_allowed_steps_are_where_the_official_pipeline_looks(tmp_path: Path) -> None:
    official_file(tmp_path / "source.safetensors", "0.9.5")
    with safe_open(tmp_path / "source.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    steps = [1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725, 0.4219]
    tensors = load_file(tmp_path / "source.safetensors")
    save_file(
        tensors,
        tmp_path / "source.safetensors",
        {"config": json.dumps(config | {"allowed_inference_steps": steps})},
    )
    convert(tmp_path / "source.safetensors", tmp_path / "folder", "diffusers", version="0.9.6-distilled")
    convert(tmp_path / "folder", tmp_path / "back.safetensors", "official")
    with safe_open(tmp_path / "back.safetensors", "pt") as file:
        assert json.loads(file.metadata()["config"])["allowed_inference_steps"] == steps
    ours = LTXPipeline.from_pretrained(tmp_path / "folder", text_encoder=None, tokenizer=None)
    assert ours.scheduler.config.stochastic_sampling is True
