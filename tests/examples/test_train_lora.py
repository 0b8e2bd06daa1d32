"""The plain script runs, and what it writes is a LoRA that pipelines load."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.scenes import detailed, pan, write_montage

from ltx_diffusers import LTXPipeline
from ltx_diffusers.embedded import embedded_model_path

SCRIPT = Path(__file__).parents[2] / "examples" / "train_lora.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_lora_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_lora_is_trained_written_and_loaded(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for seed in range(2):
        write_montage(clips / f"{seed}.mp4", pan(detailed(seed), 24, 1.0, 96))
        (clips / f"{seed}.txt").write_text("a wall of colours")
    size = ["--num-frames", "9", "--height", "64", "--width", "64", "--clips", "2", "--batch-size", "2"]
    script.main([str(clips), str(tmp_path / "lora"), "--steps", "3", "--rank", "4", "--seed", "3", *size])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert len(lines) == 2 and all(float(line.split()[-1]) > 0 for line in lines)
    pipe = LTXPipeline.from_pretrained(embedded_model_path())
    before = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    pipe.load_lora_weights(str(tmp_path / "lora"))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after = pipe.transformer.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all("attn" in name and name.endswith("weight") for name in changed)


def test_nothing_is_learnt_on_a_first_frame_that_is_given(script: ModuleType) -> None:
    pipe = LTXPipeline.from_pretrained(embedded_model_path())
    channels, text = pipe.transformer.config.in_channels, pipe.transformer.config.caption_channels
    torch.manual_seed(0)
    batch = {
        "latents": torch.randn(2, channels, 3, 2, 2),
        "text": torch.randn(2, 4, text),
        "mask": torch.ones(2, 4, dtype=torch.bool),
        "rate": torch.tensor([8.0, 24.0]),
    }
    seen = {}

    def transformer(
        hidden_states: torch.Tensor, timestep: torch.Tensor, **rest: object
    ) -> tuple[torch.Tensor]:
        seen.update(tokens=hidden_states, levels=timestep / 1000, **rest)
        return (torch.zeros_like(hidden_states),)

    loss = script.loss_of(pipe, transformer, batch, 1.0, torch.Generator().manual_seed(1))
    given = batch["latents"][:, :, 0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(seen["tokens"][:, :4], given)
    assert (seen["levels"][:, :4] == 0).all() and (seen["levels"][:, 4:] > 0).all()
    # Seconds of the last tokens follow each clip's own rate.
    seconds = seen["video_coords"][:, 0, -1]
    torch.testing.assert_close(seconds[0] * 8, seconds[1] * 24)
    clean = batch["latents"].flatten(2).transpose(1, 2)[:, 4:]
    level = seen["levels"][:, 4:, None]
    noise = (seen["tokens"][:, 4:] - (1 - level) * clean) / level
    torch.testing.assert_close(loss, ((noise - clean) ** 2).mean(), rtol=1e-3, atol=1e-3)
