"""LPIPS is measured where it can be, and left out with a reason where not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ltx_diffusers.errors import InputError
from ltx_diffusers.evaluation import lpips_measure


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A stand-in for the package lpips, whose distance is the mean absolute difference; gives the weights' folder."""

    class Distance(torch.nn.Module):
        def forward(self, one, two):
            return (one - two).abs().mean((1, 2, 3), keepdim=True)

    module = ModuleType("lpips")
    module.LPIPS = lambda net, verbose: Distance()
    monkeypatch.setitem(sys.modules, "lpips", module)
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: object() if name in ("lpips", "torchvision") else known(name, *rest),
    )
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_it_gives_a_value_for_each_frame(installed):
    reference = np.full((20, 8, 8, 3), 0.5)
    other = reference + np.linspace(0, 0.19, 20)[:, None, None, None]
    values = lpips_measure.lpips_measure()(reference, other)
    np.testing.assert_allclose(values, 2 * np.linspace(0, 0.19, 20), atol=1e-6)  # of [-1, 1]


def test_it_is_at_hand_once_its_weights_are_there(installed):
    assert "weights of its network alex" in lpips_measure.lpips_at_hand()
    (installed / "alexnet-owt-7be5be79.pth").touch()
    assert lpips_measure.lpips_at_hand() is None
    assert "vgg" in lpips_measure.lpips_at_hand("vgg")


def test_without_the_package_it_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lpips_measure, "_package", lambda: None)
    assert "installed" in lpips_measure.lpips_at_hand()
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(InputError, match="needs the package"):
        lpips_measure.lpips_measure()
