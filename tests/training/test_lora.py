"""Training a LoRA: only its weights move and are kept, it comes out with alpha for everyone, and resumes exactly."""

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import yaml
from helpers.processes import run_on
from helpers.tiny_runs import lora_run
from safetensors import safe_open
from tiny import tiny_components

from ltx_diffusers import LTXPipeline, LTXTransformer3DModel
from ltx_diffusers.conversion.lora.files import read_lora, write_lora
from ltx_diffusers.conversion.lora.peft_model import extract_adapter
from ltx_diffusers.data.video import write_image, write_video
from ltx_diffusers.errors import InputError, MediaError
from ltx_diffusers.functional.coordinates import video_coordinates
from ltx_diffusers.geometry import VideoSize
from ltx_diffusers.training.config import parse_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.lora import find_targets, keep_trained_only
from ltx_diffusers.training.transformer import TransformerTask
from ltx_diffusers.training.transformer_config import TransformerTrainConfig


@pytest.fixture(scope="module")
def unstated(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """The same pipeline as Diffusers' converters write it: the time coordinates follow from the VAE."""
    folder = tmp_path_factory.mktemp("unstated") / "base"
    shutil.copytree(base, folder)
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    del config["causal_temporal_positioning"]
    path.write_text(json.dumps(config))
    return folder


def trainer(folder: Path, base: Path, *, resume: bool = False, **changes: object) -> Trainer:
    config = parse_config(TransformerTrainConfig, lora_run(folder, base, **changes))
    return Trainer(TransformerTask(config), config, resume=resume)


def prediction(transformer: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return transformer(
            torch.randn(2, 4, 8, generator=generator),
            encoder_hidden_states=torch.randn(2, 3, 16, generator=generator),
            timestep=torch.tensor([300.0, 700.0]),
            encoder_attention_mask=torch.ones(2, 3),
            video_coords=video_coordinates(VideoSize(2, 1, 2), batch_size=2, frame_rate=25.0, causal=True),
            return_dict=False,
        )[0].float()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Trainer, Path]:
    settings = {"adapter": {"rank": 3, "alpha": 12.0}, "export_dtype": "float32"}
    run = trainer(tmp_path_factory.mktemp("run"), base, **settings)
    before = {name: value.clone() for name, value in run.task.module.named_parameters()}
    model = run.train()
    run.before = before
    return run, model


def test_only_the_adapter_is_trained_and_kept(finished) -> None:
    run, _ = finished
    moved = {name for name, p in run.task.module.named_parameters() if not torch.equal(p, run.before[name])}
    assert moved and all("lora_" in name for name in moved)
    assert not any(name.startswith("text_encoder") for name in run.before)
    checkpoint = sorted((run.folder / "checkpoints").iterdir())[-1]
    with safe_open(next(checkpoint.glob("model*.safetensors")), "pt") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118


def test_a_resumed_run_takes_the_steps_of_an_unbroken_one(tmp_path, base, finished) -> None:
    run, _ = finished
    settings = {"adapter": {"rank": 3, "alpha": 12.0}}
    broken = trainer(tmp_path, base, **settings)
    for _ in range(2):
        broken.train_step()
        broken.step += 1
    broken.save()
    resumed = trainer(tmp_path, base, resume=True, **settings)
    resumed.train()
    for (name, value), other in zip(
        run.task.module.named_parameters(), resumed.task.module.parameters(), strict=True
    ):
        assert torch.equal(value, other), name


def test_the_lora_acts_alike_in_training_here_and_in_diffusers(base, finished) -> None:
    run, model = finished
    expected = prediction(run.task.module.transformer.eval())
    ours = LTXPipeline.from_pretrained(base)
    plain = prediction(ours.transformer)
    ours.load_lora_weights(model)
    torch.testing.assert_close(prediction(ours.transformer), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-4)

    components = tiny_components(causal=True, statistics=True, ours=False)
    theirs = diffusers.LTXPipeline(**components)
    theirs.load_lora_weights(model, weight_name="pytorch_lora_weights.safetensors")
    torch.testing.assert_close(prediction(theirs.transformer), expected, atol=1e-5, rtol=1e-4)


def test_diffusers_own_pipeline_makes_the_same_video(base, finished) -> None:
    """In that pipeline of Diffusers' which has this model's time coordinates and schedule."""
    _, model = finished
    ours = LTXPipeline.from_pretrained(base)
    theirs = diffusers.LTXConditionPipeline(**tiny_components(causal=True, statistics=True, ours=False))
    call = {
        "prompt": "a red circle moves",
        "negative_prompt": "white wall on black",
        "max_sequence_length": 5,  # full of words, so that Diffusers' lack of a mask for T5 makes no difference
        "height": 64,
        "width": 64,
        "num_frames": 9,
        "frame_rate": 25,
        "num_inference_steps": 3,
        "guidance_scale": 3.0,
        "output_type": "np",
    }
    plain = ours(**call, generator=torch.Generator().manual_seed(0)).frames
    ours.load_lora_weights(model)
    theirs.load_lora_weights(model, weight_name="pytorch_lora_weights.safetensors")
    expected, made = (
        pipeline(**call, generator=torch.Generator().manual_seed(0)).frames for pipeline in (ours, theirs)
    )
    np.testing.assert_allclose(made, expected, atol=1e-4)
    assert np.abs(expected - plain).max() > 1e-2


def test_alpha_is_the_same_in_every_format(tmp_path, finished) -> None:
    run, model = finished
    trained = extract_adapter(run.task.module.transformer)
    files = [model / "pytorch_lora_weights.safetensors", model / "comfyui_lora_weights.safetensors"]
    for format in ("diffusers", "peft", "comfy", "kohya"):
        files.append(write_lora(read_lora(files[0]), tmp_path / format, format))
    for file in files:
        lora = read_lora(file)
        assert lora.layers.keys() == trained.layers.keys()
        for name, layer in lora.layers.items():
            assert (layer.rank, layer.alpha) == (3, 12.0), (file, name)
            torch.testing.assert_close(layer.product(), trained.layers[name].product(), atol=1e-6, rtol=1e-5)


def test_the_folder_has_samples_and_facts_for_a_card(finished) -> None:
    _, model = finished
    facts = yaml.safe_load((model / "card.yaml").read_text())
    assert sorted(facts["samples"]) == ["samples/00.mp4", "samples/01.mp4"]
    assert all((model / name).is_file() for name in facts["samples"])
    assert facts["training"]["adapter"]["alpha"] == 12.0 and facts["trigger"] == "sks"
    assert facts["training"]["sizes"] == [[9, 32, 64]]
    prompts = list(facts["samples"].values())
    assert facts["prompt"] == prompts[0] and all(prompt.startswith("sks ") for prompt in prompts)
    with safe_open(model / "comfyui_lora_weights.safetensors", "pt") as file:
        assert file.metadata()["trigger"] == "sks"


def test_training_lowers_the_loss_on_its_samples(tmp_path, base) -> None:
    run = trainer(
        tmp_path,
        base,
        steps=60,
        cached_clips=1,
        batch_size=8,
        conditions={"first_frame": 0.0},
        optimizer={"name": "adamw", "learning_rate": 0.02, "warmup_steps": 1, "schedule": "constant"},
    )
    losses = []
    for _ in range(60):
        losses.append(run.train_step()["loss"])
        run.step += 1
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": {"rank": 2, "dora": True}},
        {"base_dtype": "bfloat16"},
        {"base_dtype": "bfloat16", "base_storage": "fp8"},
        {"base_dtype": "bfloat16", "base_storage": "int8"},
        {"adapter": {"rank": 2, "dropout": 0.5}, "gradient_checkpointing": True},
    ],
    ids=str,
)
def test_kinds_of_adapters_and_bases(tmp_path, unstated, changes) -> None:
    if changes.get("base_storage") == "int8":
        pytest.importorskip("torchao")
    base = unstated
    run = trainer(tmp_path, base, steps=2, **changes)
    model = run.train()
    lora = read_lora(model)
    assert run.task.module.transformer.config.causal_temporal_positioning is True
    assert lora.uses_dora == changes.get("adapter", {}).get("dora", False)
    for layer in lora.layers.values():
        assert layer.up.abs().sum() > 0 and layer.up.isfinite().all()
    pipeline = LTXPipeline.from_pretrained(base)
    report = pipeline.load_lora_weights(model)
    assert not report.unmatched


