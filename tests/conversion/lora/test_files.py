"""LoRA files and folders: which file is meant, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.loras import some_lora
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx_diffusers.conversion.lora.files import (
    DIFFUSERS_FILE,
    METADATA_KEY,
    PEFT_CONFIG,
    PEFT_FILE,
    read_lora,
    write_lora,
)
from ltx_diffusers.conversion.lora.formats import FORMATS, to_tensors
from ltx_diffusers.conversion.lora.layers import Lora
from ltx_diffusers.conversion.tensors import SafetensorsFile
from ltx_diffusers.errors import CheckpointError, InputError

TENSORS = {
    "transformer.proj_in.lora_A.weight": torch.ones(2, 8),
    "transformer.proj_in.lora_B.weight": torch.ones(16, 2),
}


def save(path: Path, metadata: dict | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(TENSORS, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    "names",
    [
        [DIFFUSERS_FILE, "other.safetensors"],
        [PEFT_FILE, "other.safetensors"],
        ["style.safetensors", "optimizer.safetensors"],
    ],
)
def test_the_file_in_a_folder_is_found(names: tuple[str, str], tmp_path: Path) -> None:
    save(tmp_path / names[0])
    (tmp_path / names[1]).write_bytes(b"not a LoRA")
    assert list(read_lora(tmp_path).layers) == ["proj_in"]


def test_a_folder_with_several_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no LoRA"):
        read_lora(tmp_path)
    save(tmp_path / "a.safetensors")
    save(tmp_path / "b.safetensors")
    with pytest.raises(
        CheckpointError, match=r"several files that may be the LoRA; got a.safetensors, b.safetensors"
    ):
        read_lora(tmp_path)
    assert read_lora(tmp_path, weight_name="b.safetensors").layers


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "sub/a.safetensors"])
def test_a_files_name_cant_leave_the_folder(name: str, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="plain name"):
        read_lora(tmp_path / "folder", weight_name=name)


def test_pickles_are_read_only_when_asked(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        read_lora(tmp_path)
    assert list(read_lora(tmp_path, allow_pickle=True).layers) == ["proj_in"]


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({**TENSORS, "evil": Evil()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError):
        read_lora(tmp_path / "x.pt", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_alpha_is_read_from_the_metadata(tmp_path: Path) -> None:
    path = save(
        tmp_path / "x.safetensors",
        {METADATA_KEY: json.dumps({"transformer.lora_alpha": 6, "transformer.r": 2})},
    )
    assert read_lora(path).layers["proj_in"].scale == 3
    path = save(
        tmp_path / "y.safetensors", {METADATA_KEY: json.dumps({"lora_alpha": 8, "r": 2})}
    )  # a model's own
    assert read_lora(path).layers["proj_in"].scale == 4


def test_alpha_is_read_from_peft_beside_official_names(tmp_path: Path) -> None:
    """As diffusion-pipe writes them: ComfyUI's names in PEFT's file."""
    save_file(
        {
            key.replace("transformer.proj_in", "diffusion_model.patchify_proj"): t
            for key, t in TENSORS.items()
        },
        tmp_path / PEFT_FILE,
    )
    (tmp_path / PEFT_CONFIG).write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 1, "alpha_pattern": {"patchify_proj": 5}})
    )
    for source in (tmp_path, tmp_path / PEFT_FILE):
        assert read_lora(source).layers["proj_in"].scale == 2.5


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000, '"x"'])
def test_descriptions_that_arent_json_objects_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="isn't a JSON object"):
        read_lora(save(tmp_path / "x.safetensors", {METADATA_KEY: text}))
    save(tmp_path / PEFT_FILE)
    (tmp_path / PEFT_CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match="isn't a JSON object"):
        read_lora(tmp_path / PEFT_FILE)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError):
        read_lora(path)
    with pytest.raises(CheckpointError, match="there is no file"):
        read_lora(tmp_path / "none.safetensors")


def test_a_checkpoint_that_is_no_lora_is_recognised_without_loading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"model.diffusion_model.patchify_proj.weight": torch.ones(4, 4)}, tmp_path / "x.safetensors")
    monkeypatch.setattr(SafetensorsFile, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(CheckpointError, match="copy of the model's own parameter"):
        read_lora(tmp_path / "x.safetensors")


@pytest.mark.parametrize("format", FORMATS)
def test_remarks_of_a_file_are_kept(format: str, tmp_path: Path) -> None:
    remarks = {
        "modelspec.trigger_phrase": "in the style of",
        "format": "pt",
        METADATA_KEY: '{"lora_alpha": 2}',
    }
    path = write_lora(read_lora(save(tmp_path / "x.safetensors", remarks)), tmp_path / "out", format)
    with safe_open(path, "pt") as file:
        kept = file.metadata()
    assert kept["modelspec.trigger_phrase"] == "in the style of"
    assert (METADATA_KEY in kept) == (format == "diffusers")


def test_a_lora_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="changes no layer"):
        write_lora(Lora({}), tmp_path / "x")


def test_targets(tmp_path: Path) -> None:
    lora = some_lora()
    assert write_lora(lora, tmp_path / "a" / "x.safetensors", "comfy") == tmp_path / "a" / "x.safetensors"
    assert write_lora(lora, tmp_path / "b", "diffusers") == tmp_path / "b" / DIFFUSERS_FILE
    assert write_lora(lora, tmp_path / "c", "peft") == tmp_path / "c" / PEFT_FILE
    assert {path.name for path in (tmp_path / "c").iterdir()} == {PEFT_FILE, PEFT_CONFIG}
    with pytest.raises(InputError, match="which has content"):
        write_lora(lora, tmp_path / "c", "peft")
    with pytest.raises(InputError, match=r"written as a .safetensors file"):
        write_lora(lora, tmp_path / "x.bin", "comfy")


def test_diffusers_files_have_the_metadata_that_diffusers_reads(tmp_path: Path) -> None:
    path = write_lora(some_lora("patterns"), tmp_path / "x.safetensors")
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()[METADATA_KEY])
    assert settings["transformer.lora_alpha"] == 3
    assert settings["transformer.r"] == 2
    assert settings["transformer.rank_pattern"]["proj_in"] == 4
    assert settings["transformer.alpha_pattern"]["transformer_blocks.1.ff.net.2"] == 5
    assert load_file(path).keys() == to_tensors(some_lora("patterns"), "diffusers").keys()
