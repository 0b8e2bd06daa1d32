"""`from_single_file` of the models: layouts, precisions, quantised files, and what is refused."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from helpers.autoencoders import tiny_autoencoder
from helpers.checkpoints import (
    official_config,
    official_tensors,
    same_tensors,
    save_checkpoint,
    tiny_transformer,
)
from safetensors.torch import save_file

from ltx_diffusers import AutoencoderKLLTX, LTXLatentUpsampler, LTXTransformer3DModel
from ltx_diffusers.conversion.describe import describe
from ltx_diffusers.conversion.loading import load_part
from ltx_diffusers.conversion.tensors import open_tensors
from ltx_diffusers.errors import CheckpointError, InputError

PREFIX = "model.diffusion_model."
FP8 = torch.float8_e4m3fn


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


def velocity(model: LTXTransformer3DModel) -> torch.Tensor:
    """Output of a model for fixed inputs."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return model(
            torch.randn(1, 4, 8, generator=generator).to(model.dtype),
            encoder_hidden_states=torch.randn(1, 5, 16, generator=generator).to(model.dtype),
            timestep=torch.tensor([500.0]),
            num_frames=1,
            height=2,
            width=2,
            frame_rate=25.0,
            return_dict=False,
        )[0]


def matrices(tensors, of="transformer_blocks."):
    """Names of the matrices in the blocks."""
    return [
        name
        for name, tensor in tensors.items()
        if tensor.ndim == 2 and of in name and name.endswith("weight")
    ]


# Layouts


@pytest.mark.parametrize("prefixes", [("diffusion_model.", "first_stage_model."), ("", "vae.")])
def test_models_are_loaded_under_every_prefix(path, prefixes):
    transformer, vae = tiny_transformer(True), tiny_autoencoder("0.9.5")
    metadata = {"config": json.dumps(official_config(transformer, vae))}
    save_file(official_tensors(transformer, vae, prefixes), path, metadata=metadata)
    assert same_tensors(LTXTransformer3DModel.from_single_file(path), transformer)
    assert same_tensors(AutoencoderKLLTX.from_single_file(path), vae)


@pytest.mark.parametrize("version", ["0.9.0", "0.9.1", "0.9.5"])
def test_a_lone_vae_is_loaded(path, version):
    vae = tiny_autoencoder(version)
    save_file(
        official_tensors(vae=vae, prefixes=("", "")),
        path,
        metadata={"config": json.dumps(official_config(vae=vae))},
    )
    loaded = AutoencoderKLLTX.from_single_file(path)
    assert same_tensors(loaded, vae)
    assert loaded.config.default_decode_timestep == (None if version == "0.9.0" else 0.05)
    assert not loaded.training


def test_diffusers_files_are_loaded(tmp_path):
    """A component's weights by their own file name, plain or sharded, with the config beside them."""
    transformer = tiny_transformer(True)
    transformer.save_pretrained(tmp_path / "plain")
    transformer.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    for file in (
        tmp_path / "plain" / "diffusion_pytorch_model.safetensors",
        tmp_path / "sharded" / "diffusion_pytorch_model.safetensors.index.json",
        tmp_path / "sharded",
    ):
        assert same_tensors(LTXTransformer3DModel.from_single_file(file), transformer)


def test_pickles_are_loaded_if_asked(tmp_path, path):
    vae = tiny_autoencoder("0.9.5")
    vae.save_pretrained(tmp_path, safe_serialization=False)
    file = tmp_path / "diffusion_pytorch_model.bin"
    with pytest.raises(CheckpointError, match="is a pickle"):
        AutoencoderKLLTX.from_single_file(file)
    assert same_tensors(AutoencoderKLLTX.from_single_file(file, allow_pickle=True), vae)


def test_an_upsampler_is_loaded(path):
    model = LTXLatentUpsampler(8, 32, 1, spatial_upsample=False, temporal_upsample=True)
    save_file(model.state_dict(), path)
    loaded = LTXLatentUpsampler.from_single_file(path)
    assert same_tensors(loaded, model)
    assert loaded.config.temporal_upsample


