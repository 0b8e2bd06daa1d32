"""Cards: what they say is true, and the code that they show runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from helpers.hub_server import HubServer
from helpers.loras import adapted_transformer, pipeline
from huggingface_hub import ModelCard
from tiny import tiny_components

from ltx_diffusers import LTXLatentUpsamplePipeline, LTXLatentUpsampler
from ltx_diffusers.data.video import read_video, write_video
from ltx_diffusers.errors import InputError, MediaError
from ltx_diffusers.hub.facts import CardFacts, gather, read_facts
from ltx_diffusers.hub.layouts import read_folder
from ltx_diffusers.hub.push import push_folder

FRAMES = np.full((9, 64, 64, 3), 90, np.uint8)


def code_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Run a card's code in a folder, as a user would. Diffusers' writer of videos needs a package that tests lack."""
    monkeypatch.chdir(folder)
    written = []
    monkeypatch.setattr(
        "diffusers.utils.export_to_video", lambda frames, path, fps: written.append((len(frames), path, fps))
    )
    module = ModuleType("card")
    exec(compile(code, "card.py", "exec"), vars(module))
    return {"written": written, **vars(module)}


def card_of(hub: HubServer, repository: str) -> str:
    return hub.repos["model", repository].files["README.md"].decode()


# --- the code ---------------------------------------------------------------------------------------------------


def test_the_code_for_a_pipeline_runs(
    hub: HubServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_folder(model, "tiny", facts=CardFacts(prompt='a red circle moves "left"'))
    code = code_of(card_of(hub, "ada/tiny"))
    assert r"a red circle moves \"left\"" in code
    run(code, tmp_path, monkeypatch)
    frames, rate = read_video(tmp_path / "video.mp4")
    assert frames.shape == (9, 64, 96, 3)
    assert rate == 12


@pytest.mark.parametrize("schedule", ["linear-quadratic", "uniform"])
def test_the_code_for_diffusers_runs_without_this_library(
    hub: HubServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    config = model / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"schedule": schedule}))
    push_folder(model, "tiny", layout="diffusers")
    code = code_of(card_of(hub, "ada/tiny"))
    assert "ltx_diffusers" not in code
    assert ("LTXConditionPipeline" in code) is (schedule == "linear-quadratic")
    assert run(code, tmp_path, monkeypatch)["written"] == [(9, "video.mp4", 12)]


