"""Loading, saving and sharing components, ours and Diffusers'."""

from __future__ import annotations

import json
import logging

import diffusers
import pytest
import torch
from tiny import tiny_components

from ltx_diffusers import (
    AutoencoderKLLTX,
    LTXFlowMatchScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXTransformer3DModel,
)
from ltx_diffusers.errors import InputError
from ltx_diffusers.pipelines import release

OWN = {"transformer": LTXTransformer3DModel, "vae": AutoencoderKLLTX, "scheduler": LTXFlowMatchScheduler}
THEIRS = {
    "transformer": diffusers.LTXVideoTransformer3DModel,
    "vae": diffusers.AutoencoderKLLTXVideo,
    "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
}
CALL = {"prompt": "a red circle", "height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def repos(tmp_path_factory):
    """Folders in Diffusers' layout with Diffusers' class names, of both kinds of releases."""
    folders = {}
    for name, causal in (("0.9.1", False), ("0.9.5", True)):
        pipeline = diffusers.LTXPipeline(
            **tiny_components(timestep_conditioning=True, causal=causal, ours=False, statistics=True)
        )
        folders[name] = tmp_path_factory.mktemp(name)
        pipeline.save_pretrained(folders[name])
    return folders


@pytest.fixture(autouse=True)
def fresh_warnings():
    release.warn_once.cache_clear()


def assert_classes(pipeline, classes):
    assert {name: type(getattr(pipeline, name)) for name in classes} == classes


def video(pipeline, **changes):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipeline(**CALL, generator=generator, output_type="pt", **changes).frames


def weights_of(pipeline):
    return {
        f"{name}.{key}": value
        for name in ("transformer", "vae", "text_encoder")
        for key, value in getattr(pipeline, name).state_dict().items()
    }


@pytest.mark.parametrize("pipeline_class", [LTXPipeline, LTXImageToVideoPipeline])
@pytest.mark.parametrize("version", ["0.9.1", "0.9.5"])
def test_a_repo_of_diffusers_gives_our_classes(repos, version, pipeline_class):
    pipeline = pipeline_class.from_pretrained(repos[version])
    assert type(pipeline) is pipeline_class
    assert_classes(pipeline, OWN)
    reference = weights_of(diffusers.LTXPipeline.from_pretrained(repos[version]))
    loaded = weights_of(pipeline)
    assert loaded.keys() == reference.keys()
    assert all(torch.equal(loaded[key], reference[key]) for key in reference)
    assert pipeline.config._name_or_path == str(repos[version])


def test_what_the_repo_does_not_say_follows_from_its_vae(repos, caplog):
    with caplog.at_level(logging.WARNING):
        older = LTXPipeline.from_pretrained(repos["0.9.1"])
        newer = LTXPipeline.from_pretrained(repos["0.9.5"])
    assert older.transformer.config.causal_temporal_positioning is False
    assert (older.scheduler.config.schedule, older.scheduler.config.shifting) == ("uniform", "sd3")
    assert older.scheduler.config.shift_terminal == 0.1
    assert newer.transformer.config.causal_temporal_positioning is True
    assert (newer.scheduler.config.schedule, newer.scheduler.config.shifting) == ("linear-quadratic", None)
    messages = [record.getMessage() for record in caplog.records if record.name == release.__name__]
    assert len(messages) == 3
    assert all("To override it" in message for message in messages)


def test_warnings_come_once(repos, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            LTXPipeline.from_pretrained(repos["0.9.5"])
    assert len([record for record in caplog.records if record.name == release.__name__]) == 2


def test_the_caller_decides(repos, caplog):
    with caplog.at_level(logging.WARNING):
        pipeline = LTXPipeline.from_pretrained(
            repos["0.9.5"], causal_temporal_positioning=False, schedule="uniform"
        )
    assert pipeline.transformer.config.causal_temporal_positioning is False
    assert pipeline.scheduler.config.schedule == "uniform"
    assert not [record for record in caplog.records if record.name == release.__name__]


def test_another_schedule_has_its_own_options(repos, tmp_path):
    pipeline = LTXPipeline.from_pretrained(repos["0.9.5"])
    pipeline.scheduler.register_to_config(schedule_options={"threshold": 0.1})
    pipeline.save_pretrained(tmp_path)
    same = LTXPipeline.from_pretrained(tmp_path, schedule="linear-quadratic").scheduler.config
    assert same.schedule_options == {"threshold": 0.1}
    other = LTXPipeline.from_pretrained(tmp_path, schedule="uniform").scheduler.config
    assert (other.schedule, other.schedule_options) == ("uniform", None)


@pytest.mark.parametrize("version", ["0.9.1", "0.9.5"])
def test_a_round_trip_changes_nothing(repos, version, tmp_path, caplog):
    pipeline = LTXPipeline.from_pretrained(repos[version])
    pipeline.transformer.register_to_config(default_height=64, default_frame_rate=12.5)
    pipeline.vae.register_to_config(default_decode_timestep=0.1)
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "LTXPipeline"
    assert {name: index[name] for name in OWN} == {
        name: ["ltx_diffusers", own.__name__] for name, own in OWN.items()
    }

    release.warn_once.cache_clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        again = LTXPipeline.from_pretrained(tmp_path)
    assert not [record for record in caplog.records if record.name == release.__name__]
    assert_classes(again, OWN)
    for name in OWN:
        own, other = (dict(getattr(made, name).config) for made in (pipeline, again))
        for config in (own, other):
            for key in ("_name_or_path", "_use_default_values", "_class_name", "_diffusers_version"):
                config.pop(key, None)
        assert json.dumps(own, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert torch.equal(video(pipeline), video(again))


def test_diffusers_loads_what_we_save(repos, tmp_path):
    """With our package imported, by the class names in the index."""
    pipeline = LTXPipeline.from_pretrained(repos["0.9.1"])
    pipeline.save_pretrained(tmp_path)
    generic = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    assert type(generic) is diffusers.LTXPipeline
    assert_classes(generic, OWN)
    # And Diffusers' own classes take our parts' folders.
    model = diffusers.LTXVideoTransformer3DModel.from_pretrained(tmp_path, subfolder="transformer")
    assert all(
        torch.equal(value, model.state_dict()[key])
        for key, value in pipeline.transformer.state_dict().items()
    )


def test_dtype_and_variant(repos, tmp_path):
    pipeline = LTXPipeline.from_pretrained(
        repos["0.9.1"], dtype={"transformer": torch.bfloat16, "default": torch.float32}
    )
    assert (pipeline.transformer.dtype, pipeline.vae.dtype) == (torch.bfloat16, torch.float32)
    diffusers.LTXPipeline.from_pretrained(repos["0.9.1"], dtype=torch.float16).save_pretrained(
        tmp_path, variant="fp16"
    )
    assert (tmp_path / "vae" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    half = LTXPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    assert_classes(half, OWN)
    assert half.vae.dtype == torch.float16


def test_given_components_are_kept_as_they_are(repos):
    given = tiny_components(causal=True)["transformer"]
    given.register_to_config(causal_temporal_positioning=False)
    pipeline = LTXPipeline.from_pretrained(
        repos["0.9.5"], transformer=given, text_encoder=None, tokenizer=None
    )
    assert pipeline.transformer is given
    assert given.config.causal_temporal_positioning is False
    assert pipeline.text_encoder is None
    theirs = LTXPipeline.from_pretrained(
        repos["0.9.5"], scheduler=diffusers.FlowMatchEulerDiscreteScheduler()
    )
    assert type(theirs.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler


def test_our_transformer_with_a_config_of_diffusers_does_not_hide_the_release(repos):
    given = LTXTransformer3DModel.from_pretrained(repos["0.9.5"], subfolder="transformer")
    whole = LTXPipeline.from_pretrained(repos["0.9.5"])
    assert whole.transformer.config.causal_temporal_positioning is True
    assert torch.equal(video(LTXPipeline.from_pretrained(repos["0.9.5"], transformer=given)), video(whole))
    given.register_to_config(causal_temporal_positioning=False)
    assert not torch.equal(
        video(LTXPipeline.from_pretrained(repos["0.9.5"], transformer=given)), video(whole)
    )


def test_other_pipelines_are_refused(tmp_path):
    with pytest.raises(InputError, match="no model_index"):
        LTXPipeline.from_pretrained(tmp_path)
    for content, message in (
        ("{}", "transformer can't be used; got none"),
        ('{"transformer": "LTXTransformer3DModel"}', "transformer can't be used; got none"),
        ("[]", "must hold a JSON object"),
        ('{"transformer": ', "isn't valid JSON"),
    ):
        (tmp_path / "model_index.json").write_text(content)
        with pytest.raises(InputError, match=message):
            LTXPipeline.from_pretrained(tmp_path)
    index = {
        "_class_name": "WanPipeline",
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="transformer can't be used; got WanTransformer3DModel"):
        LTXPipeline.from_pretrained(tmp_path)
    index["transformer"] = ["diffusers", "LTXVideoTransformer3DModel"]
    del index["vae"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="vae can't be used; got none; expected AutoencoderKLLTXVideo"):
        LTXPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("ours", [True, False], ids=["our parts", "their parts"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        (LTXPipeline, LTXImageToVideoPipeline),
        (LTXImageToVideoPipeline, LTXPipeline),
        (LTXPipeline, diffusers.LTXPipeline),
        (LTXPipeline, diffusers.LTXImageToVideoPipeline),
        (LTXPipeline, diffusers.LTXConditionPipeline),
        (diffusers.LTXPipeline, LTXPipeline),
        (diffusers.LTXConditionPipeline, LTXImageToVideoPipeline),
        (diffusers.LTXImageToVideoPipeline, LTXPipeline),
    ],
    ids=lambda made: f"{made.__module__.split('.')[0]}.{made.__name__}",
)
def test_from_pipe(source, target, ours):
    pipeline = source(**tiny_components(ours=ours))
    made = target.from_pipe(pipeline)
    assert type(made) is target
    assert made.components.keys() == pipeline.components.keys()
    for name, component in pipeline.components.items():
        assert getattr(made, name) is component
    if target is LTXPipeline:
        assert video(made).isfinite().all()


def test_from_pipe_there_and_back_gives_the_same_video():
    pipeline = LTXPipeline(**tiny_components())
    back = LTXPipeline.from_pipe(diffusers.LTXPipeline.from_pipe(pipeline))
    assert torch.equal(video(pipeline), video(back))


def test_their_parts_can_be_told_their_release():
    pipeline = LTXPipeline(**tiny_components(causal=True, ours=False))
    causal = video(pipeline)
    pipeline.transformer.register_to_config(causal_temporal_positioning=False)
    assert (video(pipeline) - causal).abs().max() > 1e-4
