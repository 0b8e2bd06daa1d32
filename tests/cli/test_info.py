"""`ltx-diffusers info`: the presets that fit a model, and the one that `generate` picks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltx_diffusers.cli import app
from ltx_diffusers.conversion.releases import DISTILLED_STEPS
from ltx_diffusers.pipelines.preset_choice import PRESET_NAMES, fitting_presets
from ltx_diffusers.pipelines.presets import PRESETS

MODELS = {
    "13b dev": (48, {}, "13b-dev", ["13b-dev", "13b-distilled"]),
    "13b distilled": (48, {"allowed_inference_steps": DISTILLED_STEPS}, "13b-distilled", ["13b-dev", "13b-distilled"]),
    "distilled for other levels": (48, {"allowed_inference_steps": [1.0, 0.5]}, None, ["13b-dev", "13b-distilled"]),
    "2b distilled": (
        28,
        {"allowed_inference_steps": DISTILLED_STEPS, "stochastic_sampling": True},
        "2b-distilled-0.9.6",
        ["2b-dev", "2b-distilled-0.9.6", "2b-distilled-0.9.8"],
    ),
    "unknown size": (7, {}, None, []),
    "no scheduler": (48, None, None, ["13b-dev", "13b-distilled"]),
}  # fmt: skip


def write_model(folder: Path, layers: int, scheduler: dict | None) -> str:
    """Folder of a pipeline with configs only."""
    parts = {"transformer": ("LTXTransformer3DModel", "config.json", {"num_layers": layers})}
    if scheduler is not None:
        parts["scheduler"] = ("LTXFlowMatchScheduler", "scheduler_config.json", scheduler)
    index = {"_class_name": "LTXPipeline"}
    for name, (class_name, file, config) in parts.items():
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps(config))
        index[name] = ["ltx_diffusers", class_name]
    (folder / "model_index.json").write_text(json.dumps(index))
    return str(folder)


@pytest.mark.parametrize("case", MODELS)
def test_presets_of_a_model(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers, scheduler, picked, fit = MODELS[case]
    model = write_model(tmp_path, layers, scheduler)
    assert app.main(["info", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["presets"] == {"picked": picked, "fit": fit}
    assert app.main(["info", model]) == 0
    shown = capsys.readouterr().out
    for name in fit or ["not of a released size"]:
        assert name in shown
    assert ("others that fit" in shown) == (picked is not None)


def test_a_model_without_a_transformer_has_no_presets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert app.main(["info", str(tmp_path), "--json"]) == 0
    assert "presets" not in json.loads(capsys.readouterr().out)


def test_the_names_are_those_of_the_presets() -> None:
    assert tuple(PRESETS) == PRESET_NAMES
    assert set(fitting_presets({"num_layers": 28}) + fitting_presets({"num_layers": 48})) == set(PRESETS)