class _FewBits(torch.nn.Linear):
    """Keeps scales beside its weight, as bitsandbytes' `Linear4bit` does, and can't read them from a state."""

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight.absmax"] = torch.ones(4)
        destination[f"{prefix}weight.quant_state.bitsandbytes__nf4"] = torch.ones(4)


def test_checkpoints_hold_nothing_of_a_base_in_few_bits() -> None:
    module = torch.nn.Sequential(_FewBits(4, 4), torch.nn.Linear(4, 4, bias=False))
    module[0].requires_grad_(False)
    keep_trained_only(module)
    state = module.state_dict()
    assert set(state) == {"1.weight"}
    assert not module.load_state_dict(state).missing_keys
    around = torch.nn.ModuleDict({"0": torch.nn.Linear(4, 4), "module": module})  # as processes wrap it
    assert set(around.state_dict()) == {"0.weight", "0.bias", "module.1.weight"}


def test_targets_by_name_end_and_pattern() -> None:
    transformer = LTXTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=16,
    )
    assert find_targets(transformer, ["proj_in"]) == ["proj_in"]
    assert len(find_targets(transformer, ["to_q", "to_out.0"])) == 8
    assert find_targets(transformer, ["transformer_blocks.1.attn1.to_?"]) == [
        f"transformer_blocks.1.attn1.to_{letter}" for letter in "kqv"
    ]
    with pytest.raises(InputError, match="did you mean .*to_q"):
        find_targets(transformer, ["to_qq"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": {"rnak": 4}}, "did you mean rank"),
        ({"adapter": {"rank": 4, "targets": ["to_z"]}}, "no linear layer"),
        ({"initial_weights": None}, "needs initial_weights"),
        ({"train_text_encoder": True}, "doesn't go with an adapter"),
        ({"initial_weights": "no-where"}, "no such folder, file or repository"),
        ({"source": "latents"}, "go together"),
        ({"adapter": {"dora": True}, "base_dtype": "bfloat16", "base_storage": "fp8"}, "take int8 or nf4"),
        ({"samples": {"prompts": ["a", "b"], "images": ["c.png"]}}, "1 images for 2 prompts"),
        ({"batch_size": 3, "accumulate": 2}, "processes x accumulate"),
        ({"conditions": {"clips": [{"frame": 8, "frames": 4, "share": 0.5}]}}, "clips.0.*use 1 or 9"),
        # What would have no effect.
        ({"model": {"num_layers": 3}}, "add random_weights: true"),
        ({"text_encoder": {"d_model": 16}}, "initial_weights bring theirs"),
        ({"validation_latents": "held-out"}, "goes with source: latents"),
        (
            {"data": {"height": 32, "width": 64, "num_frames": 9, "read_ahead": 2}},
            "read_ahead is for training a VAE",
        ),
        ({"best": {"figure": "held_out_loss", "goal": "lowest"}}, "validate_every must be positive"),
        ({"initial_text_encoder": "t5"}, "'initial_text_encoder' goes with a checkpoint file"),
        ({"release": "0.9.5"}, "'release' goes with a checkpoint file"),
    ],
)
def test_bad_settings_are_one_error(tmp_path, base, changes, message) -> None:
    with pytest.raises(InputError, match=message):
        TransformerTask(parse_config(TransformerTrainConfig, lora_run(tmp_path, base, **changes)))
    assert not (tmp_path / "cache").exists()


