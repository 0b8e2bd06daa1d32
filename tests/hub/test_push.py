"""Uploads against a Hub on loopback, through the real client: what appears there, and what is refused before that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.hub_server import READER, STRANGER, TOKEN, HubServer
from helpers.loras import some_lora
from safetensors.torch import load_file, save_file

from ltx_diffusers import AutoencoderKLLTX, LTXPipeline
from ltx_diffusers.conversion.lora.files import read_lora, write_lora
from ltx_diffusers.errors import CheckpointError, HubError, InputError
from ltx_diffusers.hub import prepared
from ltx_diffusers.hub.facts import CardFacts
from ltx_diffusers.hub.pull import pull
from ltx_diffusers.hub.push import push_folder
from ltx_diffusers.hub.sending import mixed_up

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_model_appears_whole_with_one_commit(hub: HubServer, model: Path) -> None:
    upload = push_folder(model, "tiny", private=True)

    repo = hub.repos["model", "ada/tiny"]
    assert repo.private
    assert [message for _, message, _ in repo.commits] == [
        "initial commit",
        "Upload a pipeline in the native layout with ltx-diffusers",
    ]
    local = files_of(model)
    assert set(repo.files) - {".gitattributes", "README.md"} == set(local)
    assert all(
        repo.files[name] == content for name, content in local.items() if name.endswith(".safetensors")
    )
    assert upload.repository == "ada/tiny"
    assert upload.url.endswith(repo.head)
    assert upload.bytes == sum(len(data) for name, data in repo.files.items() if name != ".gitattributes")


def test_what_is_there_is_not_sent_again(hub: HubServer, model: Path) -> None:
    push_folder(model, "tiny")
    again = push_folder(model, "tiny")
    assert (again.url, again.new) == (None, {})
    assert len(hub.repos["model", "ada/tiny"].commits) == 2

    weights = load_file(model / WEIGHTS)
    weights["decoder.conv_out.conv.bias"] += 1
    save_file(weights, model / WEIGHTS, {"format": "pt"})
    before = len(hub.uploads)
    changed = push_folder(model, "tiny")
    assert list(changed.new) == [WEIGHTS]
    assert len(hub.uploads) == before + 1


def test_equal_files_are_sent_once(hub: HubServer, model: Path) -> None:
    (model / "samples").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (model / "samples" / name).write_bytes(b"the same video")
    push_folder(model, "tiny", card=False)
    files = hub.repos["model", "ada/tiny"].files
    assert files["samples/a.mp4"] == files["samples/b.mp4"] == b"the same video"
    assert len(hub.uploads) == len(set(hub.uploads)) == 4


def test_large_files_go_in_parts(hub: HubServer, model: Path) -> None:
    hub.part_bytes = 500_000
    push_folder(model, "tiny")
    assert sum("/" in upload for upload in hub.uploads) == 3
    assert hub.repos["model", "ada/tiny"].files[WEIGHTS] == (model / WEIGHTS).read_bytes()


def test_a_dry_run_changes_nothing(hub: HubServer, model: Path) -> None:
    upload = push_folder(model, "tiny", dry_run=True)
    assert upload.url is None
    assert upload.new[WEIGHTS] == (model / WEIGHTS).stat().st_size
    assert 'from_pretrained("ada/tiny"' in upload.card
    assert not hub.repos
    assert {method for method, _ in hub.requests} == {"GET"}


def test_only_files_of_the_model_are_uploaded(hub: HubServer, model: Path) -> None:
    for name in ("optimizer.pt", "vae/old.bin", ".env", "notes/todo.md", "transformer/x.safetensors.partial"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("not for others")
    upload = push_folder(model, "tiny")
    assert set(upload.left_out) == {
        ".env",
        "notes/todo.md",
        "optimizer.pt",
        "transformer/x.safetensors.partial",
        "vae/old.bin",
    }
    assert not set(hub.repos["model", "ada/tiny"].files) & set(upload.left_out)


def test_places_on_this_machine_are_taken_out(hub: HubServer, model: Path, tmp_path: Path) -> None:
    for name, origin in (("vae", str(tmp_path)), ("transformer", "Lightricks/LTX-Video")):
        config = json.loads((model / name / "config.json").read_text())
        (model / name / "config.json").write_text(json.dumps(config | {"_name_or_path": origin}))
    push_folder(model, "tiny")
    files = hub.repos["model", "ada/tiny"].files
    assert "_name_or_path" not in json.loads(files["vae/config.json"])
    assert json.loads(files["transformer/config.json"])["_name_or_path"] == "Lightricks/LTX-Video"
    assert str(tmp_path).encode() not in b"".join(
        data for name, data in files.items() if not name.endswith(".safetensors")
    )


def test_weights_that_were_split_otherwise_are_removed(hub: HubServer, model: Path, tmp_path: Path) -> None:
    vae = AutoencoderKLLTX.from_pretrained(model / "vae")
    sharded = shutil.copytree(model, tmp_path / "sharded")
    (sharded / WEIGHTS).unlink()
    vae.save_pretrained(sharded / "vae", max_shard_size="500KB")
    push_folder(sharded, "tiny")
    shards = {
        name for name in hub.repos["model", "ada/tiny"].files if name.startswith("vae/") and "of" in name
    }
    assert len(shards) >= 3

    upload = push_folder(model, "tiny")
    assert set(upload.removed) == shards | {"vae/diffusion_pytorch_model.safetensors.index.json"}
    assert {name for name in hub.repos["model", "ada/tiny"].files if name.startswith("vae/")} == {
        "vae/config.json",
        WEIGHTS,
    }


@pytest.mark.parametrize(
    ("there", "new", "removed"),
    [
        ("vae/m-00001-of-00002.safetensors", "vae/m.safetensors", True),
        ("vae/m.safetensors.index.json", "vae/m.safetensors", True),
        ("vae/m-00001-of-00002.safetensors", "vae/m-00001-of-00003.safetensors", True),
        ("vae/m.fp16-00001-of-00002.safetensors", "vae/m.fp16.safetensors", True),
        ("vae/m.safetensors.index.fp16.json", "vae/m.fp16.safetensors", True),
        ("vae/m.fp16.safetensors", "vae/m.safetensors", False),
        ("vae/m.safetensors.index.fp16.json", "vae/m.safetensors", False),
        ("transformer/m.safetensors", "vae/m.safetensors", False),
        ("ltxv-2b-0.9.6.safetensors", "ltxv-2b-0.9.8.safetensors", False),
        ("vae/config.json", "vae/m.safetensors", False),
    ],
)
def test_which_weights_would_be_mixed_up(there: str, new: str, removed: bool) -> None:
    assert (mixed_up([there], [new]) == (there,)) is removed


def test_a_component_and_a_subfolder(hub: HubServer, model: Path) -> None:
    push_folder(model / "vae", "lab/vae")
    files = hub.repos["model", "lab/vae"].files
    assert set(files) == {".gitattributes", "README.md", "config.json", "diffusion_pytorch_model.safetensors"}
    push_folder(model / "transformer", "lab/vae", subfolder="transformer")
    assert set(hub.repos["model", "lab/vae"].files) - set(files) == {
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
    }


def test_a_pull_request_leaves_the_branch_alone(hub: HubServer, model: Path) -> None:
    hub.make_repo("ada/tiny")
    upload = push_folder(model, "ada/tiny", create_pr=True)
    assert upload.url.endswith("/discussions/1")
    assert len(hub.repos["model", "ada/tiny"].commits) == 1


# --- refused before any work ------------------------------------------------------------------------------------


def nothing_was_sent(hub: HubServer) -> bool:
    return not hub.uploads and not hub.count("POST", "/(commit|preupload|repos)")


@pytest.mark.parametrize(
    ("token", "repository", "message"),
    [
        (READER, "ada/tiny", "the token may only read"),
        (STRANGER, "ada/tiny", "you may not make a repository for 'ada'"),
        (TOKEN, "library/tiny", "you may not make a repository for 'library'"),
        ("hf_" + "Forgotten" * 3, "ada/tiny", "doesn't know who you are"),
        ("hf_" + "Two\nLines" * 3, "ada/tiny", "the token has spaces"),
        (TOKEN, "ada/../tiny", "can't be a repository's name"),
        (TOKEN, "ada/tiny/more", "can't be a repository's name"),
    ],
)
def test_no_right_and_no_name(hub: HubServer, model: Path, token: str, repository: str, message: str) -> None:
    with pytest.raises((HubError, InputError), match=message) as caught:
        push_folder(model, repository, token=token)
    assert nothing_was_sent(hub)
    assert token not in str(caught.value)


def test_no_right_to_write_into_a_repository_of_another(hub: HubServer, model: Path) -> None:
    hub.make_repo("eve/theirs")
    with pytest.raises(HubError, match="you have no right to this on eve/theirs"):
        push_folder(model, "eve/theirs")
    hub.make_repo("eve/secret", private=True)
    with pytest.raises(HubError, match="you may not make a repository for 'eve'"):
        push_folder(model, "eve/secret")
    assert nothing_was_sent(hub)


def test_without_a_token(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match="log in with `hf auth login`, or set HF_TOKEN"):
        push_folder(model, "ada/tiny")
    assert nothing_was_sent(hub)


FLUX = json.dumps(
    {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
).encode()


@pytest.mark.parametrize(
    ("files", "seen"),
    [
        ({"model_index.json": FLUX}, "a FluxPipeline with FluxTransformer2DModel"),
        ({"config.json": b'{"architectures": ["LlamaForCausalLM"]}'}, "a LlamaForCausalLM"),
        ({"config.json": b'{"_class_name": "AutoencoderKLLTX"}'}, "a vae in the native layout"),
        ({"pytorch_lora_weights.safetensors": b"."}, "a LoRA"),
        ({"data.csv": b"1,2"}, "other files (data.csv)"),
    ],
)
def test_a_repository_of_another_kind(
    hub: HubServer, model: Path, files: dict[str, bytes], seen: str
) -> None:
    hub.make_repo("ada/tiny", files)
    with pytest.raises(InputError) as caught:
        push_folder(model, "ada/tiny")
    assert f"got {seen} there" in str(caught.value)
    assert "expected a pipeline in the native layout" in str(caught.value)
    assert nothing_was_sent(hub)


def test_another_layout_and_single_files(hub: HubServer, model: Path, tmp_path: Path) -> None:
    push_folder(model, "tiny")
    with pytest.raises(InputError, match="a pipeline in the native layout there.*--layout native"):
        push_folder(model, "tiny", layout="diffusers")

    single = tmp_path / "single.safetensors"
    save_file({"model.diffusion_model.patchify_proj.weight": torch.zeros(4, 4)}, single)
    hub.make_repo("ada/single", {"ltxv.safetensors": single.read_bytes()})
    with pytest.raises(InputError, match="official single files there"):
        push_folder(model, "ada/single")


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_a_data_set_or_a_space_of_that_name(hub: HubServer, model: Path, kind: str) -> None:
    hub.make_repo("ada/tiny", kind=kind)
    with pytest.raises(InputError, match=f"ada/tiny is a {kind} on the Hub, not a model"):
        push_folder(model, "ada/tiny")
    assert nothing_was_sent(hub)


def test_a_card_of_another_layout_is_pointed_out(hub: HubServer, model: Path) -> None:
    (model / "README.md").write_text("# mine\n")
    assert push_folder(model, "own").notes == ()
    (note,) = push_folder(model, "other", layout="diffusers").notes
    assert "--card makes one for the diffusers layout" in note


def test_what_is_meant_to_be_private_is_not_shown(hub: HubServer, model: Path) -> None:
    hub.make_repo("ada/open")
    with pytest.raises(InputError, match="ada/open is public"):
        push_folder(model, "ada/open", private=True)
    with pytest.raises(InputError, match="ada/open is public"):
        AutoencoderKLLTX.from_pretrained(model / "vae").push_to_hub("ada/open", private=True)
    assert nothing_was_sent(hub)
    hub.make_repo("ada/closed", private=True)
    push_folder(model, "ada/closed", private=True)


@pytest.mark.parametrize(
    ("layout", "name", "form"),
    [
        (None, "mine.safetensors", "kohya"),
        ("native", "pytorch_lora_weights.safetensors", "diffusers"),
        ("diffusers", "pytorch_lora_weights.safetensors", "diffusers"),
        ("official", "lora.safetensors", "comfy"),
    ],
)
def test_loras_get_the_names_of_their_layout(
    hub: HubServer, tmp_path: Path, layout: str | None, name: str, form: str
) -> None:
    write_lora(some_lora(), tmp_path / "mine" / "mine.safetensors", "kohya")
    (tmp_path / "mine" / "LICENSE").write_text("mine")
    upload = push_folder(tmp_path / "mine", "lora", layout=layout, facts=CardFacts(base_model="eve/base"))
    assert upload.what == "a LoRA"
    assert set(upload.new) == {"LICENSE", "README.md", name}
    pull("ada/lora", tmp_path / "got")
    got = read_lora(tmp_path / "got")
    assert got.format == form
    assert {key: (layer.rank, layer.alpha) for key, layer in got.layers.items()} == {
        key: (layer.rank, layer.alpha) for key, layer in some_lora().layers.items()
    }


def test_a_lora_without_effect_is_not_uploaded(hub: HubServer, tmp_path: Path) -> None:
    tensors = load_file(write_lora(some_lora(), tmp_path / "lora"))
    zero = {key: value * ("lora_B" not in key) for key, value in tensors.items()}
    save_file(zero, tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    with pytest.raises(InputError, match="would have no effect"):
        push_folder(tmp_path / "lora", "lora", facts=CardFacts(base_model="eve/base"))
    assert not hub.requests


def test_documents_do_not_make_a_kind(hub: HubServer, model: Path) -> None:
    hub.make_repo("ada/tiny", {"README.md": b"# soon here\n", "LICENSE": b"mine"})
    upload = push_folder(model, "ada/tiny")
    assert upload.card is None
    assert hub.repos["model", "ada/tiny"].files["README.md"] == b"# soon here\n"
    assert push_folder(model, "ada/tiny", card=True).new.keys() == {"README.md"}


# --- broken folders ---------------------------------------------------------------------------------------------


def test_folders_without_a_whole_model(hub: HubServer, model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no such folder"):
        push_folder(tmp_path / "none", "tiny")
    with pytest.raises(InputError, match="has no model of LTX-Video; got nothing"):
        push_folder(tmp_path / "empty", "tiny")
    with pytest.raises(InputError, match="unknown layout"):
        push_folder(model, "tiny", layout="comfy")

    (model / WEIGHTS).rename(model / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no weights of vae in safetensors files; got vae/diffusion"):
        push_folder(model, "tiny")
    shutil.rmtree(model / "vae")
    with pytest.raises(InputError, match="names vae, and there is no folder vae"):
        push_folder(model, "tiny")
    assert not hub.requests


def test_damaged_weights(hub: HubServer, model: Path) -> None:
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(content[:-1])
    with pytest.raises(CheckpointError):
        push_folder(model, "tiny")
    assert not hub.requests


def test_settings_of_a_card_that_is_not_made(hub: HubServer, model: Path) -> None:
    (model / "README.md").write_text("# mine\n")
    with pytest.raises(InputError, match="the folder has a card.*add --card"):
        push_folder(model, "tiny", facts=CardFacts(license="mit"))
    (model / "README.md").write_text("---\nlicense: [\n---\n# mine\n")
    with pytest.raises(InputError, match="front matter of .* isn't YAML"):
        push_folder(model, "tiny")
    assert nothing_was_sent(hub)


# --- from Python ------------------------------------------------------------------------------------------------


def test_pipelines_and_models_push_themselves(hub: HubServer, saved: Path) -> None:
    pipe = LTXPipeline.from_pretrained(saved)
    url = pipe.push_to_hub("tiny", commit_message="first", private=True, facts={"license": "apache-2.0"})
    repo = hub.repos["model", "ada/tiny"]
    assert url.endswith(repo.head)
    assert repo.commits[-1][1] == "first"
    assert b"license: apache-2.0" in repo.files["README.md"]
    assert pipe.push_to_hub("ada/tiny") == url

    pipe.vae.push_to_hub("lab/vae", variant="fp16", layout="diffusers")
    config = json.loads(hub.repos["model", "lab/vae"].files["config.json"])
    assert config["_class_name"] == "AutoencoderKLLTXVideo"
    assert "diffusion_pytorch_model.fp16.safetensors" in hub.repos["model", "lab/vae"].files


def test_models_check_rights_before_they_are_saved(
    hub: HubServer, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = AutoencoderKLLTX.from_pretrained(saved / "vae")
    monkeypatch.setattr(AutoencoderKLLTX, "save_pretrained", lambda *_, **__: pytest.fail("saved"))
    with pytest.raises(HubError, match="may only read"):
        vae.push_to_hub("ada/vae", token=READER)
    with pytest.raises(InputError, match="pickles aren't uploaded"):
        vae.push_to_hub("ada/vae", safe_serialization=False)
    hub.make_repo("ada/vae", {"model_index.json": FLUX})
    with pytest.raises(InputError, match="something of another kind"):
        vae.push_to_hub("ada/vae")


def test_saving_with_push_to_hub(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    vae = AutoencoderKLLTX.from_pretrained(saved / "vae")
    vae.save_pretrained(str(tmp_path / "my-vae"), push_to_hub=True, commit_message="saved")
    repo = hub.repos["model", "ada/my-vae"]
    assert [message for _, message, _ in repo.commits] == ["initial commit", "saved"]
    assert b"from ltx_diffusers import AutoencoderKLLTX" in repo.files["README.md"]


def test_an_official_file_is_converted_on_the_way(hub: HubServer, saved: Path, model: Path) -> None:
    upload = push_folder(model, "tiny", layout="official")
    files = hub.repos["model", "ada/tiny"].files
    assert "tiny.safetensors" in files
    assert {"text_encoder/model.safetensors", "tokenizer/tokenizer.json"} <= set(files)
    assert "model_index.json" not in files
    assert upload.what == "official single files"
    assert not list(model.parent.glob(".push-*"))
    again = push_folder(model, "tiny", layout="official")
    assert again.url is None, "the same model gives the same file"


def test_no_room_for_the_official_file(hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(InputError, match="there is no room"):
        push_folder(model, "tiny", layout="official")
    assert nothing_was_sent(hub)
