"""Diffusers' quantization configs on our transformer: smaller weights, and what is computed with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, TorchAoConfig
from helpers.autoencoders import relative_error
from tiny import tiny_components

from ltx_diffusers import LTXPipeline, LTXTransformer3DModel

torchao = pytest.importorskip("torchao.quantization")

CALL = {
    "prompt": "a",
    "height": 64,
    "width": 64,
    "num_frames": 9,
    "num_inference_steps": 2,
    "output_type": "pt",
}
WEIGHTS = {
    "int8": (torchao.Int8WeightOnlyConfig, torch.int8),
    "float8": (torchao.Float8WeightOnlyConfig, torch.float8_e4m3fn),
}
TRANSFORMER = {"subfolder": "transformer", "dtype": torch.float32}  # so that only the weights are rounded


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("plain")
    LTXPipeline(**tiny_components(causal=True)).save_pretrained(place)
    return place


def video(folder: Path, **components) -> torch.Tensor:
    pipeline = LTXPipeline.from_pretrained(folder, **components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**CALL, generator=torch.Generator().manual_seed(0)).frames


def linears(model) -> dict[str, torch.nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_torchao_weights(folder, tmp_path, kind):
    """Stored as asked for; the video is that of the weights as rounded; saved and loaded again, they are the same."""
    config, dtype = WEIGHTS[kind]
    kept = "proj_out"
    quantization = TorchAoConfig(config(), modules_to_not_convert=[kept])
    model = LTXTransformer3DModel.from_pretrained(folder, **TRANSFORMER, quantization_config=quantization)
    quantized = {name: layer for name, layer in linears(model).items() if name != kept}
    assert len(quantized) > 20
    assert {layer.weight.qdata.dtype for layer in quantized.values()} == {dtype}
    assert type(model.proj_out.weight) is torch.nn.Parameter
    assert model.dtype == torch.float32

    rounded = LTXTransformer3DModel.from_pretrained(folder, **TRANSFORMER)
    for name, layer in quantized.items():
        linears(rounded)[name].weight.data = layer.weight.dequantize()
    made = video(folder, transformer=model)
    assert 0 < relative_error(made, video(folder)) < 0.2
    assert (
        relative_error(made, video(folder, transformer=rounded)) < 0.02
    )  # bfloat16 products in another order

    model.save_pretrained(tmp_path)
    again = LTXTransformer3DModel.from_pretrained(tmp_path, dtype=torch.float32)
    for name, layer in quantized.items():
        assert torch.equal(linears(again)[name].weight.qdata, layer.weight.qdata)
    assert torch.equal(video(folder, transformer=again), made)


def test_a_pipeline_with_a_quantization_config(folder):
    quantization = PipelineQuantizationConfig(
        quant_mapping={"transformer": TorchAoConfig(torchao.Int8WeightOnlyConfig())}
    )
    pipeline = LTXPipeline.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=quantization)
    assert type(pipeline.transformer) is LTXTransformer3DModel
    assert pipeline.transformer.proj_in.weight.qdata.dtype == torch.int8
    assert pipeline.vae.decoder.conv_in.conv.weight.dtype == torch.bfloat16
    assert pipeline.transformer.config.causal_temporal_positioning is True


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no accelerator")
def test_diffusers_refuses_bitsandbytes_without_an_accelerator(folder):
    with pytest.raises(RuntimeError, match="No GPU found"):
        LTXTransformer3DModel.from_pretrained(
            folder, **TRANSFORMER, quantization_config=BitsAndBytesConfig(load_in_8bit=True)
        )


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16},
    ],
    ids=["8 bit", "4 bit"],
)
def test_bitsandbytes(folder, settings):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = LTXTransformer3DModel.from_pretrained(
        folder,
        subfolder="transformer",
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(**settings),
    )
    kind = bitsandbytes.nn.Linear4bit if "load_in_4bit" in settings else bitsandbytes.nn.Linear8bitLt
    assert isinstance(model.transformer_blocks[0].attn1.to_q, kind)
    assert model.transformer_blocks[0].attn1.to_q.weight.dtype in (torch.int8, torch.uint8)
    pipeline = LTXPipeline.from_pretrained(folder, transformer=model).to("cuda")
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(**CALL, generator=torch.Generator().manual_seed(0)).frames.cpu()
    assert 0 < relative_error(made, video(folder)) < 0.2
