"""PEFT's descriptions of adapters."""

from __future__ import annotations

import math
import time

import pytest
from peft.utils.other import get_pattern_key

from ltx_diffusers.conversion.lora.adapter_config import AdapterConfig
from ltx_diffusers.errors import CheckpointError

PATHS = (
    "proj_in",
    *(f"transformer_blocks.{name}" for name in ("1.attn1.to_q", "11.attn1.to_q", "1.ff.net.2")),
)
PATTERNS = (
    "to_q",
    "attn1.to_q",
    "^transformer_blocks.1.attn1.to_q",
    "blocks.1.attn1.to_q",
    r"transformer_blocks\.\d+\.attn1\.to_q",
    ".*net.2",
    "in",
)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("path", PATHS)
def test_patterns_fit_where_peft_lets_them(pattern: str, path: str) -> None:
    config = AdapterConfig({"r": 4, "lora_alpha": 4, "alpha_pattern": {pattern: 9}}, "it")
    expected = 9 if get_pattern_key([pattern], path) == pattern else 4
    assert config.alpha_of(path, 4) == expected


def test_the_first_pattern_that_fits_counts() -> None:
    config = AdapterConfig({"lora_alpha": 1, "alpha_pattern": {"to_q": 2, "attn1.to_q": 3}}, "it")
    assert config.alpha_of("transformer_blocks.0.attn1.to_q", 4) == 2


def test_rank_stabilised_scales_are_by_the_root_of_the_rank() -> None:
    config = AdapterConfig({"r": 4, "lora_alpha": 6, "use_rslora": True}, "it")
    assert config.alpha_of("proj_in", 4) / 4 == pytest.approx(6 / math.sqrt(4))


def test_without_alpha_nothing_is_said() -> None:
    assert AdapterConfig({}, "it").alpha_of("proj_in", 4) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOKR"}, "another kind of adapter; got LOKR"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"use_qalora": True}, "use_qalora"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4 changed"),
        ({"init_lora_weights": "olora"}, "olora changed"),
        ({"lora_alpha": "8"}, "lora_alpha in it isn't a number"),
        ({"lora_alpha": float("nan")}, "isn't a number"),
        ({"lora_alpha": True}, "isn't a number"),
        ({"alpha_pattern": ["to_q"]}, "isn't a mapping"),
        ({"alpha_pattern": {"to_q": None}}, "isn't a number"),
        ({"alpha_pattern": {"(": 1}}, "unusable pattern"),
        ({"alpha_pattern": {"x" * 300: 1}}, "unusable pattern"),
    ],
)
def test_descriptions_that_arent_of_a_plain_lora_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        AdapterConfig(settings, "it")


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_starts_that_leave_the_model_alone_are_fine(start: object) -> None:
    assert AdapterConfig({"lora_alpha": 2, "init_lora_weights": start}, "it").alpha_of("proj_in", 4) == 2


def test_a_rank_that_isnt_that_of_the_tensors_is_refused() -> None:
    config = AdapterConfig({"r": 8, "lora_alpha": 8, "rank_pattern": {"to_q": 4}}, "it")
    assert config.alpha_of("transformer_blocks.0.attn1.to_q", 4) == 8
    with pytest.raises(CheckpointError, match="the rank of proj_in; got 8; expected 4"):
        config.alpha_of("proj_in", 4)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(.*)*x", "(t|t)*z", ".*.*.*.*.*.*z", "(?:x+){9}"])
def test_patterns_that_could_take_for_ever_are_refused(pattern: str) -> None:
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match="unusable pattern"):
        AdapterConfig({"alpha_pattern": {pattern: 1}}, "it")
    assert time.perf_counter() - started < 1
