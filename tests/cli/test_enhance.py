"""`ltx-diffusers generate --enhance`: the prompt is written out, recorded, and not written out again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.chat_models import image_enhancer, text_enhancer
from helpers.saved_models import save_tiny_pipeline
from PIL import Image

from ltx_diffusers import PromptEnhancer
from ltx_diffusers.cli import app
from ltx_diffusers.data.video import read_video

PROMPT = "a red kite"


def save_chat_model(enhancer: PromptEnhancer, folder: Path) -> str:
    enhancer.model.generation_config.max_length = None
    enhancer.model.save_pretrained(folder)
    enhancer.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a tiny random pipeline and of two chat models."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "video": str(save_tiny_pipeline(folder / "tiny")),
        "text": save_chat_model(text_enhancer(), folder / "text"),
        "image": save_chat_model(image_enhancer(), folder / "image"),
    }


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run where nothing else lies, and chat models are brief."""
    monkeypatch.chdir(tmp_path)
    load = PromptEnhancer.from_pretrained.__func__
    brief = classmethod(lambda cls, name, **settings: load(cls, name, max_new_tokens=12, **settings))
    monkeypatch.setattr(PromptEnhancer, "from_pretrained", brief)


def run(models: dict[str, str], *arguments: object) -> int:
    return app.main(["generate", "--model", models["video"], "--seed", "5", *map(str, arguments)])


def test_the_video_is_that_of_the_prompt_written_out(models, capsys) -> None:
    assert run(models, PROMPT, "--enhance", models["text"], "-o", "out", "--format", "frames") == 0
    written = text_enhancer()(PROMPT)
    assert f"prompt: {written}" in capsys.readouterr().out
    record = json.loads(Path("out.json").read_text())
    assert record["prompt"] == written
    assert (record["enhanced_from"], record["enhanced_by"]) == (PROMPT, models["text"])
    assert "enhance" not in record
    assert run(models, written, "-o", "plain", "--format", "frames") == 0
    np.testing.assert_array_equal(read_video("out")[0], read_video("plain")[0])


def test_it_is_made_again_without_the_chat_model(models, monkeypatch) -> None:
    assert run(models, PROMPT, "--enhance", models["text"], "-o", "out", "--format", "frames") == 0
    monkeypatch.setattr(PromptEnhancer, "from_pretrained", None)
    assert app.main(["generate", "--from-json", "out.json", "-o", "again", "--format", "frames"]) == 0
    np.testing.assert_array_equal(read_video("out")[0], read_video("again")[0])


def test_a_model_of_pictures_sees_the_first_frame(models, monkeypatch) -> None:
    seen = []
    write = PromptEnhancer.__call__

    def watched(self, prompts, images=None):
        seen.append(images)
        return write(self, prompts, images)

    monkeypatch.setattr(PromptEnhancer, "__call__", watched)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("first.png")
    enhance = ("--enhance", models["image"], "-o", "out.mp4")
    assert run(models, PROMPT, "--last", "first.png", *enhance) == 0
    assert seen == [None]
    assert run(models, PROMPT, "--image", "first.png", *enhance) == 0
    np.testing.assert_array_equal(seen[1], pixels)


def test_a_chat_model_is_loaded_once_for_a_batch(models, monkeypatch) -> None:
    loads = []
    load = PromptEnhancer.from_pretrained
    monkeypatch.setattr(
        PromptEnhancer, "from_pretrained", lambda name, **settings: loads.append(name) or load(name)
    )
    Path("prompts.txt").write_text("a red kite\nblue\n")
    batch = ("--prompts-file", "prompts.txt", "--enhance", models["text"], "-o", "made")
    assert run(models, *batch) == 0
    assert loads == [models["text"]]
    files = {file: file.stat().st_mtime_ns for file in Path("made").iterdir()}
    assert len(files) == 4
    assert run(models, *batch) == 0  # all are there already
    assert {file: file.stat().st_mtime_ns for file in Path("made").iterdir()} == files


def test_no_chat_model_is_an_error_before_the_video_model_is_loaded(models, monkeypatch, capsys) -> None:
    monkeypatch.setattr("ltx_diffusers.cli.loading.load_pipeline", lambda *given, **more: pytest.fail())
    assert run(models, PROMPT, "--enhance", "nowhere/nothing", "-o", "out.mp4") == 2
    assert "the chat model nowhere/nothing can't be loaded" in capsys.readouterr().err
    assert not list(Path().iterdir())