def _weights_after(rank: int, folder: Path, base: Path, steps: int, accumulate: int) -> list[float]:
    """Weights of an adapter after some steps on the processes of a run."""
    settings = {"batch_size": 4, "conditions": {"first_frame": 0.5, "opening": 0.5}, "token_dropping": 0.5}
    run = trainer(folder, base, accumulate=accumulate, **settings)
    for _ in range(steps):
        run.train_step()
        run.step += 1
    return torch.cat([parameter.detach().flatten() for parameter in run.parameters]).tolist()


def test_two_processes_and_two_passes_take_the_steps_of_one(tmp_path, base) -> None:
    one = run_on(1, _weights_after, tmp_path / "one", base, 3, 1)[0]
    two = run_on(2, _weights_after, tmp_path / "two", base, 3, 1)
    passes = run_on(1, _weights_after, tmp_path / "passes", base, 3, 2)[0]
    assert two[0] == two[1]
    for other in (two[0], passes):
        torch.testing.assert_close(torch.tensor(other), torch.tensor(one), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["images", "references"])
def test_validation_videos_take_pictures_and_references(tmp_path, base, kind) -> None:
    write_image(tmp_path / "first.png", np.full((40, 80, 3), 200, np.uint8))
    write_video(tmp_path / "reference.mp4", np.full((9, 32, 64, 3), 90, np.uint8), 8.0)
    files = {"images": [str(tmp_path / "first.png")], "references": [str(tmp_path / "reference.mp4")]}
    samples = {"prompts": ["a red circle"], "num_inference_steps": 1}
    videos = []
    for more in ({}, {kind: files[kind]}):
        config = parse_config(
            TransformerTrainConfig, lora_run(tmp_path, base, validation_clips=0, samples=samples | more)
        )
        videos.append(TransformerTask(config)._make_videos()[0])
    assert videos[0].shape == videos[1].shape == (9, 32, 64, 3)
    assert not np.array_equal(*videos)
    with pytest.raises(MediaError, match="missing"):
        missing = samples | {kind: [str(tmp_path / "missing")]}
        TransformerTask(parse_config(TransformerTrainConfig, lora_run(tmp_path, base, samples=missing)))
