"""A Hub on loopback, and models to put there."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hub_server import READER, STRANGER, TOKEN, HubServer, User
from helpers.saved_models import save_tiny_pipeline
from huggingface_hub import constants, hf_api


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """The Hub as this process sees it, with the user ada logged in."""
    users = (
        User("ada", TOKEN, orgs={"lab": "write", "library": "read"}),
        User("ada", READER, role="read"),
        User("eve", STRANGER),
    )
    with HubServer(*users) as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)  # that of functions such as `create_repo`
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client's and our waits between tries
        yield server


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline of the kind of 0.9.5, saved by `save_pretrained`. Not to be changed."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("saved") / "tiny")


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return shutil.copytree(saved, tmp_path / "tiny")
