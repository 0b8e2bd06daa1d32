"""The report on a conversion sees every kind of damage, and none where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import save_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx_diffusers.conversion.convert import convert
from ltx_diffusers.conversion.verify import verify
from ltx_diffusers.errors import CheckpointError, InputError

BIAS = "model.diffusion_model.proj_out.bias"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "source.safetensors"
    save_checkpoint(path, "0.9.1")
    return path


def changed(source: Path, target: Path, tensors: dict[str, torch.Tensor], config: dict | None = None) -> None:
    """Write the source once more, with some tensors or parts of the transformer's config replaced."""
    with safe_open(source, "pt") as file:
        stated = json.loads(file.metadata()["config"])
    stated["transformer"] |= config or {}
    save_file(load_file(source) | tensors, target, {"config": json.dumps(stated)})


def test_an_equal_target_is_said_to_be_equal(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "folder", "diffusers", shard_size="1MB")
    report = verify(source, tmp_path / "folder", "diffusers")
    assert report.ok
    transformer, vae = report.parts
    assert (transformer.kind, transformer.tensors, transformer.dtypes) == ("transformer", 65, {"float32": 65})
    assert transformer.parameters == sum(
        tensor.numel() for name, tensor in load_file(source).items() if name.startswith("model.")
    )
    assert transformer.output_difference == vae.output_difference == 0
    assert "verified transformer: equal, 65 tensors" in report.lines()[0]


def test_checksums_are_those_of_the_weights_in_every_layout(source: Path, tmp_path: Path) -> None:
    sums = []
    for name, to in (
        ("folder", "diffusers"),
        ("official.safetensors", "official"),
        ("c.safetensors", "comfy"),
    ):
        report = convert(source, tmp_path / name, to, verify=True).report
        sums.append([part.checksum for part in report.parts])
    assert sums[0] == sums[1] == sums[2]
    changed(source, tmp_path / "other.safetensors", {BIAS: load_file(source)[BIAS] + 1e-6})
    other = convert(
        tmp_path / "other.safetensors", tmp_path / "o.safetensors", "official", verify=True
    ).report
    assert other.parts[0].checksum != sums[0][0]
    assert other.parts[1].checksum == sums[0][1]


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({BIAS: torch.full((8,), 0.5)}, "with other values"),
        ({BIAS: torch.zeros(8, dtype=torch.float16)}, "of another dtype"),
        ({BIAS: torch.full((8,), torch.nan)}, "with NaN or infinite values"),
        ({BIAS: torch.full((8,), -torch.inf)}, "with NaN or infinite values"),
    ],
    ids=["value", "dtype", "nan", "inf"],
)
def test_damage_is_found(source: Path, tmp_path: Path, tensors: dict, problem: str) -> None:
    changed(source, tmp_path / "target.safetensors", tensors)
    report = verify(source, tmp_path / "target.safetensors", "official")
    assert not report.ok
    transformer, vae = report.parts
    assert transformer.problems[problem] == ("proj_out.bias",)
    assert vae.ok
    assert any(line == f"  1 {problem}: proj_out.bias" for line in report.lines())


def test_a_target_that_computes_otherwise_is_found(source: Path, tmp_path: Path) -> None:
    """Equal weights under another config."""
    changed(source, tmp_path / "target.safetensors", {}, {"norm_eps": 1e-2})
    report = verify(source, tmp_path / "target.safetensors", "official")
    assert not report.ok
    assert report.parts[0].problems == {"settings stated otherwise": ("norm_eps",)}
    assert report.parts[0].output_difference > 0
    assert "DIFFERS" in report.lines()[0]


def test_missing_and_unexpected_tensors_are_found(source: Path, tmp_path: Path) -> None:
    tensors = load_file(source)
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    less = {name: tensor for name, tensor in tensors.items() if name != BIAS}
    save_file(less, tmp_path / "less.safetensors", metadata)
    with pytest.raises(
        CheckpointError, match="lacks 1 of the transformer's 65 tensors; got no proj_out.bias"
    ):
        verify(source, tmp_path / "less.safetensors", "official")
    save_file(
        tensors | {"model.diffusion_model.stray": torch.zeros(1)}, tmp_path / "more.safetensors", metadata
    )
    report = verify(source, tmp_path / "more.safetensors", "official")
    assert not report.ok
    assert report.lines()[0].endswith("1 tensors belong to no part: model.diffusion_model.stray")


def test_a_lost_part_is_found(source: Path, tmp_path: Path) -> None:
    only = {name: tensor for name, tensor in load_file(source).items() if name.startswith("model.")}
    with safe_open(source, "pt") as file:
        save_file(only, tmp_path / "half.safetensors", file.metadata())
    report = verify(source, tmp_path / "half.safetensors", "official")
    assert report.lost == ("vae",)
    assert not report.ok


def test_nan_in_the_source_is_reported_too(source: Path, tmp_path: Path) -> None:
    changed(source, tmp_path / "nan.safetensors", {BIAS: torch.full((8,), torch.nan)})
    report = convert(tmp_path / "nan.safetensors", tmp_path / "out", "diffusers", verify=True).report
    assert not report.ok
    assert set(report.parts[0].problems) == {"with NaN or infinite values"}


def test_an_unknown_layout_is_refused(source: Path) -> None:
    with pytest.raises(InputError, match="unknown layout"):
        verify(source, source, "gguf")


def test_another_schedule_is_found(source: Path, tmp_path: Path) -> None:
    with safe_open(source, "pt") as file:
        config = json.loads(file.metadata()["config"])
    config["scheduler"]["target_shift_terminal"] = 0.2
    save_file(load_file(source), tmp_path / "target.safetensors", {"config": json.dumps(config)})
    report = verify(source, tmp_path / "target.safetensors", "official")
    assert report.scheduler == ("shift_terminal",)
    assert not report.ok
    assert report.lines()[0] == "the scheduler's settings differ: shift_terminal"


def test_a_target_of_another_shape_is_found(source: Path, tmp_path: Path) -> None:
    """A whole model of its own, but not this one."""
    save_checkpoint(tmp_path / "other.safetensors", "0.9.0")
    transformer, vae = verify(source, tmp_path / "other.safetensors", "official").parts
    assert transformer.ok
    assert vae.missing and vae.unexpected and not vae.ok
