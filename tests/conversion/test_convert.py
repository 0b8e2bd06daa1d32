"""Conversions in every direction: same bits, refused before work, and whole or absent when killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from diffusers import LTXPipeline as DiffusersPipeline
from helpers.autoencoders import tiny_autoencoder
from helpers.checkpoints import (
    TINY_TRANSFORMER,
    official_config,
    official_tensors,
    save_checkpoint,
    tiny_transformer,
)
from helpers.sparse import sparse_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_components
from transformers import T5EncoderModel

from ltx_diffusers import AutoencoderKLLTX, LTXFlowMatchScheduler, LTXPipeline, LTXTransformer3DModel
from ltx_diffusers.conversion import convert as module
from ltx_diffusers.conversion import part_configs
from ltx_diffusers.conversion.convert import convert
from ltx_diffusers.conversion.opening import open_model
from ltx_diffusers.conversion.releases import RELEASES
from ltx_diffusers.conversion.targets import PLANS
from ltx_diffusers.errors import CheckpointError, InputError


def bits(path: Path) -> dict[str, tuple]:
    """Names, dtypes, shapes and bytes of a file's tensors."""
    return {
        name: (tensor.dtype, tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in load_file(path).items()
    }


def folder_bits(folder: Path) -> dict[str, dict]:
    """The same for each component of a pipeline's folder, whatever its shards."""
    found: dict[str, dict] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found.setdefault(path.parent.name, {}).update(bits(path))
    return found


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("official") / "tiny.safetensors"
    save_checkpoint(path, "0.9.1")
    return path


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of ours, with text encoder, tokenizer and defaults that no official config states."""
    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    parts = tiny_components(timestep_conditioning=True, causal=True, statistics=True)
    parts["transformer"].register_to_config(default_height=64, default_frame_rate=12.0)
    parts["vae"].register_to_config(default_decode_timestep=0.03, default_decode_noise_scale=0.02)
    parts["scheduler"].register_to_config(default_guidance_scale=2.5)
    for part in ("transformer", "vae", "text_encoder"):
        parts[part].to(torch.bfloat16)
    LTXPipeline(**parts).save_pretrained(folder)
    return folder


# Round trips


@pytest.mark.parametrize("middle", ["diffusers", "comfy", "official"])
def test_official_files_come_back_bit_for_bit(official: Path, tmp_path: Path, middle: str) -> None:
    between = tmp_path / ("folder" if middle == "diffusers" else "between.safetensors")
    convert(official, between, middle)
    convert(between, tmp_path / "back.safetensors", "official")
    assert bits(tmp_path / "back.safetensors") == bits(official)
    before, after = metadata(official), metadata(tmp_path / "back.safetensors")
    assert json.loads(after["config"]) == json.loads(before["config"])


@pytest.mark.parametrize("middle", ["official", "comfy", "diffusers"])
def test_folders_come_back_bit_for_bit(pipeline_folder: Path, tmp_path: Path, middle: str) -> None:
    between = tmp_path / ("between" if middle == "diffusers" else "between.safetensors")
    made = convert(pipeline_folder, between, middle)
    convert(between, tmp_path / "back", "diffusers")
    expected = folder_bits(pipeline_folder)
    if middle == "official":
        del expected["text_encoder"]
        assert made.notes == ("left out: text encoder", "left out: tokenizer")
    assert folder_bits(tmp_path / "back") == expected
    before = LTXPipeline.from_pretrained(pipeline_folder)
    after = LTXPipeline.from_pretrained(tmp_path / "back", text_encoder=None, tokenizer=None)
    for part in ("transformer", "vae", "scheduler"):
        old, new = getattr(before, part).config, getattr(after, part).config
        assert {k: v for k, v in new.items() if k[0] != "_"} == {k: v for k, v in old.items() if k[0] != "_"}


def test_a_folder_in_diffusers_layout_is_whole(pipeline_folder: Path, tmp_path: Path) -> None:
    """Diffusers alone loads it with text encoder and tokenizer; a second conversion gives the same files."""
    convert(pipeline_folder, tmp_path / "first", "diffusers")
    convert(tmp_path / "first", tmp_path / "second", "diffusers")
    for path in sorted(path for path in (tmp_path / "first").rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes()
    pipe = DiffusersPipeline.from_pretrained(tmp_path / "first")
    assert type(pipe.vae).__name__ == "AutoencoderKLLTXVideo"
    assert (
        pipe.tokenizer("a red circle").input_ids == tiny_components()["tokenizer"]("a red circle").input_ids
    )


def test_a_text_encoder_goes_through_a_comfy_file(pipeline_folder: Path, tmp_path: Path) -> None:
    convert(pipeline_folder, tmp_path / "all.safetensors", "comfy")
    names = load_file(tmp_path / "all.safetensors").keys()
    assert "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight" in names
    assert "text_encoders.t5xxl.transformer.shared.weight" in names
    convert(tmp_path / "all.safetensors", tmp_path / "back", "diffusers")
    before = T5EncoderModel.from_pretrained(pipeline_folder / "text_encoder", dtype=torch.float32)
    after = T5EncoderModel.from_pretrained(tmp_path / "back" / "text_encoder", dtype=torch.float32)
    tokens = torch.tensor([[3, 5, 4, 1]])
    with torch.no_grad():
        assert torch.equal(before(tokens).last_hidden_state, after(tokens).last_hidden_state)


def test_single_parts_become_single_components(tmp_path: Path) -> None:
    transformer, vae = tiny_transformer(causal=True), tiny_autoencoder("0.9.5")
    for name, model, loader in (
        ("transformer", transformer, LTXTransformer3DModel),
        ("vae", vae, AutoencoderKLLTX),
    ):
        file = tmp_path / f"{name}.safetensors"
        config = official_config(**{name: model}, release="0.9.5" if name == "transformer" else None)
        save_file(official_tensors(**{name: model}, prefixes=("", "")), file, {"config": json.dumps(config)})
        convert(file, tmp_path / name, "diffusers", version="0.9.5")
        loaded = loader.from_pretrained(tmp_path / name)
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
        convert(tmp_path / name, tmp_path / f"{name}_back.safetensors", "official")
        again = json.loads(metadata(tmp_path / f"{name}_back.safetensors")["config"])
        assert again == config
        prefix = {"transformer": "model.diffusion_model.", "vae": "vae."}[name]
        assert bits(tmp_path / f"{name}_back.safetensors") == {
            prefix + key: value for key, value in bits(file).items()
        }


def test_a_vae_alone_has_no_prefix_in_comfyui(tmp_path: Path) -> None:
    tiny_autoencoder("0.9.5").save_pretrained(tmp_path / "vae")
    convert(tmp_path / "vae", tmp_path / "vae.safetensors", "comfy")
    assert "encoder.conv_in.conv.weight" in load_file(tmp_path / "vae.safetensors")
    convert(tmp_path / "vae.safetensors", tmp_path / "back", "diffusers")
    name = "diffusion_pytorch_model.safetensors"
    assert bits(tmp_path / "back" / name) == bits(tmp_path / "vae" / name)


def test_shards_are_read_and_written(official: Path, tmp_path: Path) -> None:
    convert(official, tmp_path / "sharded", "diffusers", shard_size="1MB")
    assert len(list((tmp_path / "sharded" / "vae").glob("*-of-*.safetensors"))) > 1
    assert DiffusersPipeline.from_pretrained(tmp_path / "sharded", text_encoder=None, tokenizer=None)
    convert(tmp_path / "sharded", tmp_path / "back.safetensors", "official")
    assert bits(tmp_path / "back.safetensors") == bits(official)


# Dtypes


def test_weights_are_rounded_as_torch_rounds_them(official: Path, tmp_path: Path) -> None:
    made = convert(official, tmp_path / "half.safetensors", "official", dtype=torch.bfloat16, verify=True)
    assert made.report.ok
    before, after = load_file(official), load_file(tmp_path / "half.safetensors")
    for name, tensor in before.items():
        if name.partition("per_channel_statistics.")[2] not in ("channel", "mean-of-stds"):
            assert torch.equal(after[name], tensor.bfloat16())


def test_values_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    save_checkpoint(
        tmp_path / "large.safetensors",
        "0.9.1",
        change=lambda tensors: tensors | {"model.diffusion_model.proj_out.bias": torch.full((8,), 1e5)},
    )
    with pytest.raises(CheckpointError, match="proj_out.bias.*too large for float16; got 100000.0; .*65504"):
        convert(tmp_path / "large.safetensors", tmp_path / "out.safetensors", "official", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["large.safetensors"]


def test_scaled_fp8_needs_a_dtype_and_is_then_multiplied_out(tmp_path: Path) -> None:
    name = "model.diffusion_model.transformer_blocks.0.ff.net.2.weight"

    def scale(tensors: dict) -> dict:
        small = (tensors[name] / 4).to(torch.float8_e4m3fn)
        return tensors | {name: small, name.replace(".weight", ".scale_weight"): torch.tensor(4.0)}

    save_checkpoint(tmp_path / "fp8.safetensors", "0.9.1", change=scale)
    with pytest.raises(CheckpointError, match="scaled fp8.*give the dtype"):
        convert(tmp_path / "fp8.safetensors", tmp_path / "folder", "diffusers")
    convert(tmp_path / "fp8.safetensors", tmp_path / "out.safetensors", "official", dtype=torch.bfloat16)
    stored = load_file(tmp_path / "fp8.safetensors")[name]
    assert torch.equal(load_file(tmp_path / "out.safetensors")[name], (stored.float() * 4).bfloat16())


def test_plain_fp8_stays_as_it_is(tmp_path: Path) -> None:
    def lower(tensors: dict) -> dict:
        return {
            name: tensor.to(torch.float8_e4m3fn) if "transformer_blocks" in name else tensor
            for name, tensor in tensors.items()
        }

    save_checkpoint(tmp_path / "fp8.safetensors", "0.9.1", change=lower)
    convert(tmp_path / "fp8.safetensors", tmp_path / "folder", "diffusers")
    convert(tmp_path / "folder", tmp_path / "back.safetensors", "official")
    assert bits(tmp_path / "back.safetensors") == bits(tmp_path / "fp8.safetensors")


def test_a_text_encoder_is_loaded_in_the_dtype_that_it_was_converted_to(
    pipeline_folder: Path, tmp_path: Path
) -> None:
    convert(pipeline_folder, tmp_path / "folder", "diffusers", dtype=torch.float32)
    assert DiffusersPipeline.from_pretrained(tmp_path / "folder").text_encoder.dtype == torch.float32
    assert T5EncoderModel.from_pretrained(tmp_path / "folder" / "text_encoder").dtype == torch.float32


def test_gguf_is_written_dequantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = pytest.importorskip("gguf")
    # A size that blocks of 32 values divide; GGUF files have no config, so it must count as released.
    size = TINY_TRANSFORMER | {"in_channels": 32, "out_channels": 32, "caption_channels": 32}
    monkeypatch.setattr(part_configs, "RELEASED_TRANSFORMERS", {"2b": size})
    model = LTXTransformer3DModel(**size, causal_temporal_positioning=True)
    number = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "ltxv")
    for name, tensor in official_tensors(model, prefixes=("", "")).items():
        if name.endswith("to_q.weight"):
            writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), number), raw_dtype=number)
        else:
            writer.add_tensor(name, tensor.half().numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    made = convert(
        tmp_path / "x.gguf",
        tmp_path / "out",
        "diffusers",
        dtype=torch.float32,
        version="0.9.6-dev",
        verify=True,
    )
    assert made.report.ok
    assert made.parts[0].dtypes == ("float32",)
    assert metadata(tmp_path / "out" / "diffusion_pytorch_model.safetensors").keys() == {
        "format",
        "ltx_diffusers",
    }
    loaded = LTXTransformer3DModel.from_pretrained(tmp_path / "out")
    for name, tensor in loaded.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=2e-3)


# What a source doesn't tell


def test_a_version_is_asked_for_where_releases_sample_differently(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "distilled.safetensors", "0.9.6-distilled")
    with pytest.raises(CheckpointError, match="0.9.6-distilled, .*0.9.8-2b-distilled.*version"):
        convert(tmp_path / "distilled.safetensors", tmp_path / "folder", "diffusers")
    convert(tmp_path / "distilled.safetensors", tmp_path / "folder", "diffusers", version="0.9.6-distilled")
    convert(tmp_path / "folder", tmp_path / "back.safetensors", "official")
    made = convert(tmp_path / "back.safetensors", tmp_path / "again", "diffusers")
    assert made.version == "0.9.6-distilled"  # noted in the metadata, so asked for only once
    pipe = LTXPipeline.from_pretrained(tmp_path / "again", text_encoder=None, tokenizer=None)
    assert pipe.scheduler.config.stochastic_sampling is True


@pytest.mark.parametrize("release", ["0.9.6-distilled", "0.9.8-2b-distilled"])
def test_a_folder_that_states_how_it_is_sampled_is_not_asked_again(release: str, tmp_path: Path) -> None:
    parts = tiny_components(causal=True, timestep_conditioning=True)
    parts["scheduler"] = LTXFlowMatchScheduler(**RELEASES[release].scheduler_config)
    LTXPipeline(**parts).save_pretrained(tmp_path / "folder")
    assert convert(tmp_path / "folder", tmp_path / "a.safetensors", "official", verify=True).report.ok
    convert(tmp_path / "a.safetensors", tmp_path / "back", "diffusers")
    pipe = LTXPipeline.from_pretrained(tmp_path / "back", text_encoder=None, tokenizer=None)
    assert pipe.scheduler.config.stochastic_sampling == RELEASES[release].stochastic_sampling


def test_what_diffusers_repositories_do_not_state_follows_from_the_vae_and_is_said(tmp_path: Path) -> None:
    parts = tiny_components(causal=True, ours=False)
    DiffusersPipeline(**parts).save_pretrained(tmp_path / "theirs")
    made = convert(tmp_path / "theirs", tmp_path / "out.safetensors", "official")
    assert any("causal_temporal_positioning; True follows" in note for note in made.notes)
    assert any("linear-quadratic follows from the kind of VAE" in note for note in made.notes)
    config = json.loads(metadata(tmp_path / "out.safetensors")["config"])
    assert config["transformer"]["causal_temporal_positioning"] is True
    assert config["scheduler"]["sampler"] == "LinearQuadratic"


def test_a_lone_transformer_that_does_not_tell_its_coordinates_needs_a_version(tmp_path: Path) -> None:
    tiny_transformer(causal=None).save_pretrained(tmp_path / "transformer")
    with pytest.raises(CheckpointError, match="causal_temporal_positioning"):
        convert(tmp_path / "transformer", tmp_path / "out.safetensors", "official")


def test_a_missing_mean_of_the_latents_is_zero(tmp_path: Path) -> None:
    missing = "vae.per_channel_statistics.mean-of-means"
    save_checkpoint(
        tmp_path / "in.safetensors",
        "0.9.1",
        change=lambda tensors: {name: value for name, value in tensors.items() if name != missing},
    )
    made = convert(tmp_path / "in.safetensors", tmp_path / "folder", "diffusers", verify=True)
    assert made.report.ok
    assert not AutoencoderKLLTX.from_pretrained(tmp_path / "folder" / "vae").latents_mean.any()


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    save_checkpoint(
        tmp_path / "in.safetensors", "0.9.1", change=lambda tensors: tensors | {"stray": torch.zeros(1)}
    )
    made = convert(tmp_path / "in.safetensors", tmp_path / "folder", "diffusers")
    assert made.notes == ("left out: 1 tensors that belong to no part (stray)",)


def test_remarks_of_a_file_are_taken_over_but_not_how_it_was_made(official: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    remarks = metadata(official) | {"license": "open", "prompt": "secret", "workflow": "{}"}
    save_file(load_file(official), source, remarks)
    convert(source, tmp_path / "out.safetensors", "official")
    found = metadata(tmp_path / "out.safetensors")
    assert found["license"] == "open"
    assert not {"prompt", "workflow"} & found.keys()


# Refused before work


def test_wrong_arguments_are_refused_and_nothing_is_written(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    monkeypatch.setattr(module, "open_model", lambda *_, **__: pytest.fail("work was begun"))
    for target, to, options, message in (
        ("out", "onnx", {}, "unknown layout.*expected one of diffusers, official, comfy"),
        ("out", "diffusers", {"dtype": torch.int8}, "can't convert to this dtype"),
        ("out", "diffusers", {"shard_size": "huge"}, "not a size"),
        ("out", "official", {}, "single file.*ends in .safetensors"),
        ("out.safetensors", "diffusers", {}, "diffusers is a folder"),
        ("out.safetensors", "comfy", {"shard_size": 10}, "no shards"),
        ("taken", "diffusers", {}, "exists already"),
        ("no/such/out", "diffusers", {}, "no/such isn't a folder to write into"),
    ):
        with pytest.raises(InputError, match=message):
            convert(official, tmp_path / target, to, **options)
    with pytest.raises(CheckpointError, match="no file or folder"):
        convert(tmp_path / "absent", tmp_path / "out", "diffusers")
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "file"]


def test_a_full_disk_is_noticed_before_writing(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10, 10, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="no room for the target; got 0.00 GB free"):
        convert(official, tmp_path / "out", "diffusers")
    assert list(tmp_path.iterdir()) == []


def test_models_that_no_layout_holds_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"controlnet": ["diffusers", "ControlNet"]}))
    with pytest.raises(CheckpointError, match="component that isn't of LTX-Video.*got controlnet"):
        convert(folder, tmp_path / "out", "diffusers")
    (folder / "model_index.json").write_text(json.dumps({"vae": ["diffusers", "AutoencoderKLLTXVideo"]}))
    with pytest.raises(CheckpointError, match="lacks a folder that its model_index.json names; got no vae"):
        convert(folder, tmp_path / "out", "diffusers")
    transformer = tiny_transformer(causal=True)
    transformer.register_to_config(timestep_scale_multiplier=500.0)
    transformer.save_pretrained(tmp_path / "transformer")
    with pytest.raises(CheckpointError, match="no official equal; got timestep_scale_multiplier"):
        convert(tmp_path / "transformer", tmp_path / "out.safetensors", "official")


def test_pickles_are_read_only_when_asked(tmp_path: Path) -> None:
    vae = tiny_autoencoder("0.9.1")
    vae.save_pretrained(tmp_path / "vae")
    torch.save(vae.state_dict(), tmp_path / "vae" / "diffusion_pytorch_model.bin")
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is a pickle"):
        convert(tmp_path / "vae", tmp_path / "out", "diffusers")
    convert(tmp_path / "vae", tmp_path / "out", "diffusers", allow_pickle=True)
    assert bits(tmp_path / "out" / "diffusion_pytorch_model.safetensors").keys() == vae.state_dict().keys()


# Real sizes


@pytest.mark.parametrize(
    ("release", "tensors"),
    [
        ("0.9.0", {"transformer": 715, "vae": 190}),
        ("0.9.1", {"transformer": 715, "vae": 294}),
        ("0.9.8-13b-dev", {"transformer": 1215, "vae": 226}),
    ],
)
def test_released_sizes_can_be_planned_in_every_layout(
    release: str, tensors: dict[str, int], tmp_path: Path
) -> None:
    sparse_checkpoint(tmp_path / "large.safetensors", release)
    with open_model(tmp_path / "large.safetensors", version=release) as model:
        for to, plan in PLANS.items():
            planned = plan(model, torch.bfloat16)
            assert {kind: len(parts) for kind, parts in planned.parts.items()} == tensors, to
            assert planned.nbytes > 2 * 2.3e9


# Streaming and kill-safety


def test_one_tensor_is_in_memory_at_a_time(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    from ltx_diffusers.conversion.tensors import SafetensorsFile

    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0
    load = SafetensorsFile.load

    def counted(self: SafetensorsFile, name: str) -> torch.Tensor:
        nonlocal most
        tensor = load(self, name)
        if "per_channel_statistics" not in name:
            most = max(most, len(alive) + 1)
            alive.add(tensor)
        return tensor

    monkeypatch.setattr(SafetensorsFile, "load", counted)
    convert(official, tmp_path / "out.safetensors", "official", dtype=torch.bfloat16)
    assert most == 1


def test_progress_ends_at_the_whole(official: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    made = convert(
        official, tmp_path / "out", "diffusers", verify=True, progress=lambda *state: seen.append(state)
    )
    for stage in ("writing", "verifying"):
        done = [done for name, done, total in seen if name == stage and total == made.nbytes]
        assert done == sorted(done) and done[-1] == made.nbytes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, to be quick")
@pytest.mark.parametrize(("to", "name"), [("diffusers", "folder"), ("official", "file.safetensors")])
def test_a_killed_conversion_leaves_no_target_and_can_be_run_again(
    official: Path, tmp_path: Path, to: str, name: str
) -> None:
    target = tmp_path / name
    fork = multiprocessing.get_context("fork")
    half_way = fork.Event()

    def pause(stage: str, done: int, total: int) -> None:
        if done > total / 2:
            half_way.set()
            time.sleep(60)

    process = fork.Process(target=convert, args=(official, target, to), kwargs={"progress": pause})
    process.start()
    assert half_way.wait(60)
    process.kill()
    process.join()
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.partial"]
    convert(official, target, to)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    convert(target, tmp_path / "back.safetensors", "official")
    assert bits(tmp_path / "back.safetensors") == bits(official)


def test_an_interrupted_conversion_leaves_nothing(official: Path, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for target, to in ((tmp_path / "folder", "diffusers"), (tmp_path / "file.safetensors", "comfy")):
        with pytest.raises(KeyboardInterrupt):
            convert(official, target, to, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