def test_a_missing_mean_is_loaded_as_zero(path):
    def without(tensors):
        del tensors["vae.per_channel_statistics.mean-of-means"]
        return tensors

    _, vae = save_checkpoint(path, "0.9.5", change=without)
    loaded = AutoencoderKLLTX.from_single_file(path)
    assert torch.equal(loaded.latents_mean, torch.zeros(8))
    assert torch.equal(loaded.latents_std, vae.latents_std)


def test_a_subclass_is_kept(path):
    class Mine(LTXTransformer3DModel):
        pass

    save_checkpoint(path, "0.9.5")
    assert type(Mine.from_single_file(path)) is Mine


def test_a_loaded_model_can_be_trained_and_saved(tmp_path, path):
    save_checkpoint(path, "0.9.5")
    model = AutoencoderKLLTX.from_single_file(path)
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["decoder.timestep_scale_multiplier"]
    model.save_pretrained(tmp_path / "saved")
    assert same_tensors(AutoencoderKLLTX.from_pretrained(tmp_path / "saved"), model)


# What the file can't tell


def test_a_transformer_without_metadata_needs_its_version(path):
    """Its release decides on causal coordinates; a VAE is the same in all that fit its tensors."""
    transformer = tiny_transformer(None)
    save_file(official_tensors(transformer), path)
    with pytest.raises(CheckpointError, match="isn't of a released size"):
        LTXTransformer3DModel.from_single_file(path, version="0.9.5")


@pytest.mark.parametrize("kind", ["transformer", "vae"])
def test_a_file_without_the_model_is_named(path, kind):
    models = {"transformer": tiny_transformer(True), "vae": tiny_autoencoder("0.9.5")}
    alone = {kind: models[kind]}
    save_file(official_tensors(**alone), path, metadata={"config": json.dumps(official_config(**alone))})
    other = AutoencoderKLLTX if kind == "transformer" else LTXTransformer3DModel
    with pytest.raises(CheckpointError, match=f"has nothing for {other.__name__}; got only {kind}"):
        other.from_single_file(path)
    with pytest.raises(CheckpointError, match="expected spatial upsampler or temporal upsampler"):
        LTXLatentUpsampler.from_single_file(path)


def test_tensors_that_the_model_lacks_are_refused(path):
    extra = {f"{PREFIX}transformer_blocks.0.gate.weight": torch.ones(1)}
    save_checkpoint(path, "0.9.5", change=lambda tensors: tensors | extra)
    with pytest.raises(CheckpointError, match=r"doesn't have; got 1: .*transformer_blocks\.0\.gate\.weight"):
        LTXTransformer3DModel.from_single_file(path)
    AutoencoderKLLTX.from_single_file(path)  # isn't concerned


def test_wrong_arguments_are_refused_before_the_file_is_read(path):
    with pytest.raises(InputError, match="unknown treatment of fp8 weights; got 'drop'"):
        LTXTransformer3DModel.from_single_file(path, fp8="drop")
    with pytest.raises(InputError, match="unknown argument; got revison"):
        LTXTransformer3DModel.from_single_file(path, revison="main")
    with pytest.raises(CheckpointError, match="there is no file"):
        LTXTransformer3DModel.from_single_file(path)
    with pytest.raises(InputError, match="a link must lead to the Hub"):
        LTXTransformer3DModel.from_single_file("https://example.com/a/b/x.safetensors")
    with pytest.raises(InputError, match="not a file on the Hub"):
        LTXTransformer3DModel.from_single_file("https://huggingface.co/a/b/../../x.safetensors")


def test_files_of_the_hub_are_asked_for_by_their_parts(monkeypatch, path):
    import huggingface_hub

    asked = []

    def download(repository, name, **options):
        asked.append((repository, name, options.get("revision")))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    transformer, _ = save_checkpoint(path, "0.9.5")
    for place in (
        "Owner/repo/x.safetensors",
        "https://huggingface.co/Owner/repo/blob/main/sub/x.safetensors",
        "https://huggingface.co/Owner/repo/resolve/v1/x.safetensors?download=true",
    ):
        assert same_tensors(LTXTransformer3DModel.from_single_file(place), transformer)
    assert asked == [
        ("Owner/repo", "x.safetensors", None),
        ("Owner/repo", "sub/x.safetensors", "main"),
        ("Owner/repo", "x.safetensors", "v1"),
    ]


