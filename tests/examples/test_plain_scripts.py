"""The plain scripts run, and write what the library reads."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.media_sets import write_clips
from safetensors import safe_open
from tiny import tiny_components

from ltx_diffusers import AutoencoderKLLTX, LTXPipeline

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE = ("--num-frames", "9", "--height", "32", "--width", "64")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_example", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a set of clips and a model."""
    write_clips(tmp_path / "clips", 3)
    LTXPipeline(**tiny_components(True, True, statistics=True)).save_pretrained(tmp_path / "base")
    return tmp_path


@torch.no_grad()
def test_latents_and_texts_are_those_of_the_models(place: Path) -> None:
    words = [place / "clips", place / "latents", "--model", place / "base", "--clips", "2", *SIZE]
    words = [*map(str, words), "--caption-prefix", "red "]
    plain = script("precompute")
    plain.main(words)
    files = sorted((place / "latents").iterdir())
    stamps = [file.stat().st_mtime_ns for file in files]
    plain.main(words)
    assert [file.stat().st_mtime_ns for file in sorted((place / "latents").iterdir())] == stamps
    pipe = LTXPipeline.from_pretrained(place / "base")
    reader = plain.data_readers.get(plain.reader_of(str(place / "clips")))
    clips = reader(9, 32, 64, seed=0, path=str(place / "clips"))
    for number, file in enumerate(files):
        video = torch.from_numpy(clips[number].frames).permute(3, 0, 1, 2)[None] * 2 - 1
        posterior = pipe.vae.encode(video).latent_dist
        center, width = (value.view(-1, 1, 1, 1) for value in (pipe.vae.latents_mean, pipe.vae.latents_std))
        with safe_open(file, "pt") as stored:
            found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            assert stored.metadata()["caption"] == f"red {clips[number].caption}"
        torch.testing.assert_close(found["mean"] * width + center, posterior.mean[0])
        torch.testing.assert_close(found["deviation"] * width, posterior.std[0])
        tokens = pipe.tokenizer(f"red {clips[number].caption}", return_tensors="pt").input_ids
        torch.testing.assert_close(found["text"], pipe.text_encoder(tokens)[0][0])
        assert found["frame_rate"].item() == 24


def test_a_decoder_is_trained_and_its_encoder_stays(place: Path, capsys: pytest.CaptureFixture) -> None:
    words = [place / "clips", place / "vae", "--vae", place / "base" / "vae", "--steps", "2", *SIZE]
    script("train_vae").main([*map(str, words), "--batch-size", "2"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert len(lines) == 2 and all(float(line.split()[-1]) > 0 for line in lines)
    before = AutoencoderKLLTX.from_pretrained(place / "base" / "vae").state_dict()
    after = AutoencoderKLLTX.from_pretrained(place / "vae").state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
