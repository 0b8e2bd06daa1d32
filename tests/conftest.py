"""What holds for every test: one torch thread, seeded random numbers, no network."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import random

import numpy as np
import pytest
import torch

# Test tensors are tiny: more threads only add waiting, and would compete with pytest-xdist's workers.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Gives every test the same random numbers, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets CI insist that an installed plugin is really among what the registry tests cover."""
    parser.addoption(
        "--require-plugin", action="append", default=[], help="distribution whose entries must be tested"
    )