def test_a_file_that_the_hub_can_t_give_is_named():
    with pytest.raises(CheckpointError, match=r"the Hub can't be reached and x\.safetensors of Owner/repo"):
        LTXTransformer3DModel.from_single_file("Owner/repo/x.safetensors", local_files_only=True)


# Precision


def test_a_model_has_one_precision(path):
    """That of most bytes of the file, unless another is asked for."""
    keep = f"{PREFIX}proj_out.bias"

    def in_bf16(tensors):
        return {name: tensor if name == keep else tensor.bfloat16() for name, tensor in tensors.items()}

    transformer, _ = save_checkpoint(path, "0.9.5", change=in_bf16)
    loaded = LTXTransformer3DModel.from_single_file(path)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.bfloat16}
    assert torch.equal(loaded.proj_out.bias, transformer.proj_out.bias.bfloat16())
    for name in ("dtype", "torch_dtype"):
        loaded = LTXTransformer3DModel.from_single_file(path, **{name: torch.float32})
        assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
        assert torch.equal(loaded.proj_out.bias, transformer.proj_out.bias)


def test_a_part_is_loaded_as_a_state_dict(path):
    transformer, _ = save_checkpoint(path, "0.9.5")
    with open_tensors(path) as source:
        state = load_part(describe(source), source, "transformer", torch.float16)
    assert state.keys() == transformer.state_dict().keys()
    for name, tensor in transformer.state_dict().items():
        assert torch.equal(state[name], tensor.half())


# fp8


def to_fp8(tensors, names, scales=None):
    """These tensors in fp8; with scales named by `scales`, one per tensor, so that the largest value is 448."""
    changed = dict(tensors)
    for name in names:
        scale = tensors[name].abs().max() / 448 if scales else torch.tensor(1.0)
        changed[name] = (tensors[name] / scale).to(FP8)
        if scales:
            changed[name.removesuffix("weight") + scales] = scale
    return changed


def test_fp8_is_dequantised(path):
    transformer, _ = save_checkpoint(path, "0.9.5", change=lambda t: to_fp8(t, matrices(t)))
    loaded = LTXTransformer3DModel.from_single_file(path)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}  # the rest is in fp32
    weight = loaded.transformer_blocks[0].attn1.to_q.weight
    assert torch.equal(weight, transformer.transformer_blocks[0].attn1.to_q.weight.to(FP8).float())
    assert torch.equal(loaded.proj_in.weight, transformer.proj_in.weight)


def test_fp8_files_are_loaded_in_bf16(path):
    """Where most bytes are in fp8."""
    save_checkpoint(path, "0.9.5", change=lambda t: {name: tensor.to(FP8) for name, tensor in t.items()})
    assert LTXTransformer3DModel.from_single_file(path).dtype == torch.bfloat16
    with open_tensors(path) as source:
        assert describe(source).precision == "fp8"


