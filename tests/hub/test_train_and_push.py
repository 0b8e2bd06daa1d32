"""From a folder of clips to a LoRA on the Hub, by one command."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.hub_server import HubServer
from helpers.media_sets import write_clips
from tiny import tiny_components

from ltx_diffusers import LTXPipeline
from ltx_diffusers.cli import app
from ltx_diffusers.conversion.lora.files import read_lora

SMALL = ("text_length=8", "precision=fp32", "base_dtype=float32", "samples.num_inference_steps=1")


def test_from_clips_to_a_lora_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clips(tmp_path / "clips", 3)
    LTXPipeline(**tiny_components(causal=True)).save_pretrained(tmp_path / "base")
    options = (
        "--data",
        "clips",
        "--model",
        "base",
        "-o",
        "run",
        "--size",
        "64x32x9",
        "--steps",
        2,
        "--rank",
        2,
    )
    more = ("--caption-prefix", "sks", "--prompt", "a red circle", "--base-model", "acme/model")
    arguments = ("train", "lora", *options, *more, "--push-to-hub", "ada/lora", *SMALL)
    assert app.main([str(argument) for argument in arguments]) == 0
    folder = tmp_path / "run" / "model"
    lora = read_lora(folder)
    assert {layer.rank for layer in lora.layers.values()} == {2}
    card = (folder / "README.md").read_text()
    assert "base_model: acme/model" in card and "a red circle" in card
    assert "instance_prompt: sks" in card and "Begin prompts with `sks`." in card
    files = hub.repos["model", "ada/lora"].files
    assert {"pytorch_lora_weights.safetensors", "comfyui_lora_weights.safetensors", "README.md"} <= set(files)
    assert "samples/00.mp4" in files