def test_the_code_for_distilled_models_has_their_steps(
    hub: HubServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = model / "scheduler" / "scheduler_config.json"
    settings = json.loads(config.read_text()) | {"allowed_inference_steps": [1.0, 0.9, 0.5]}
    config.write_text(json.dumps(settings | {"default_num_inference_steps": None}))
    push_folder(model, "tiny", layout="diffusers")
    pipe = run(code_of(card_of(hub, "ada/tiny")), tmp_path, monkeypatch)["pipe"]
    assert pipe.num_timesteps == 3
    assert pipe.guidance_scale == 1


def test_the_code_for_an_official_file_runs(
    hub: HubServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_folder(model, "tiny", layout="official")
    code = code_of(card_of(hub, "ada/tiny"))
    assert '"ada/tiny/tiny.safetensors"' in code
    # The file has no sizes of its own, so the example would make a large video.
    run(code.replace("    generator=", "    height=64, width=64, num_frames=9, num_inference_steps=2,\n    generator="),
        tmp_path, monkeypatch)  # fmt: skip
    assert read_video(tmp_path / "video.mp4")[0].shape == (9, 64, 64, 3)


def test_the_code_for_a_lora_runs(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = pipeline()
    base.transformer.register_to_config(default_height=64, default_width=64, default_num_frames=9)
    base.save_pretrained(tmp_path / "base")
    push_folder(tmp_path / "base", "base")
    base.transformer = adapted_transformer("alpha")
    base.save_lora_weights(tmp_path / "lora", base.transformer)
    with pytest.raises(InputError, match="nothing says which model this LoRA belongs to"):
        push_folder(tmp_path / "lora", "lora")

    push_folder(tmp_path / "lora", "lora", facts=CardFacts(base_model="ada/base", license="mit"))
    card = card_of(hub, "ada/lora")
    data = ModelCard(card).data
    assert (data.base_model, data.base_model_relation) == ("ada/base", "adapter")
    assert "lora" in data.tags
    assert "| rank | 2 |" in card
    assert "| alpha | 8 |" in card
    code = code_of(card).replace("    generator=", "    num_inference_steps=1,\n    generator=")
    pipe = run(code, tmp_path, monkeypatch)["pipe"]
    assert pipe.get_active_adapters()


@pytest.mark.parametrize("layout", ["native", "diffusers"])
def test_the_code_for_an_upsampling_pipeline_runs(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    upsampler = LTXLatentUpsampler(in_channels=8, mid_channels=32, num_blocks_per_stage=1)
    LTXLatentUpsamplePipeline(tiny_components(causal=True)["vae"], upsampler).push_to_hub("up", layout=layout)
    card = card_of(hub, "ada/up")
    assert ModelCard(card).data.pipeline_tag == "video-to-video"
    assert run(code_of(card), tmp_path, monkeypatch)["larger"].shape == (1, 8, 2, 8, 8)


@pytest.mark.parametrize("layout", ["native", "diffusers"])
def test_the_code_for_a_lone_vae_runs(
    hub: HubServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    push_folder(model / "vae", "vae", layout=layout)
    card = card_of(hub, "ada/vae")
    assert ModelCard(card).data.pipeline_tag is None
    found = run(code_of(card), tmp_path, monkeypatch)
    assert found["latents"].shape == (1, 8, 2, 2, 2)
    assert type(found["model"]).__module__.startswith(
        "diffusers" if layout == "diffusers" else "ltx_diffusers"
    )


# --- what it says -----------------------------------------------------------------------------------------------


def test_everything_that_is_known_is_said(hub: HubServer, model: Path, tmp_path: Path) -> None:
    (model / "samples").mkdir()
    write_video(model / "samples" / "a.mp4", FRAMES, 8, {"prompt": "a | b"})
    write_video(model / "samples" / "b.mp4", FRAMES, 8)
    (model / "card.yaml").write_text(
        yaml.safe_dump(
            {
                "title": "Tiny shapes",
                "description": "Knows **shapes**.",
                "base_model": "Lightricks/LTX-Video",
                "license": "other",
                "license_name": "my-licence",
                "license_link": "LICENSE",
                "language": ["en"],
                "tags": ["shapes", "ltx-video"],
                "training": {"steps": 4000, "optimizer": {"name": "muon"}},
                "figures": [
                    {
                        "name": "colour",
                        "value": 0.945,
                        "unit": "share",
                        "command": "ltx-diffusers evaluate shapes",
                    },
                    {"name": "PSNR", "value": 30.257, "unit": "dB"},
                ],
            },
            sort_keys=False,
        )
    )
    upload = push_folder(model, "tiny")
    card = ModelCard(card_of(hub, "ada/tiny"))
    assert card.data.to_dict() == {
        "base_model": "Lightricks/LTX-Video",
        "base_model_relation": "finetune",
        "language": ["en"],
        "library_name": "ltx-diffusers",
        "license": "other",
        "license_name": "my-licence",
        "license_link": "LICENSE",
        "pipeline_tag": "text-to-video",
        "tags": ["ltx-video", "ltx-diffusers", "shapes"],
        "widget": [{"text": "a | b", "output": {"url": "samples/a.mp4"}}],
    }
    for text in (
        "# Tiny shapes\n\nKnows **shapes**.",
        "| [a.mp4](samples/a.mp4) | a \\| b |",
        "| vae | AutoencoderKLLTX | 0.37 M | F32 |",
        "steps: 4000\noptimizer:\n  name: muon",
        "| colour | 94.5 % | `ltx-diffusers evaluate shapes` |",
        "| PSNR | 30.26 dB |",
        "[my-licence](LICENSE)",
        '"a | b",',
    ):
        assert text in card.text
    files = hub.repos["model", "ada/tiny"].files
    assert files["samples/b.mp4"] == (model / "samples" / "b.mp4").read_bytes()
    assert "card.yaml" not in files
    assert upload.notes == ()


def test_nothing_is_made_up(hub: HubServer, model: Path) -> None:
    upload = push_folder(model, "tiny")
    card = ModelCard(upload.card)
    assert card.data.license is None
    assert card.data.base_model is None
    for heading in ("## Samples", "## Training", "## Figures", "## Licence"):
        assert heading not in card.text
    assert upload.notes == (
        "no licence is stated; give --license",
        "no sample videos; give --sample, or put some into samples/",
    )


def test_the_licence_of_the_base_model_is_taken_over(hub: HubServer, model: Path) -> None:
    front = "---\nlicense: other\nlicense_name: theirs\nlicense_link: https://example.com\n---\n"
    hub.make_repo("eve/base", {"README.md": front.encode()})
    upload = push_folder(model, "tiny", facts=CardFacts(base_model="eve/base"))
    assert ModelCard(upload.card).data.license_name == "theirs"
    assert "the licence is that of eve/base: theirs" in upload.notes
    own = push_folder(model, "other", facts=CardFacts(base_model="eve/base", license="mit"))
    assert ModelCard(own.card).data.license == "mit"
    assert ModelCard(own.card).data.license_name is None


def test_an_earlier_card_tells_its_licence(model: Path) -> None:
    (model / "README.md").write_text(
        "---\nlicense: mit\nlanguage: [en]\ntags: [x]\nbase_model: eve/base\n---\n# Old\n"
    )
    facts = gather(read_folder(model)).facts
    assert (facts.license, facts.language, facts.base_model, facts.tags) == ("mit", ["en"], "eve/base", [])
    (model / "card.yaml").write_text("license: other\nlicense_name: own")
    facts = gather(read_folder(model)).facts
    assert (facts.license, facts.license_name, facts.base_model) == ("other", "own", "eve/base")
    (model / "README.md").write_text("---\n- a\n---\n")
    with pytest.raises(InputError, match="isn't a mapping"):
        gather(read_folder(model))


def test_a_run_folder_tells_its_training_and_its_videos(model: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    (run_folder / "checkpoints").mkdir(parents=True)
    model.rename(run_folder / "model")
    for step in ("step-000100", "final"):
        (run_folder / "validation" / step).mkdir(parents=True)
        write_video(run_folder / "validation" / step / "00.mp4", FRAMES, 8, {"prompt": f"from {step}"})
    config = {
        "output": str(run_folder),
        "vae": str(tmp_path),
        "steps": 5,
        "seed": None,
        "data": {"reader": "x"},
    }
    (run_folder / "config.yaml").write_text(yaml.safe_dump(config))
    gathered = gather(read_folder(run_folder / "model"))
    assert gathered.facts.training == {"steps": 5, "data": {"reader": "x"}}
    assert gathered.facts.prompt == "from final"
    assert list(gathered.samples) == ["samples/00.mp4"]


def test_figures_of_an_evaluation(model: Path) -> None:
    report = {
        "settings": {"command": "ltx-diffusers evaluate shapes"},
        "figures": [{"part": "vae", "name": "psnr", "unit": "dB", "value": 30.3, "target": 32}],
    }
    (model / "shapes.json").write_text(json.dumps(report))
    (figure,) = gather(read_folder(model)).facts.figures
    assert (figure.name, figure.value, figure.command) == ("vae: psnr", 30.3, "ltx-diffusers evaluate shapes")
    (model / "shapes.json").write_text("[]")
    with pytest.raises(InputError, match="isn't a report"):
        gather(read_folder(model))


def test_the_base_model_is_where_the_weights_came_from(model: Path) -> None:
    config = model / "transformer" / "config.json"
    for origin, expected in (
        ("Lightricks/LTX-Video-0.9.5", "Lightricks/LTX-Video-0.9.5"),
        ("/home/x/y", None),
    ):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"_name_or_path": origin}))
        assert gather(read_folder(model)).facts.base_model == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("licence: mit", "licence: Extra inputs are not permitted"),
        ("figures: [{name: a}]", "figures.0.value: Field required"),
        ("title: [", "isn't YAML"),
        ("- a", "card.yaml can't be used: the whole"),
    ],
)
def test_facts_that_can_not_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_facts(tmp_path / "card.yaml")


def test_samples_must_be_videos(hub: HubServer, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no video")
    for name in ("a.txt", "none.mp4"):
        with pytest.raises(MediaError, match="a sample must be a video file"):
            push_folder(model, "tiny", facts=CardFacts(samples={str(tmp_path / name): ""}))
    (tmp_path / "a.mp4").write_bytes(b"damaged")
    push_folder(model, "tiny", facts=CardFacts(samples={str(tmp_path / "a.mp4"): "given"}))
    assert "| [a.mp4](samples/a.mp4) | given |" in card_of(hub, "ada/tiny")