@pytest.mark.parametrize("scales", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("per_row", [False, True])
def test_scaled_fp8_is_multiplied(path, scales, per_row):
    """ComfyUI's files, with the scales of activations that only its kernels use, and its marks."""

    def scaled(tensors):
        changed = to_fp8(tensors, matrices(tensors), scales)
        if per_row:
            for name in matrices(tensors):
                rows = tensors[name].abs().amax(1, keepdim=True) / 448
                changed[name] = (tensors[name] / rows).to(FP8)
                changed[name.removesuffix("weight") + scales] = rows
        name = matrices(tensors)[0].removesuffix("weight")
        changed[name + "scale_input"] = torch.tensor(1.0)
        return changed | {f"{PREFIX}scaled_fp8": torch.zeros(2, dtype=FP8)}

    transformer, _ = save_checkpoint(path, "0.9.5", change=scaled)
    with open_tensors(path) as source:
        found = describe(source)
    part = found.part("transformer")
    assert found.layout == "comfy"
    assert found.unexpected == []
    assert len(part.scales) == len(matrices(transformer.state_dict()))
    assert len(part.dropped) == 2
    loaded = LTXTransformer3DModel.from_single_file(path)
    for name in part.scales:
        expected = transformer.state_dict()[name]
        assert (loaded.state_dict()[name] - expected).abs().max() < 0.05 * expected.abs().max()
    with pytest.raises(InputError, match="scales with its fp8 weights, which layerwise casting can't apply"):
        LTXTransformer3DModel.from_single_file(path, fp8="keep")


@pytest.mark.parametrize("shape", [(2,), (2, 2)])
def test_scales_of_blocks_are_refused(path, shape):
    def scaled(tensors):
        name = matrices(tensors)[0]
        changed = to_fp8(tensors, [name], "scale_weight")
        return changed | {name.removesuffix("weight") + "scale_weight": torch.ones(shape)}

    save_checkpoint(path, "0.9.5", change=scaled)
    with pytest.raises(CheckpointError, match="scales in a way that isn't known"):
        LTXTransformer3DModel.from_single_file(path)


def test_a_scale_of_nothing_is_refused(path):
    extra = {f"{PREFIX}transformer_blocks.0.more.scale_weight": torch.tensor(1.0)}
    save_checkpoint(path, "0.9.5", change=lambda tensors: tensors | extra)
    with pytest.raises(CheckpointError, match="scales a tensor that isn't there"):
        LTXTransformer3DModel.from_single_file(path)


def test_fp8_can_be_kept(path):
    """Layers whose weights are in fp8 stay so, biases with them; all others keep the file's precision."""
    save_checkpoint(path, "0.9.5", change=lambda t: to_fp8(t, matrices(t)))
    kept = LTXTransformer3DModel.from_single_file(path, fp8="keep", dtype=torch.float32)
    layer = kept.transformer_blocks[0].attn1.to_q
    assert layer.weight.dtype == layer.bias.dtype == FP8
    assert kept.proj_in.weight.dtype == kept.proj_out.bias.dtype == torch.float32
    assert kept.transformer_blocks[0].attn1.norm_q.weight.dtype == torch.float32

    plain = LTXTransformer3DModel.from_single_file(path)
    for name, parameter in plain.named_parameters():
        if name.startswith("transformer_blocks.") and name.endswith("bias"):
            parameter.data = parameter.data.to(FP8).float()
    assert torch.equal(velocity(kept), velocity(plain))
    assert layer.weight.dtype == FP8  # and again after a call


def test_there_must_be_fp8_to_keep(path):
    save_checkpoint(path, "0.9.5")
    with pytest.raises(InputError, match="has no fp8 weights to keep"):
        LTXTransformer3DModel.from_single_file(path, fp8="keep")
    save_checkpoint(
        path,
        "0.9.5",
        change=lambda t: (
            to_fp8(t, matrices(t, "blocks.0"))
            | {name: t[name].to(torch.float8_e5m2) for name in matrices(t, "blocks.1")}
        ),
    )
    with pytest.raises(InputError, match="more than one kind of fp8"):
        LTXTransformer3DModel.from_single_file(path, fp8="keep")
    with pytest.raises(InputError, match="exclude each other"):
        LTXTransformer3DModel.from_single_file(path, fp8="keep", quantization_config=object())


def test_fp8_that_may_be_rotated_is_warned_of(path, caplog):
    """As Lightricks' own -fp8 files are: fp8 in the blocks' matrices only, without scales."""
    caplog.set_level(logging.WARNING)
    save_checkpoint(path, "0.9.5", change=lambda t: to_fp8(t, matrices(t)))
    LTXTransformer3DModel.from_single_file(path)
    assert "made for its Q8 kernels" in caplog.text
    caplog.clear()
    save_checkpoint(path, "0.9.5", change=lambda t: to_fp8(t, matrices(t, of=PREFIX)))
    LTXTransformer3DModel.from_single_file(path)
    save_checkpoint(path, "0.9.5", change=lambda t: to_fp8(t, matrices(t), "scale_weight"))
    LTXTransformer3DModel.from_single_file(path)
    assert "Q8" not in caplog.text
