"""The text encoder loaded when it is needed and freed afterwards, and prompts kept on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tiny import tiny_components
from transformers import T5EncoderModel

from ltx_diffusers import LTXImageToVideoPipeline, LTXPipeline
from ltx_diffusers.errors import InputError, LTXError
from ltx_diffusers.pipelines import text_keeping
from ltx_diffusers.pipelines.prompt_cache import Fingerprint, PromptCache

TEXTS = ["a red circle moves left", "the blue square"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A saved pipeline."""
    path = tmp_path_factory.mktemp("model")
    LTXPipeline(**tiny_components()).save_pretrained(path)
    return path


@pytest.fixture
def loads(monkeypatch) -> list[Path]:
    """Text encoders that were loaded on demand."""
    seen, load = [], text_keeping.TextSource.load
    monkeypatch.setattr(text_keeping.TextSource, "load", lambda self: seen.append(self.folder) or load(self))
    return seen


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Texts in each call of a text encoder."""
    seen, forward = [], T5EncoderModel.forward

    def spied(self, ids, *args, **kwargs):
        seen.append(len(ids))
        return forward(self, ids, *args, **kwargs)

    monkeypatch.setattr(T5EncoderModel, "forward", spied)
    return seen


def load(folder: Path, keeping: str = "always", **kwargs) -> LTXPipeline:
    pipeline = LTXPipeline.from_pretrained(folder, keep_text_encoder=keeping, **kwargs)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def encoded(pipeline: LTXPipeline, texts: str | list[str] = TEXTS, length: int = 12) -> list[torch.Tensor]:
    return list(pipeline.encode_prompt(texts, "the wall", max_sequence_length=length))


def equal(got: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    """Up to what a batch of another size changes."""
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(got, expected, strict=True))


# kept, or not


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, {"default": torch.bfloat16, "vae": torch.float32}])
def test_an_encoder_loaded_on_demand_is_the_same(folder, loads, dtype):
    given = {} if dtype is None else {"dtype": dtype}
    expected, pipeline = encoded(load(folder, **given)), load(folder, "never", **given)
    assert (pipeline.text_encoder, loads) == (None, [])
    assert equal(encoded(pipeline), expected)
    assert (pipeline.text_encoder, len(loads)) == (None, 1)  # both texts with one, which is gone


def test_a_call_gives_the_same_video(folder):
    def video(pipeline):
        source = torch.Generator().manual_seed(0)
        size = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 1}
        return pipeline(TEXTS[0], **size, generator=source, output_type="pt").frames

    assert torch.equal(video(load(folder, "never")), video(load(folder)))


@pytest.mark.parametrize(("free", "stays"), [(10**12, True), (10, False)])
def test_memory_decides(folder, loads, monkeypatch, free, stays):
    monkeypatch.setattr(text_keeping, "free_memory", lambda device: free)
    pipeline = load(folder, "auto")
    encoded(pipeline)
    encoded(pipeline)
    assert (pipeline.text_encoder is not None, len(loads)) == (stays, 1 if stays else 2)


def test_a_pipeline_can_free_its_encoder_later(folder, loads):
    pipeline = load(folder)
    expected = encoded(pipeline)
    pipeline.keep_text_encoder("never")
    assert (pipeline.text_encoder, loads) == (None, [])
    assert equal(encoded(pipeline), expected)
    pipeline.keep_text_encoder("always")
    encoded(pipeline)
    assert pipeline.text_encoder is not None


def test_an_encoder_of_ones_own_stays(folder):
    pipeline = load(folder, "never")
    pipeline.text_encoder = own = tiny_components()["text_encoder"]
    encoded(pipeline)
    assert pipeline.text_encoder is own
    with pytest.raises(InputError, match="can't be loaded when it is needed"):
        load(folder, "never", text_encoder=own)


def test_what_can_not_be_done_is_said(folder):
    with pytest.raises(InputError, match="always, auto, never"):
        load(folder, "sometimes")
    pipeline = LTXPipeline(**tiny_components())
    with pytest.raises(InputError, match="can't be loaded when it is needed"):
        pipeline.keep_text_encoder("never")


def test_others_get_the_encoder_too(folder, tmp_path, loads):
    pipeline = load(folder, "never")
    expected = encoded(pipeline)
    assert equal(encoded(LTXImageToVideoPipeline.from_pipe(pipeline)), expected)
    pipeline.save_pretrained(tmp_path / "saved")
    assert pipeline.text_encoder is None
    assert equal(encoded(load(tmp_path / "saved")), expected)


# kept on disk


def test_features_on_disk_are_those_of_the_encoder(folder, tmp_path, loads, passes):
    expected = encoded(load(folder))
    passes.clear()
    for _ in range(2):
        pipeline = load(folder, "never")
        pipeline.enable_prompt_cache(tmp_path)
        assert equal(encoded(pipeline), expected)
        assert equal(encoded(pipeline), expected)
    assert len(loads) == 1
    assert passes == [2, 1]  # the prompts, and one for two equal negative ones


def test_only_new_texts_are_encoded(folder, tmp_path, passes):
    pipeline = load(folder)
    expected = encoded(pipeline, [*TEXTS, "a wall"])
    pipeline.enable_prompt_cache(tmp_path)
    encoded(pipeline, TEXTS)
    passes.clear()
    got = encoded(pipeline, [*TEXTS, "a wall"])
    assert passes == [1]
    assert equal(got, expected)


@pytest.mark.parametrize("change", ["weights", "data", "encoder", "length", "tokens"])
def test_nothing_stale_is_used(folder, tmp_path, change):
    pipeline = load(folder)
    pipeline.enable_prompt_cache(tmp_path)
    encoded(pipeline)
    weight, length = pipeline.text_encoder.encoder.block[0].layer[1].DenseReluDense.wo.weight, 12
    if change == "weights":
        with torch.no_grad():
            weight.mul_(2)
    elif change == "data":
        weight.data.mul_(2)  # PyTorch doesn't count it
    elif change == "encoder":
        torch.manual_seed(1)
        pipeline.text_encoder = tiny_components()["text_encoder"]
        with torch.no_grad():
            pipeline.text_encoder.shared.weight.normal_()
    elif change == "length":
        length = 9
    else:
        pipeline.tokenizer.padding_side = "left"
    got = encoded(pipeline, length=length)
    pipeline.disable_prompt_cache()
    assert equal(got, encoded(pipeline, length=length))


def test_changed_files_are_noticed(folder, tmp_path, loads):
    first = load(folder, "never")
    first.enable_prompt_cache(tmp_path / "cache")
    encoded(first)
    copy = tmp_path / "model"
    first.save_pretrained(copy)
    loads.clear()
    same = load(copy, "never")
    same.enable_prompt_cache(tmp_path / "cache")
    expected = encoded(same)
    encoded(same)
    assert len(loads) == 1  # to learn that the weights are known, wherever they lie
    weights = copy / "text_encoder" / "model.safetensors"
    times, content = weights.stat(), bytearray(weights.read_bytes())
    content[-64:] = b"\x3f" * 64
    weights.write_bytes(content)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size and date
    got = encoded(same)
    assert len(loads) == 2
    assert equal(got, encoded(load(copy))) and not equal(got, expected)


def test_files_that_change_while_they_are_read_are_refused(folder, tmp_path, monkeypatch):
    known = load(folder, "never")
    known.enable_prompt_cache(tmp_path)
    encoded(known, "a red circle")
    monkeypatch.setattr(text_keeping.TextSource, "load", lambda self: tiny_components(seed=5)["text_encoder"])
    with pytest.raises(LTXError, match="were changed"):
        encoded(known, "a blue circle")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_files_are_made_again(folder, tmp_path, passes, damage):
    pipeline = load(folder)
    pipeline.enable_prompt_cache(tmp_path)
    expected = encoded(pipeline)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        content = file.read_bytes()
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        file.write_bytes({"cut": content[:-3], "flipped": flipped, "empty": b""}[damage])
    passes.clear()
    for count in (2, 2):
        assert equal(encoded(pipeline), expected)
        assert len(passes) == count


def test_texts_of_an_encoder_in_training_are_not_kept(folder, tmp_path):
    pipeline = load(folder)
    pipeline.enable_prompt_cache(tmp_path)
    pipeline.text_encoder.train()
    encoded(pipeline)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_without_room_the_work_goes_on(folder, tmp_path, monkeypatch):
    pipeline = load(folder)
    expected = encoded(pipeline)
    pipeline.enable_prompt_cache(tmp_path)

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert equal(encoded(pipeline), expected)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_a_folder_that_can_not_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be made"):
        PromptCache(tmp_path / "file" / "cache")


def test_weights_elsewhere_have_no_fingerprint():
    encoder = tiny_components()["text_encoder"]
    fingerprint = Fingerprint()
    assert fingerprint.of(encoder) == Fingerprint().of(encoder)
    assert fingerprint.of(encoder.to("meta")) is None
