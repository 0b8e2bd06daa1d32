"""GGUF files: dequantised, or kept as they are by Diffusers' quantiser."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from helpers.checkpoints import official_tensors
from helpers.hostile import open_or_refuse, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_diffusers import LTXTransformer3DModel
from ltx_diffusers.conversion import part_configs
from ltx_diffusers.conversion.describe import describe
from ltx_diffusers.conversion.gguf import QUANTIZATIONS
from ltx_diffusers.conversion.tensors import open_tensors
from ltx_diffusers.errors import InputError

gguf = pytest.importorskip("gguf")

SIZE = {
    "in_channels": 32,
    "out_channels": 32,
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "cross_attention_dim": 64,
    "num_layers": 2,
    "caption_channels": 32,
}
KINDS = [kind for kind in QUANTIZATIONS.values() if kind.block_values == 32 and kind.name != "IQ4_NL"]


def write(path, tensors, kind="Q8_0"):
    """A GGUF file with matrices quantised, as the tools of GGUF write transformers."""
    number = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "ltxv")
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and name.endswith("weight"):
            blocks = gguf.quants.quantize(tensor.numpy(), number)
            writer.add_tensor(name, blocks, raw_dtype=number)
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def model(monkeypatch):
    """A transformer that counts as a released size: GGUF files have no config."""
    monkeypatch.setattr(part_configs, "RELEASED_TRANSFORMERS", {"2b": SIZE})
    return LTXTransformer3DModel(**SIZE, causal_temporal_positioning=True).eval()


@pytest.fixture
def path(tmp_path, model):
    write(tmp_path / "x.gguf", official_tensors(model, prefixes=("", "")))
    return tmp_path / "x.gguf"


def output(model):
    with torch.no_grad():
        return model(
            torch.ones(1, 4, 32),
            encoder_hidden_states=torch.ones(1, 5, 32),
            timestep=torch.tensor([500.0]),
            num_frames=1,
            height=2,
            width=2,
            frame_rate=25.0,
            return_dict=False,
        )[0]


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_every_quantisation_is_read(tmp_path, kind):
    values = np.random.default_rng(0).standard_normal((3, 64), dtype=np.float32)
    write(tmp_path / "x.gguf", {"x.weight": torch.from_numpy(values), "y": torch.arange(3.0)}, kind)
    with open_tensors(tmp_path / "x.gguf") as source:
        info, loaded = source.info("x.weight"), source.load("x.weight")
        assert source.metadata["general.architecture"] == "ltxv"
        assert source.metadata["precision"] == kind
        assert torch.equal(source.load("y"), torch.arange(3.0))
        blocks = source.load_quantized("x.weight")
    number = gguf.GGMLQuantizationType[kind]
    expected = gguf.quants.dequantize(gguf.quants.quantize(values, number), number)
    assert info.shape == (3, 64)
    assert (info.dtype, loaded.dtype) == (torch.float32, torch.float32)
    assert torch.equal(loaded, torch.from_numpy(expected))
    assert info.nbytes == blocks.nbytes == gguf.quants.quantize(values, number).nbytes


def test_the_table_of_quantisations_is_gguf_s():
    for number, kind in QUANTIZATIONS.items():
        known = gguf.GGMLQuantizationType(number)
        assert known.name == kind.name
        assert gguf.GGML_QUANT_SIZES[known] == (kind.block_values, kind.block_bytes)


def test_a_transformer_is_dequantised(path, model):
    with open_tensors(path) as source:
        found = describe(source, version="0.9.6-dev")
    assert (found.layout, found.precision) == ("gguf", "Q8_0")
    loaded = LTXTransformer3DModel.from_single_file(path, version="0.9.6-dev", dtype=torch.float32)
    assert loaded.config.causal_temporal_positioning is True
    assert (output(loaded) - output(model)).norm() < 0.02 * output(model).norm()
    assert LTXTransformer3DModel.from_single_file(path, version="0.9.6-dev").dtype == torch.bfloat16


def test_diffusers_quantiser_keeps_the_blocks(path):
    """The same numbers as dequantised, with the matrices as they are in the file; its products are in fp16."""
    from diffusers import GGUFQuantizationConfig
    from diffusers.quantizers.gguf.utils import GGUFParameter

    config = GGUFQuantizationConfig(compute_dtype=torch.float32)
    kept = LTXTransformer3DModel.from_single_file(path, version="0.9.6-dev", quantization_config=config)
    weight = kept.transformer_blocks[0].attn1.to_q.weight
    assert isinstance(weight, GGUFParameter)
    assert weight.dtype == torch.uint8
    assert kept.scale_shift_table.dtype == torch.float32
    plain = LTXTransformer3DModel.from_single_file(path, version="0.9.6-dev", dtype=torch.float32)
    assert (output(kept) - output(plain)).norm() < 2e-3 * output(plain).norm()


def test_what_isn_t_gguf_can_t_be_kept_as_gguf(tmp_path, model):
    from diffusers import GGUFQuantizationConfig

    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="isn't quantised as the quantization_config says"):
        LTXTransformer3DModel.from_single_file(tmp_path, quantization_config=GGUFQuantizationConfig())


def test_fp8_isn_t_kept_of_gguf(path):
    with pytest.raises(InputError, match="is a GGUF file"):
        LTXTransformer3DModel.from_single_file(path, version="0.9.6-dev", fp8="keep")


# Damaged files


def header(tensors=0, remarks=0, version=3, rest=b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, remarks) + rest


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def tensor(name=b"x", shape=(4,), kind=0, place=0) -> bytes:
    sizes = b"".join(struct.pack("<Q", side) for side in shape)
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, place)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut off"),
        (b"GGML" + bytes(100), "not a GGUF file"),
        (header(version=1), "unknown version; got 1"),
        (header(tensors=2**40), "absurd"),
        (header(remarks=2**40), "absurd"),
        (header(tensors=1), "cut off"),
        (header(1, rest=text(b"x", 2**62)), "cut off"),
        (header(1, rest=text(b"\xff") + bytes(50)), "isn't UTF-8"),
        (header(1, rest=tensor(shape=())), "no valid shape"),
        (header(1, rest=tensor(shape=(1,) * 9)), "no valid shape"),
        (header(1, rest=tensor(shape=(2**62, 2**62))), "impossible shape"),
        (header(1, rest=tensor(shape=(33,), kind=8)), "impossible shape"),
        (header(1, rest=tensor(kind=99) + bytes(64)), "unknown quantisation; got number 99"),
        (header(1, rest=tensor(place=2**40) + bytes(64)), "reach beyond its end"),
        (header(2, rest=tensor() * 2 + bytes(64)), "two tensors are called"),
        (header(2, rest=tensor() + tensor(b"y", place=4) + bytes(64)), "overlaps another"),
        (header(0, 1, rest=text(b"a") + struct.pack("<I", 77)), "unknown kind; got 77"),
        (header(0, 1, rest=text(b"a") + struct.pack("<IIQ", 9, 0, 2**62)), "array longer than itself"),
        (
            header(0, 1, rest=text(b"a") + struct.pack("<I", 9) * 1 + struct.pack("<IQ", 9, 1) * 9),
            "unknown kind",
        ),
        (header(0, 2, rest=(text(b"a") + struct.pack("<IB", 0, 1)) * 2), "twice"),
        (
            header(0, 1, rest=text(b"general.alignment") + struct.pack("<II", 4, 0)),
            "general.alignment is absurd",
        ),
    ],
)
def test_a_broken_header_is_refused(content, message):
    assert message in refusal(content, "x.gguf")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_file_opens_or_is_refused(data):
    remark = text(b"a") + struct.pack("<I", 8) + text(b"b")
    content = bytearray(header(2, 1, rest=remark + tensor() + tensor(b"y", (2, 32), 8, 32) + bytes(160)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    open_or_refuse(bytes(content[: data.draw(st.integers(0, len(content)))]), ".gguf")
