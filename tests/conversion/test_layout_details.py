"""What the layouts need besides tensors: in-tree configs, our own settings, unused statistics, text encoders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.autoencoders import tiny_autoencoder
from helpers.checkpoints import official_config, save_checkpoint, tiny_transformer
from safetensors.torch import load_file, save_file

from ltx_diffusers import AutoencoderKLLTX, LTXTransformer3DModel
from ltx_diffusers.conversion.describe import describe
from ltx_diffusers.conversion.in_tree import check_fits, in_tree_config, pipeline_index
from ltx_diffusers.conversion.kept_statistics import kept_statistics, to_json
from ltx_diffusers.conversion.opening import open_model
from ltx_diffusers.conversion.own_settings import ENTRY, read_settings, unstated, with_settings
from ltx_diffusers.conversion.tensors import open_tensors
from ltx_diffusers.errors import CheckpointError
from ltx_diffusers.models.recorded import RECORD

BIAS = "model.diffusion_model.proj_out.bias"


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def saved_with(path: Path, entry: str, release: str = "0.9.1") -> Path:
    """A tiny official file with this text as our entry of the metadata."""
    transformer, vae = save_checkpoint(path, release)
    config = json.dumps(official_config(transformer, vae, release))
    save_file(load_file(path), path, {"config": config, ENTRY: entry})
    return path


# In-tree configs


def test_an_in_tree_config_splits_what_diffusers_knows_from_what_it_does_not() -> None:
    transformer = tiny_transformer(causal=True)
    config = {name: value for name, value in transformer.config.items() if name[0] != "_"}
    described = in_tree_config("transformer", config)
    assert described["_class_name"] == "LTXVideoTransformer3DModel"
    assert described["num_layers"] == 2 and "causal_temporal_positioning" not in described
    assert described[RECORD]["causal_temporal_positioning"] is True
    check_fits("transformer", described, shapes(transformer))


def test_tensors_that_diffusers_class_lacks_are_refused() -> None:
    vae = tiny_autoencoder("0.9.5")
    described = in_tree_config("vae", {name: value for name, value in vae.config.items() if name[0] != "_"})
    check_fits("vae", described, shapes(vae))
    with pytest.raises(
        CheckpointError, match="has other tensors than this vae; got 1 that differ, such as stray"
    ):
        check_fits("vae", described, shapes(vae) | {"stray": (1,)})
    with pytest.raises(CheckpointError, match="expected .8,"):
        check_fits("vae", described, shapes(vae) | {"latents_mean": (9,)})
    with pytest.raises(CheckpointError, match="can't be built with this vae's config"):
        check_fits("vae", described | {"down_block_types": ["Unknown"] * 4}, shapes(vae))


def test_a_pipelines_index_names_what_there_is() -> None:
    index = pipeline_index({"vae": ("diffusers", "AutoencoderKLLTXVideo")})
    assert index["vae"] == ["diffusers", "AutoencoderKLLTXVideo"]
    assert index["tokenizer"] == [None, None]
    assert index["_class_name"] == "LTXPipeline"


# Our settings in metadata


def test_only_what_does_not_come_back_is_kept() -> None:
    config = {"num_layers": 2, "default_height": 64, "norm_eps": 1e-6, "default_width": None}
    back = {"num_layers": 2}
    assert unstated(config, back, LTXTransformer3DModel) == {"default_height": 64}


def test_settings_reach_the_models_that_are_loaded(tmp_path: Path) -> None:
    entry = {"transformer": {"default_height": 64}, "scheduler": {"default_guidance_scale": 2.5}}
    path = saved_with(tmp_path / "a.safetensors", json.dumps(entry))
    with open_tensors(path) as source:
        found = describe(source)
    assert found.part("transformer").config["default_height"] == 64
    assert found.scheduler_config["default_guidance_scale"] == 2.5
    assert LTXTransformer3DModel.from_single_file(path).config.default_height == 64


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{", "isn't JSON"),
        ("[]", "must hold objects"),
        ('{"vae": 3}', "must hold objects"),
        ('{"vae": {"colour": 1}}', "field that AutoencoderKLLTX lacks; got colour"),
        ('{"scheduler": {"colour": 1}}', "field that LTXFlowMatchScheduler lacks; got colour"),
        ('{"transformer": {"num_layers": 1000000000}}', "num_layers|layers|blocks"),
        ("[" * 100_000, "isn't JSON"),
    ],
    ids=["cut", "list", "number", "vae", "scheduler", "depth", "nested"],
)
def test_damaged_or_hostile_settings_are_refused(entry: str, message: str, tmp_path: Path) -> None:
    path = saved_with(tmp_path / "a.safetensors", entry)
    with pytest.raises(CheckpointError, match=message), open_model(path):
        pass


def test_a_noted_release_that_does_not_fit_is_passed_over(tmp_path: Path) -> None:
    path = saved_with(tmp_path / "a.safetensors", json.dumps({"release": {"name": "0.9.7-dev"}}))
    with open_model(path) as model:
        assert model.version == "0.9.1"


def test_no_entry_is_no_settings() -> None:
    assert read_settings({"config": "{}"}) == {}
    assert with_settings({"a": 1}, {}, AutoencoderKLLTX) == {"a": 1}


# Unused statistics


def test_statistics_survive_as_text(tmp_path: Path) -> None:
    statistics = {
        "per_channel_statistics.channel": torch.arange(5),
        "per_channel_statistics.mean-of-stds": torch.randn(5, dtype=torch.bfloat16),
    }
    path = saved_with(tmp_path / "a.safetensors", json.dumps({"statistics": to_json(statistics)}))
    with open_tensors(path) as source:
        kept = kept_statistics(describe(source).part("vae"), source)
    for name, tensor in statistics.items():
        assert kept[name].dtype == tensor.dtype and torch.equal(kept[name], tensor)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"dtype": "F32", "shape": [2], "base64": "AA=="},
        {"dtype": "F99", "shape": [], "base64": ""},
        3,
        None,
    ],
    ids=["empty", "short", "dtype", "number", "null"],
)
def test_damaged_statistics_are_refused(entry: object, tmp_path: Path) -> None:
    settings = {"statistics": {"per_channel_statistics.channel": entry}}
    path = saved_with(tmp_path / "a.safetensors", json.dumps(settings))
    with open_tensors(path) as source, pytest.raises(CheckpointError, match="channel are damaged"):
        kept_statistics(describe(source).part("vae"), source)


# Text encoders


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"shared.weight": torch.zeros(8, 4)}, "isn't a T5 encoder of version 1.1; got no encoder.block.0"),
        (
            {
                "shared.weight": torch.zeros(8),
                "encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(4, 4),
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": torch.zeros(32, 3),
                "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": torch.zeros(4, 4),
            },
            "impossible shapes",
        ),
    ],
    ids=["other", "shapes"],
)
def test_other_text_encoders_are_refused(tensors: dict, message: str, tmp_path: Path) -> None:
    prefixed = {f"text_encoders.t5xxl.transformer.{name}": tensor for name, tensor in tensors.items()}
    save_checkpoint(tmp_path / "a.safetensors", "0.9.1", change=lambda known: known | prefixed)
    with pytest.raises(CheckpointError, match=message), open_model(tmp_path / "a.safetensors"):
        pass
