"""Training configs: strict, with near names, overrides and a round trip through YAML."""

from pathlib import Path

import pytest
import torch
import yaml

from ltx_diffusers.data import data_readers
from ltx_diffusers.errors import InputError
from ltx_diffusers.geometry import VideoSize, latent_size
from ltx_diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ltx_diffusers.models.autoencoders.released import RELEASED
from ltx_diffusers.training.config import build, load_config, save_config
from ltx_diffusers.training.transformer import TransformerTrainConfig
from ltx_diffusers.training.vae import VAETrainConfig
from ltx_diffusers.training.vae_config import compose_objectives

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({"output": "x", "stages": [{"steps": 1, "num_frames": 9, "batch_size": 2}]})
    )
    return path


def test_shipped_recipes_are_valid():
    load_config(VAETrainConfig, CONFIGS / "embedded/vae.yaml")
    load_config(TransformerTrainConfig, CONFIGS / "embedded/transformer.yaml")


@pytest.mark.parametrize("path", sorted((CONFIGS / "vae").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_of_the_vae_fit_together(path):
    config = load_config(VAETrainConfig, path)
    entries = {
        name: entry for name, entry in config.objectives.items() if name != "lpips"
    }  # needs its weights
    composition = compose_objectives(config.model_copy(update={"objectives": entries}))
    data = config.data
    assert data.reader in data_readers
    for bucket in (bucket for stage in config.stages for bucket in stage.all_buckets()):
        size = VideoSize(bucket.num_frames, bucket.height or data.height, bucket.width or data.width)
        composition.check_latents(latent_size(size))
    with torch.device("meta"):
        vae = build(AutoencoderKLLTX, config.model, "model")
        if config.train == "decoder":
            vae.encoder.requires_grad_(False)
        composition.setup(vae)
    if path.stem == "ltx":
        expected = {name: list(v) if isinstance(v, tuple) else v for name, v in RELEASED["0.9.1"].items()}
        ours = {name: list(v) if isinstance(v, tuple) else v for name, v in vae.config.items()}
        assert expected.items() <= ours.items()


def test_overrides_reach_sections_and_lists(config_file):
    config = load_config(
        VAETrainConfig,
        config_file,
        ["stages.0.steps=7", "optimizer.learning_rate=0.5", "objectives={l2: 2.0}", "seed=3"],
    )
    assert config.stages[0].steps == 7
    assert config.optimizer.learning_rate == 0.5
    assert config.objectives == {"l2": 2.0}
    assert config.seed == 3


def test_round_trip(config_file, tmp_path):
    overrides = [
        "optimizer.betas=[0.8, 0.9]",
        "objectives={l2: 1.0, wavelet: {weight: 0.5, options: {levels: 2}}}",
    ]
    config = load_config(VAETrainConfig, config_file, overrides)
    save_config(config, tmp_path / "again.yaml")
    assert load_config(VAETrainConfig, tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sead=1", "did you mean seed"),
        ("optimizer.learning_rat=1.0", "did you mean learning_rate"),
        ("stages.0.step=1", "did you mean steps"),
        ("seed=much", "seed"),
        ("seed='1'", "seed"),
        ("optimizer.learning_rate=-1.0", "learning_rate"),
        ("stages.5.steps=1", "no such place"),
        ("objectives={l1: much}", "objectives.l1.*valid number"),
        ("objectives.l1={weigth: 1.0}", "objectives.l1.*did you mean weight"),
        ("objectives.l1={balance: {kind: adaptive, cap: 1.0e4}}", "balance.cap.*sign in its exponent"),
        ("no-equals-sign", "key=value"),
        ("data.height=100", "96 or 128"),
        ("data.num_frames=18", "^config key 'data': the number of frames must be .* use 17 or 25$"),
        ("stages.0.num_frames=18", "17 or 25"),
        ("seed=-1", "seed"),
        ("optimizer.learning_rate=1e-3", "1.0e-3"),
        ("output: [", "key=value"),
        ("data=[", "YAML"),
    ],
)
def test_bad_settings_are_named(config_file, override, message):
    with pytest.raises(InputError, match=message):
        load_config(VAETrainConfig, config_file, [override])


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="can't read the config"):
        load_config(VAETrainConfig, tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(InputError, match="mapping"):
        load_config(VAETrainConfig, tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        load_config(VAETrainConfig, tmp_path / "binary.yaml")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(VAETrainConfig, tmp_path / "broken.yaml")
