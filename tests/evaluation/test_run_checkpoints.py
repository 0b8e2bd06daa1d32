"""Autoencoders out of the checkpoints of a training run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tiny import vae_config

from ltx_diffusers import AutoencoderKLLTX
from ltx_diffusers.errors import InputError
from ltx_diffusers.evaluation.run_checkpoints import (
    checkpoints_of,
    is_checkpoint,
    is_run,
    load_checkpoint,
    step_of,
)


def model(seed: int) -> AutoencoderKLLTX:
    torch.manual_seed(seed)
    return AutoencoderKLLTX(**vae_config(True, "0.9.5")).eval()


def write_run(folder: Path, steps: tuple[int, ...] = (50, 100), **changes) -> Path:
    """A run's folder as training writes it: the objectives have weights too."""
    folder.mkdir()
    config = {
        "output": str(folder),
        "model": yaml.safe_load(yaml.safe_dump(listed(vae_config(True, "0.9.5")))),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config | changes))
    for step in steps:
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        weights = {f"vae.{name}": value.contiguous() for name, value in model(step).state_dict().items()}
        save_file(weights | {"objectives.scale": torch.zeros(1)}, checkpoint / "model.safetensors")
    return folder


def listed(config: dict) -> dict:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}


def test_a_runs_checkpoints_are_found_oldest_first(tmp_path: Path):
    run = write_run(tmp_path / "run", (200, 50, 100))
    (run / "checkpoints" / "step-00000300.partial").mkdir()
    (run / "checkpoints" / "step-00000300.partial" / "model.safetensors").touch()
    assert is_run(run)
    assert [step_of(path) for path in checkpoints_of(run)] == [50, 100, 200]
    assert is_checkpoint(checkpoints_of(run)[0])
    assert not is_run(tmp_path)
    assert not is_checkpoint(run)


def test_the_weights_are_those_that_were_saved(tmp_path: Path):
    run = write_run(tmp_path / "run")
    for path in checkpoints_of(run):
        torch.testing.assert_close(load_checkpoint(path).state_dict(), model(step_of(path)).state_dict())


def test_a_run_that_began_from_weights_has_their_config(tmp_path: Path):
    model(7).save_pretrained(tmp_path / "start")
    run = write_run(tmp_path / "run", (50,), initial_weights=str(tmp_path / "start"), model={})
    torch.testing.assert_close(load_checkpoint(checkpoints_of(run)[0]).state_dict(), model(50).state_dict())


def test_what_doesnt_fit_is_refused(tmp_path: Path):
    run = write_run(tmp_path / "other", (50,), model=listed(vae_config(True, "0.9.0")))
    with pytest.raises(InputError, match="don't fit"):
        load_checkpoint(checkpoints_of(run)[0])
    run = write_run(tmp_path / "none", (50,), model=None)
    with pytest.raises(InputError, match="isn't a checkpoint of a video autoencoder"):
        load_checkpoint(checkpoints_of(run)[0])
    run = write_run(tmp_path / "unknown", (50,), model={"nothing": 1})
    with pytest.raises(InputError, match=r"model\.nothing"):
        load_checkpoint(checkpoints_of(run)[0])
    run = write_run(tmp_path / "broken", (50,))
    (checkpoints_of(run)[0] / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="can't be read"):
        load_checkpoint(checkpoints_of(run)[0])
    (run / "config.yaml").unlink()
    with pytest.raises(InputError, match="config"):
        load_checkpoint(run / "checkpoints" / "step-00000050")
