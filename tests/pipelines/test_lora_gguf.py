"""LoRAs on transformers whose weights stay GGUF's blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import GGUFQuantizationConfig
from helpers.checkpoints import TINY_TRANSFORMER, official_tensors
from helpers.loras import add_adapter, largest_error, pipeline

from ltx_diffusers import LTXPipeline, LTXTransformer3DModel
from ltx_diffusers.conversion import part_configs
from ltx_diffusers.errors import InputError

gguf = pytest.importorskip("gguf")

SIZE = {**TINY_TRANSFORMER, "in_channels": 32, "out_channels": 32, "caption_channels": 32}
"""Rows of at least 32 values, as many as a block of Q8_0 has."""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file whose transformer counts as a released size."""
    monkeypatch.setattr(part_configs, "RELEASED_TRANSFORMERS", {"2b": SIZE})
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "ltxv")
    model = LTXTransformer3DModel(**SIZE, causal_temporal_positioning=True)
    for name, tensor in official_tensors(model, prefixes=("", "")).items():
        kind = gguf.GGMLQuantizationType.Q8_0 if tensor.ndim == 2 and name.endswith("weight") else None
        numbers = tensor.numpy() if kind is None else gguf.quants.quantize(tensor.numpy(), kind)
        writer.add_tensor(name, numbers, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "x.gguf"


@torch.no_grad()
def output(model: torch.nn.Module) -> torch.Tensor:
    size = {"num_frames": 1, "height": 2, "width": 2, "frame_rate": 25.0}
    tokens, text = torch.linspace(-1, 1, 128).reshape(1, 4, 32), torch.linspace(-1, 1, 160).reshape(1, 5, 32)
    return model(tokens, text, torch.tensor([500.0]), **size, return_dict=False)[0]


def test_a_lora_acts_on_gguf_and_what_it_cant_do_there_is_said(path: Path, tmp_path: Path) -> None:
    plain = LTXTransformer3DModel.from_single_file(path, version="0.9.6-dev", dtype=torch.float32)
    before = output(plain)
    add_adapter(plain, "patterns", "style")
    expected = output(plain)
    add_adapter(plain, "dora", "dora")
    for name in ("style", "dora"):
        LTXPipeline.save_lora_weights(tmp_path / name, plain, adapter_name=name)

    config = GGUFQuantizationConfig(compute_dtype=torch.float32)
    kept = LTXTransformer3DModel.from_single_file(path, version="0.9.6-dev", quantization_config=config)
    pipe = pipeline(transformer=kept)
    with pytest.raises(InputError, match="DoRA can't compute with weights stored as GGUF blocks"):
        pipe.load_lora_weights(tmp_path / "dora")
    pipe.load_lora_weights(tmp_path / "style")
    assert largest_error(before, expected) > 0.1
    assert largest_error(output(kept), expected) < 2e-3  # its own products are in fp16
    with pytest.raises(InputError, match="can't be fused into weights stored as GGUF blocks"):
        pipe.fuse_lora()
