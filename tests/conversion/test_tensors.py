"""Reading tensors one by one, from every kind of file."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltx_diffusers.conversion.safetensors_header import DTYPES
from ltx_diffusers.conversion.tensors import open_tensors
from ltx_diffusers.errors import CheckpointError, InputError

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.tensor(7, dtype=torch.int64),
    "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
}


def save_shards(folder: Path, mark: str = "") -> Path:
    """Two shards and their index, as Diffusers saves them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"diffusion_pytorch_model{mark}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    save_file({"a": TENSORS["a"]}, folder / names[0])
    save_file({"b": TENSORS["b"], "empty": TENSORS["empty"]}, folder / names[1])
    index = folder / f"diffusion_pytorch_model.safetensors.index{mark}.json"
    places = {"a": names[0], "b": names[1], "empty": names[1]}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def check(source, expected=TENSORS) -> None:
    assert set(source.names()) == set(expected)
    for name, tensor in expected.items():
        info, loaded = source.info(name), source.load(name)
        assert (
            (info.dtype, info.shape)
            == (tensor.dtype, tuple(tensor.shape))
            == (loaded.dtype, tuple(loaded.shape))
        )
        assert info.nbytes == tensor.nbytes
        assert torch.equal(loaded, tensor)


def test_a_file_is_read_tensor_by_tensor(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    with open_tensors(tmp_path / "x.safetensors") as source:
        check(source)
        assert source.metadata == {"format": "pt"}
        assert source.path == tmp_path / "x.safetensors"
        with pytest.raises(CheckpointError, match="no tensor 'c'"):
            source.load("c")


def test_names_come_in_the_order_of_the_bytes(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    with open_tensors(tmp_path / "x.safetensors") as source:
        places = [source._offsets[name] for name in source.names()]
    assert places == sorted(places)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype_is_read(tmp_path, dtype):
    tensor = torch.arange(8, dtype=torch.uint8).repeat_interleave(dtype.itemsize) % 2
    tensor = tensor.view(dtype).reshape(2, 4)
    save_file({"x": tensor}, tmp_path / "x.safetensors")
    with open_tensors(tmp_path / "x.safetensors") as source:
        loaded = source.load("x")
    assert loaded.dtype == dtype
    assert torch.equal(loaded.view(torch.uint8), tensor.view(torch.uint8))


def test_a_loaded_tensor_is_its_own(tmp_path):
    """It neither keeps the file open nor shares memory with another."""
    save_file({"x": torch.ones(4), "y": torch.ones(4)}, tmp_path / "x.safetensors")
    with open_tensors(tmp_path / "x.safetensors") as source:
        first = source.load("x").fill_(5)
        assert source.load("x").tolist() == source.load("y").tolist() == [1] * 4
        assert first.untyped_storage().nbytes() == first.nbytes
    (tmp_path / "x.safetensors").unlink()
    assert first.tolist() == [5] * 4


def test_shards_are_read_as_one(tmp_path):
    with open_tensors(save_shards(tmp_path)) as source:
        check(source)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_folder_is_read_by_variant(tmp_path, variant, sharded):
    mark = f".{variant}" if variant else ""
    if sharded:
        save_shards(tmp_path, mark)
    else:
        save_file(TENSORS, tmp_path / f"diffusion_pytorch_model{mark}.safetensors")
    other = None if variant else "fp16"
    (tmp_path / "config.json").write_text('{"_class_name": "X"}')
    with open_tensors(tmp_path, variant=variant) as source:
        check(source)
        assert source.config == {"_class_name": "X"}
    with pytest.raises(CheckpointError, match="has no weights"):
        open_tensors(tmp_path, variant=other)


def test_a_text_encoder_s_folder_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    with open_tensors(tmp_path) as source:
        check(source)


def test_what_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="there is no file"):
        open_tensors(tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError, match=r"unknown kind; got \.txt"):
        open_tensors(tmp_path / "x.txt")
    with pytest.raises(CheckpointError, match="whole pipeline"):
        open_tensors(tmp_path / "pipeline")
    with pytest.raises(InputError, match="a variant belongs to a folder"):
        open_tensors(tmp_path / "x.txt", variant="fp16")


def test_a_device_file_isn_t_read():
    with pytest.raises(CheckpointError, match="isn't a regular file"):
        open_tensors("/dev/zero")


# Pickles


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".pth", ".bin"])
def test_a_pickle_is_refused_unless_asked(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    torch.save({"state_dict": TENSORS, "step": 3}, path)
    with pytest.raises(CheckpointError, match="is a pickle, which can run code"):
        open_tensors(path)
    with open_tensors(path, allow_pickle=True) as source:
        check(source)


def test_a_folder_with_pickles_only_is_refused(tmp_path):
    torch.save(TENSORS, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is a pickle"):
        open_tensors(tmp_path)
    with open_tensors(tmp_path, allow_pickle=True) as source:
        check(source)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_runs_no_code(tmp_path, write):
    write({"x": Touch(tmp_path / "ran")}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="can't be read as plain weights"):
        open_tensors(tmp_path / "x.pt", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_view_can_t_claim_a_huge_tensor(tmp_path):
    torch.save({"x": torch.zeros(1).expand(2**40)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="isn't a tensor of this file"):
        open_tensors(tmp_path / "x.pt", allow_pickle=True)
    torch.save([1, 2], tmp_path / "y.pt")
    with pytest.raises(CheckpointError, match="holds no state dict; got list"):
        open_tensors(tmp_path / "y.pt", allow_pickle=True)
