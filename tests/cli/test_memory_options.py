"""`--vae-memory` and `--prompt-cache`: checked before a model is loaded, and given to the pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.saved_models import save_tiny_pipeline

from ltx_diffusers.cli import app, loading
from ltx_diffusers.data.video import write_video
from ltx_diffusers.errors import InputError

COMMANDS = {
    "generate": ["a red circle", "-o", "out.mp4"],
    "long": ["a red circle", "--frames", "33", "-o", "out.mp4"],
    "edit": ["in", "--prompt", "a red circle", "--source-prompt", "a blue circle", "-o", "out.mp4"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random pipeline."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def in_a_folder_with_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frames = torch.zeros(9, 64, 64, 3, dtype=torch.uint8).numpy()
    write_video("in", frames, 12, format="frames")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_give_them_to_the_pipeline(
    command: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {}

    def load(*args, **kwargs):
        given.update(kwargs)
        raise InputError("seen enough")

    monkeypatch.setattr(loading, "load_pipeline", load)
    arguments = [command, *COMMANDS[command], "--model", str(model), "--prompt-cache", "cache"]
    assert app.main([*arguments, "--vae-memory", "2MB"]) == 2
    assert "seen enough" in capsys.readouterr().err
    assert (given["vae_memory"], given["prompt_cache"]) == (2_000_000, Path("cache"))
    assert given["keep_text_encoder"] == "auto"
    given.clear()
    assert app.main([*arguments, "--vae-memory", "much"]) == 2
    assert "memory budget" in capsys.readouterr().err
    assert given == {}


def test_the_pipeline_keeps_them(model: Path, tmp_path: Path) -> None:
    pipeline = loading.load_pipeline(
        model,
        device=torch.device("cpu"),
        dtype=torch.float32,
        vae_memory=10**9,
        prompt_cache=tmp_path / "cache",
        keep_text_encoder="auto",
    )
    assert pipeline.text_encoder is None  # loaded when a text needs it
    with torch.no_grad():
        pipeline.encode_prompt("a red circle")
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2  # and the negative prompt
    assert pipeline.vae._memory_budget == 10**9
