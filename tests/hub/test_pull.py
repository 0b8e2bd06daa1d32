"""Downloads from a Hub on loopback: what is fetched, what is refused, and that folders stay as they are."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.hub_server import STRANGER, HubServer
from safetensors.torch import save

from ltx_diffusers import LTXPipeline
from ltx_diffusers.errors import CheckpointError, HubError, InputError, UnknownNameError
from ltx_diffusers.hub import pull as pull_module
from ltx_diffusers.hub.pull import pull
from ltx_diffusers.hub.push import push_folder


@pytest.fixture
def pushed(hub: HubServer, model: Path) -> HubServer:
    push_folder(model, "tiny", private=True)
    return hub


def test_a_model_comes_back_as_it_went(pushed: HubServer, model: Path, tmp_path: Path) -> None:
    found = pull("tiny", tmp_path / "new" / "got")
    got = tmp_path / "new" / "got"
    names = {path.relative_to(got).as_posix() for path in got.rglob("*") if path.is_file()}
    assert names == set(found.files) == set(pushed.repos["model", "ada/tiny"].files) - {".gitattributes"}
    assert all(
        (got / name).read_bytes() == (model / name).read_bytes() for name in names if "README" not in name
    )
    assert found.commit == pushed.repos["model", "ada/tiny"].head
    assert found.left_out == (".gitattributes",)
    LTXPipeline.from_pretrained(got)

    before = len(pushed.requests)
    assert pull("ada/tiny", got).was_there
    assert not any("/resolve/" in path and "index" not in path for _, path in pushed.requests[before:])


def test_the_folder_is_named_after_the_repository(
    pushed: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert pull("ada/tiny", files=["*.json"]).folder == Path("tiny")
    assert (tmp_path / "here" / "tiny" / "model_index.json").is_file()


def test_single_files_and_revisions(pushed: HubServer, model: Path, tmp_path: Path) -> None:
    first = pushed.repos["model", "ada/tiny"].head
    (model / "LICENSE").write_text("mine")
    push_folder(model, "tiny")
    assert "LICENSE" not in pull("ada/tiny", tmp_path / "old", revision=first).files
    assert pull("ada/tiny", tmp_path / "new", files=["LICENSE", "vae/*.json"]).files.keys() == {
        "LICENSE",
        "vae/config.json",
    }
    with pytest.raises(InputError, match="has no file 'unet/\\*'"):
        pull("ada/tiny", tmp_path / "none", files=["unet/*"])
    with pytest.raises(HubError, match="no such revision"):
        pull("ada/tiny", tmp_path / "none", revision="0" * 40)


def test_what_does_not_belong_to_the_model_is_left_out(pushed: HubServer, tmp_path: Path) -> None:
    repo = pushed.repos["model", "ada/tiny"]
    others = {"ltxv-13b.safetensors": b"x", "vae/model.bin": b"x", "media/a.png": b"x", "train.py": b"x"}
    repo.commit("more", repo.files | others | {"samples/a.mp4": b"x"})
    found = pull("ada/tiny", tmp_path / "got")
    assert set(found.left_out) == {".gitattributes", *others}
    assert "samples/a.mp4" in found.files


def test_a_folder_with_other_content_is_never_touched(pushed: HubServer, tmp_path: Path) -> None:
    target = tmp_path / "got"
    target.mkdir()
    (target / "model_index.json").write_text("mine")
    with pytest.raises(InputError, match="exists and differs from the repository; got .* such as README.md"):
        pull("ada/tiny", target)
    assert [path.name for path in target.iterdir()] == ["model_index.json"]
    assert (target / "model_index.json").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="exists and differs"):
        pull("ada/tiny", tmp_path / "file")


def test_repositories_that_can_not_be_read(pushed: HubServer, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no repository 'ada/none'"):
        pull("ada/none", tmp_path / "got")
    with pytest.raises(UnknownNameError, match="no repository 'ada/tiny' that you may read"):
        pull("ada/tiny", tmp_path / "got", token=STRANGER)
    pushed.make_repo("ada/data", {"a.csv": b"1"})
    with pytest.raises(InputError, match="no model of LTX-Video; got other files \\(a.csv\\)"):
        pull("ada/data", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_a_name_without_an_owner_and_a_login(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="nobody is logged in; got 'tiny'; expected owner/name; or log in"):
        pull("tiny", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_several_checkpoints_must_be_chosen_from(hub: HubServer, tmp_path: Path) -> None:
    weights = save({"model.diffusion_model.patchify_proj.weight": torch.zeros(2, 2)})
    hub.make_repo("ada/ltxv", {"a.safetensors": weights, "b.safetensors": weights})
    with pytest.raises(InputError, match="several checkpoints; got a.safetensors, b.safetensors"):
        pull("ada/ltxv", tmp_path / "got")
    assert pull("ada/ltxv", tmp_path / "got", files=["b.safetensors"]).files.keys() == {"b.safetensors"}


@pytest.mark.parametrize(
    "name",
    [
        "samples/../../evil.mp4",
        "/samples/evil.mp4",
        "samples/\\..\\evil.mp4",
        "samples//evil.mp4",
        "readme\n.md",
        "readme/nul\0",
    ],
)
def test_names_that_lead_out_of_the_folder(pushed: HubServer, tmp_path: Path, name: str) -> None:
    repo = pushed.repos["model", "ada/tiny"]
    repo.commit("evil", repo.files | {name: b"evil"})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="names a file that can't be put into a folder safely"):
        pull("ada/tiny", tmp_path / "got", files=() if not name.startswith("/") else ["*"])
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == {
        path for path in before if "cache" not in path.parts
    }


def test_names_that_differ_in_case_only(pushed: HubServer, tmp_path: Path) -> None:
    repo = pushed.repos["model", "ada/tiny"]
    repo.commit("twice", repo.files | {"readme.md": b"other"})
    with pytest.raises(InputError, match="differ in case only"):
        pull("ada/tiny", tmp_path / "got")


def test_a_model_that_is_not_whole_gets_no_folder(pushed: HubServer, tmp_path: Path) -> None:
    repo = pushed.repos["model", "ada/tiny"]
    weights = "vae/diffusion_pytorch_model.safetensors"
    index = json.dumps(
        {"metadata": {}, "weight_map": {"a": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    )
    repo.commit(
        "broken",
        {name: data for name, data in repo.files.items() if name != weights}
        | {f"{weights}.index.json": index.encode()},
    )
    with pytest.raises(CheckpointError):
        pull("ada/tiny", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_no_room(pushed: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="no room for the files"):
        pull("ada/tiny", tmp_path / "got")
    assert not pushed.count("GET", "/storage/")


def test_offline(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        pull("ada/tiny", tmp_path / "got")
