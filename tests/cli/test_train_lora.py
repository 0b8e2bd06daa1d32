"""`ltx-diffusers train lora`: what it refuses, and its presets. A whole run is in tests/hub/test_train_and_push.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.media_sets import write_clips
from tiny import tiny_components

from ltx_diffusers import LTXPipeline
from ltx_diffusers.cli import app, train
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.lora_presets import PRESETS, lora_preset
from ltx_diffusers.training.transformer_config import TransformerTrainConfig


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a set of clips and a model."""
    monkeypatch.chdir(tmp_path)
    write_clips(tmp_path / "clips", 3)
    LTXPipeline(**tiny_components(causal=True)).save_pretrained(tmp_path / "base")
    return tmp_path


def run(*arguments: object) -> int:
    return app.main(["train", "lora", *map(str, arguments)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--preset", "3b-24gb"), "expected: one of|2b-24gb"),
        (("adapter.rnak=3",), "did you mean rank"),
        (("--size", "60x32x9"), "width must be"),
        (("--push-to-hub", "me/lora"), "--base-model"),
        (("--data", "nothing"), "nothing at"),
        (("--model", "no/where/at/all"), "no/where/at/all"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(place: Path, capsys, options, message) -> None:
    given = [] if "--data" in options else ["--data", "clips"]
    model = [] if "--model" in options else ["--model", "base"]
    size = [] if "--size" in options else ["--size", "64x32x9"]
    assert run(*given, *model, *size, "-o", "run", *options) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (place / "run" / "cache").exists()


def test_latents_bring_their_size_and_unfinished_ones_are_said(place: Path, capsys, monkeypatch) -> None:
    begun = []
    monkeypatch.setattr(train, "run_training", lambda task, config, *_: begun.append(config))
    sizes = ["--size", "64x32x9", "--size", "64x32"]
    words = ["precompute", "clips", "-o", "latents", "--model", "base", "--no-text", *sizes]
    assert app.main(words) == 0
    assert run("--data", "latents", "--model", "base", "-o", "run") == 0
    assert run("--data", "latents", "--model", "base", "-o", "run", "--size", "96x64x17") == 0
    found = [(config.data.num_frames, config.data.height, config.data.width) for config in begun]
    assert found == [(9, 32, 64), (17, 64, 96)]
    assert {config.latents for config in begun} == {"latents"}
    (place / "latents" / "samples.jsonl").unlink()
    assert run("--data", "latents", "--model", "base", "-o", "run") == 2
    assert "aren't finished" in capsys.readouterr().err


def test_a_checkpoint_file_needs_a_text_encoder_unless_the_latents_have_texts(
    place: Path, capsys, monkeypatch
) -> None:
    begun = []
    monkeypatch.setattr(train, "run_training", lambda task, config, *_: begun.append(config))
    (place / "file.safetensors").write_bytes(b"")
    words = ["precompute", "clips", "--model", "base", "--size", "64x32x9"]
    assert app.main([*words, "-o", "with"]) == app.main([*words, "-o", "without", "--no-text"]) == 0
    assert run("--data", "with", "--model", "file.safetensors", "-o", "run") == 0
    assert [config.initial_weights for config in begun] == ["file.safetensors"]
    for data in ("clips", "without"):
        capsys.readouterr()
        assert run("--data", data, "--model", "file.safetensors", "-o", "run", "--size", "64x32x9") == 2
        assert "has no text encoder" in capsys.readouterr().err


def test_clips_without_captions_are_counted(place: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(train, "run_training", lambda *_: None)
    write_clips(place / "silent", 3, captions=False)
    for name, words in (("clips", ""), ("silent", "note: 2 of 2 clips have no caption")):
        assert run("--data", name, "--model", "base", "-o", "run", "--size", "64x32x9") == 0
        assert capsys.readouterr().err.strip() == words


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_configs(name: str) -> None:
    settings = lora_preset(name) | {"output": "out", "initial_weights": "model"}
    config = parse_config(TransformerTrainConfig, settings)
    assert config.adapter is not None
    assert lora_preset(name) is not lora_preset(name)
