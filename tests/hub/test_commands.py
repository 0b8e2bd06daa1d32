"""The commands `push` and `pull`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.hub_server import READER, TOKEN, HubServer

from ltx_diffusers.cli.app import main
from ltx_diffusers.data.video import write_video

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


def test_push_in_a_process_of_its_own(hub: HubServer, model: Path, tmp_path: Path) -> None:
    """With the environment alone to tell it where the Hub is, and with everything logged that the client logs."""
    (model / "notes.txt").write_text("not of the model")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",  # the server doesn't speak it
        "HF_HUB_VERBOSITY": "debug",
        "HF_DEBUG": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
    }
    options = ["--private", "--license", "apache-2.0", "--message", "first"]
    command = [sys.executable, "-m", "ltx_diffusers", "-v", "push", str(model), "ada/tiny", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "Request" in done.stderr, "nothing was logged, so nothing was tested"
    assert TOKEN not in done.stdout + done.stderr
    repo = hub.repos["model", "ada/tiny"]
    assert repo.private
    assert repo.commits[-1][1] == "first"
    assert repo.files[WEIGHTS] == (model / WEIGHTS).read_bytes()
    assert b"license: apache-2.0" in repo.files["README.md"]
    assert f"MB  {WEIGHTS}" in done.stdout
    assert "left out, not of the model: notes.txt" in done.stdout
    assert "note: no sample videos" in done.stdout
    assert done.stdout.rstrip().endswith(repo.head)


def test_push_with_samples_and_pull(
    hub: HubServer, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "a.mp4", np.zeros((9, 64, 64, 3), np.uint8), 8, {"prompt": "night"})
    assert main(["push", str(model), "ada/tiny", "--sample", str(video), "--base-model", "eve/base"]) == 0
    files = hub.repos["model", "ada/tiny"].files
    assert files["samples/a.mp4"] == video.read_bytes()
    assert b"base_model: eve/base" in files["README.md"]
    assert main(["push", str(model), "ada/tiny"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("ada/tiny has all of it already")

    for expected in ("files, ", "has all of it already"):
        assert main(["pull", "ada/tiny", str(tmp_path / "got")]) == 0
        assert expected in capsys.readouterr().out
    assert (tmp_path / "got" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()


def test_a_dry_run_shows_files_and_card(
    hub: HubServer, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(model), "tiny", "--layout", "diffusers", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "would be new" in shown
    assert "library_name: diffusers" in shown
    assert "ada/tiny: a pipeline in the diffusers layout, 11 new files" in shown
    assert shown.rstrip().endswith("nothing was uploaded (--dry-run)")
    assert not hub.repos


def test_errors_are_one_line(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fail("GET", "/api/models/ada/none", 500, times=100)
    assert main(["pull", "ada/none"]) == 2
    assert "HTTP 500" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setenv("HF_TOKEN", READER)
    assert main(["push", str(model), "ada/tiny"]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: the token may only read")
    assert READER not in error


def test_there_is_no_option_for_a_token(
    hub: HubServer, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would stand in the list of processes and in the shell's history."""
    assert main(["push", str(model), "ada/tiny", "--token", TOKEN]) == 2
    assert "--token" in capsys.readouterr().err
    assert not hub.requests
