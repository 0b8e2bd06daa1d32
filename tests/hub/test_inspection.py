"""What `inspect_model` reads, against models that were really loaded; and that it stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file

from ltx_diffusers.errors import InputError, UnknownNameError
from ltx_diffusers.hub import inspection, sources
from ltx_diffusers.hub.inspection import inspect_model, read_safetensors_header


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLLTXVideo:
    return AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )


@pytest.fixture(scope="module")
def model(vae: AutoencoderKLLTXVideo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with a VAE in two shards, an fp16 variant beside them, and a scheduler."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    vae.save_pretrained(folder / "vae", max_shard_size="300KB")
    vae.save_pretrained(folder / "vae", variant="fp16")
    FlowMatchEulerDiscreteScheduler(base_shift=0.95, use_dynamic_shifting=True).save_pretrained(
        folder / "scheduler"
    )
    index = {
        "_class_name": "LTXPipeline",
        "_diffusers_version": "0.42.1",
        "vae": ["diffusers", "AutoencoderKLLTXVideo"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "tokenizer": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_pipeline_is_described(model: Path, vae: AutoencoderKLLTXVideo) -> None:
    assert len(list((model / "vae").glob("*-of-*.safetensors"))) >= 2
    info = inspect_model(str(model))

    assert (info.pipeline, info.version) == ("LTXPipeline", "0.42.1")
    assert [component.name for component in info.components] == ["vae", "scheduler"]
    described, scheduler = info.components
    assert described.parameters == sum(parameter.numel() for parameter in vae.parameters())
    assert described.dtypes == ("F32",)
    assert described.bytes == sum(tensor.numel() * 4 for tensor in vae.state_dict().values())
    assert (described.library, described.class_name) == ("diffusers", "AutoencoderKLLTXVideo")
    assert described.settings["spatial_compression_ratio"] == 32
    assert described.settings["timestep_conditioning"] is False
    assert scheduler.parameters is None
    assert scheduler.settings["base_shift"] == 0.95
    assert info.parameters == described.parameters


def test_a_single_component_is_described(model: Path, vae: AutoencoderKLLTXVideo) -> None:
    info = inspect_model(str(model / "vae"))
    assert info.pipeline is None
    assert info.components[0].class_name == "AutoencoderKLLTXVideo"
    assert info.components[0].settings["latent_channels"] == 8


def test_mixed_dtypes_are_counted_in_bits(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(3, 5, dtype=torch.bfloat16),
        "b": torch.zeros(2, dtype=torch.float8_e4m3fn),
        "c": torch.zeros(4, dtype=torch.bool),
        "d": torch.zeros(()),
    }
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text("{}")

    found = read_safetensors_header(tmp_path / "model.safetensors")
    assert found["a"] == ("BF16", (3, 5))
    component = inspect_model(str(tmp_path)).components[0]
    assert component.bytes == sum(t.numel() * t.element_size() for t in tensors.values()) == 40
    assert component.parameters == 22
    assert component.dtypes[0] == "BF16"


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"\xff" * 40, (5).to_bytes(8, "little") + b"{bad}", (2).to_bytes(8, "little") + b"[]"],
)
def test_a_broken_weight_file_is_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file"):
        read_safetensors_header(tmp_path / "model.safetensors")


def test_broken_json_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(InputError, match="not a JSON file"):
        inspect_model(str(tmp_path))


def test_unknown_models_get_near_names(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean embedded"):
        inspect_model("embeded")
    with pytest.raises(UnknownNameError, match=f"did you mean {model}"):
        inspect_model(f"{model}y")
    with pytest.raises(InputError, match=f"did you mean .*{model}"):
        inspect_model(str(model.parent))  # one folder too high
    with pytest.raises(InputError, match="has no model"):
        inspect_model(str(tmp_path))
    with pytest.raises(InputError, match="the file"):
        inspect_model(str(model / "model_index.json"))


def test_a_repository_that_is_out_of_reach_is_bad_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not in the local cache.*did you mean Lightricks/LTX-Video"):
        inspect_model("Lightrick/LTX-Vido")


def test_a_repository_on_the_hub_is_read_by_its_heads(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the Hub's client answering from a folder, the description equals the folder's own."""

    class Client:
        def list_repo_files(self, repository: str) -> list[str]:
            return inspection.FolderFiles(model).names()

        def hf_hub_download(self, repository: str, name: str) -> str:
            assert not name.endswith(".safetensors")
            return str(model / name)

        def parse_safetensors_file_metadata(self, repository: str, name: str) -> SimpleNamespace:
            header = read_safetensors_header(model / name)
            tensors = {
                key: SimpleNamespace(dtype=entry.dtype, shape=list(entry.shape))
                for key, entry in header.items()
            }
            return SimpleNamespace(tensors=tensors)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi", Client)
    assert inspect_model("someone/tiny").components == inspect_model(str(model)).components


def test_known_repositories_have_the_form_of_a_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [sources.find_model(name) for name in sources.KNOWN_REPOSITORIES] == list(
        sources.KNOWN_REPOSITORIES
    )


def test_the_command_loads_nothing_heavy(model: Path) -> None:
    code = (
        "import sys; from ltx_diffusers.cli.app import main; "
        f"assert main(['info', {str(model)!r}, '--json']) == 0; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["components"][0]["name"] == "vae"
