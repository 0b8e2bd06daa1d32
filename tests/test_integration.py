"""What we write to Diffusers' registries. The mechanisms that read them: tests/integration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.hooks._helpers import AttentionProcessorRegistry, TransformerBlockRegistry
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from helpers.transformers import TINY

import ltx_diffusers
from ltx_diffusers import LTXFlowMatchScheduler, LTXTransformer3DModel, integration
from ltx_diffusers.models.transformers.attention_ltx import LTXAttnProcessor
from ltx_diffusers.models.transformers.block_ltx import LTXTransformerBlock


class Pair(DiffusionPipeline):
    """The smallest pipeline with a model and a scheduler of ours."""

    def __init__(self, transformer: LTXTransformer3DModel, scheduler: LTXFlowMatchScheduler) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)


@pytest.fixture
def model() -> LTXTransformer3DModel:
    return LTXTransformer3DModel(**TINY, causal_temporal_positioning=True).eval()


def test_registering_twice_changes_nothing() -> None:
    integration.register()
    before = dict(LOADABLE_CLASSES), dict(TransformerBlockRegistry._registry)
    integration.register.__wrapped__()
    assert before[0] == LOADABLE_CLASSES
    assert TransformerBlockRegistry._registry.keys() == before[1].keys()
    assert TransformerBlockRegistry.get(LTXTransformerBlock).return_hidden_states_index == 0
    assert AttentionProcessorRegistry.get(LTXAttnProcessor)


def test_names_that_the_loader_needs_resolve() -> None:
    for name in integration.LOADABLE:
        assert hasattr(ltx_diffusers, name)


def test_components_are_names_of_diffusers_which_keeps_its_own(monkeypatch) -> None:
    integration.register()
    assert diffusers.LTXTransformer3DModel is LTXTransformer3DModel
    assert diffusers.LTXFlowMatchScheduler is LTXFlowMatchScheduler
    theirs = object()
    monkeypatch.setattr(diffusers, "AutoencoderKLLTX", theirs)
    integration.register.__wrapped__()
    assert diffusers.AutoencoderKLLTX is theirs


def test_pipelines_record_our_library_and_load_from_it(tmp_path, model) -> None:
    Pair(model, LTXFlowMatchScheduler()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["transformer"] == ["ltx_diffusers", "LTXTransformer3DModel"]
    assert index["scheduler"] == ["ltx_diffusers", "LTXFlowMatchScheduler"]
    loaded = Pair.from_pretrained(tmp_path)
    assert type(loaded.transformer) is LTXTransformer3DModel
    assert loaded.transformer.config.causal_temporal_positioning is True
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[key], tensor)


def test_a_pipeline_imported_by_its_full_path_is_saved_under_the_same_names(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from tiny import tiny_components\n"
        "from ltx_diffusers.pipelines.pipeline_ltx import LTXPipeline\n"
        "LTXPipeline(**tiny_components()).save_pretrained(sys.argv[1])\n"
    )
    tests = Path(__file__).parent  # where `tiny` is found
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=tests)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["transformer"] == ["ltx_diffusers", "LTXTransformer3DModel"]
    assert index["scheduler"] == ["ltx_diffusers", "LTXFlowMatchScheduler"]
