"""What `inspect_file` says of checkpoint files, against the models in them; no tensor is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import save_checkpoint
from helpers.sparse import sparse_checkpoint
from safetensors.torch import save_file

from ltx_diffusers.cli import app
from ltx_diffusers.conversion.official_configs import upsampler_to_official
from ltx_diffusers.conversion.tensors import SafetensorsFile
from ltx_diffusers.errors import CheckpointError
from ltx_diffusers.hub.file_inspection import inspect_file
from ltx_diffusers.models.upsamplers.latent_upsampler_ltx import LTXLatentUpsampler


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SafetensorsFile, "load", lambda *_: pytest.fail("a tensor was loaded"))


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_an_official_file_is_described(tmp_path: Path) -> None:
    transformer, vae = save_checkpoint(
        tmp_path / "a.safetensors",
        "0.9.6-distilled",
        change=lambda tensors: (
            {name: tensor.bfloat16() for name, tensor in tensors.items()} | {"stray": torch.zeros(1)}
        ),
    )
    info = inspect_file(tmp_path / "a.safetensors")
    assert (info.layout, info.precision, info.version) == ("official", "bf16", None)
    assert {"0.9.6-distilled", "0.9.8-2b-distilled"} <= set(info.candidates)
    assert not {"0.9.5", "0.9.6-dev", "0.9.0"} & set(info.candidates)
    assert [component.name for component in info.components] == ["transformer", "vae", "scheduler"]
    described, coder, scheduler = info.components
    assert described.parameters == parameters(transformer)
    assert coder.parameters == parameters(vae)
    assert coder.dtypes == ("BF16",)
    assert coder.bytes == 2 * sum(tensor.numel() for tensor in vae.state_dict().values())
    assert (described.class_name, coder.class_name) == ("LTXTransformer3DModel", "AutoencoderKLLTX")
    assert described.settings["causal_temporal_positioning"] is True
    assert scheduler.settings["schedule"] == "linear-quadratic"
    assert scheduler.settings["allowed_inference_steps"][-1] == 0.4219
    assert info.parameters == described.parameters + coder.parameters
    assert info.unexpected == ("stray",)
    assert json.loads(info.metadata["config"])["vae"]["timestep_conditioning"] is True


def test_a_release_is_named(tmp_path: Path) -> None:
    path = tmp_path / "release.safetensors"
    save_checkpoint(path, "0.9.1")
    assert (inspect_file(path).version, inspect_file(path).version_from) == ("0.9.1", "metadata")


@pytest.mark.parametrize("name", ["transformer.lora_A.weight", "lora_unet_x.lora_down.weight"])
def test_a_lora_is_sent_to_its_own_command(name: str, tmp_path: Path) -> None:
    save_file({name: torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="is a LoRA.*ltx-diffusers lora info"):
        inspect_file(tmp_path / "lora.safetensors")


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no LTX-Video checkpoint"):
        inspect_file(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError):
        inspect_file(tmp_path / "cut.safetensors")
    torch.save({}, tmp_path / "weights.ckpt")
    with pytest.raises(CheckpointError, match="is a pickle"):
        inspect_file(tmp_path / "weights.ckpt")


def test_the_command_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, "0.9.0")
    assert app.main(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "official layout, fp32, release 0.9.0 (told by its metadata)" in " ".join(shown.split())
    assert "AutoencoderKLLTX" in shown and "causal_temporal_positioning" in shown and "F32" in shown
    assert app.main(["info", str(path), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["version"] == "0.9.0"
    assert described["components"][1]["settings"]["timestep_conditioning"] is False
    assert app.main(["info", str(tmp_path / "none.safetensors")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("release", "total"),
    [("0.9.0", 1923.4 + 180.4 + 238.8), ("0.9.8-13b-dev", 13042.6 + 694.1 + 552.8)],
)
def test_released_sizes_are_described_from_the_header_alone(
    release: str, total: float, tmp_path: Path
) -> None:
    path = tmp_path / "large.safetensors"
    sparse_checkpoint(path, release)
    info = inspect_file(path)
    assert release in (info.version, *info.candidates)
    assert info.parameters / 1e6 == pytest.approx(total, abs=0.1)


@pytest.mark.parametrize("in_time", [False, True])
def test_an_upsampler_is_described(in_time: bool, tmp_path: Path) -> None:
    model = LTXLatentUpsampler(
        in_channels=8,
        mid_channels=32,
        num_blocks_per_stage=1,
        spatial_upsample=not in_time,
        temporal_upsample=in_time,
    )
    config = json.dumps(upsampler_to_official(model.config))
    save_file(model.state_dict(), tmp_path / "u.safetensors", {"config": config})
    info = inspect_file(tmp_path / "u.safetensors")
    (component,) = info.components
    assert component.name == ("temporal_upsampler" if in_time else "spatial_upsampler")
    assert component.parameters == parameters(model)
    assert component.settings["mid_channels"] == 32
