"""Times of stages, and peak memory."""

from __future__ import annotations

import re
import time

import pytest
import torch

from ltx_diffusers.cli.stages import Stages, peak_memory


def test_each_stage_is_timed_and_ends_where_the_next_begins() -> None:
    waits = []
    with Stages(synchronize=lambda: waits.append(1)) as stages:
        stages.begin("load")
        time.sleep(0.02)
        stages.begin("denoise", total=2)
        time.sleep(0.04)
        stages.advance()
        assert list(stages.seconds) == ["load"]
    assert stages.seconds["load"] >= 0.02 and stages.seconds["denoise"] >= 0.04
    assert len(waits) == 2
    assert re.fullmatch(r"load \d+\.\d s, denoise \d+\.\d s", stages.summary())


def test_stages_wait_for_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    for name in ("cpu", "cuda:1"):
        with Stages() as stages:
            stages.wait_for(torch.device(name))
            stages.begin("edit")
    assert waits == [torch.device("cuda:1")]


def test_a_terminal_sees_bars_that_go_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Stages() as stages:
        stages.begin("denoise", total=2)
        stages.advance()
        stages._bar.refresh()
    out, err = capsys.readouterr()
    assert out == "" and "denoise" in err and "1/2" in err


def test_an_error_passes_and_ends_the_bars() -> None:
    with pytest.raises(ZeroDivisionError), Stages() as stages:
        stages.begin("load")
        1 / 0  # noqa: B018
    assert stages.seconds == {}


def test_peak_memory_follows_what_is_held() -> None:
    before = peak_memory()
    block = b"x" * 200_000_000
    assert 100e6 < peak_memory() - before < 400e6
    assert len(block)
