"""`generate --prompts-file`: one file a prompt, finished ones skipped, failures told and stepped over."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.saved_models import save_tiny_pipeline
from PIL import Image

from ltx_diffusers.cli import app, loading
from ltx_diffusers.cli.batch import fingerprint, read_jobs
from ltx_diffusers.cli.settings import Settings
from ltx_diffusers.data.video import read_metadata, read_video
from ltx_diffusers.errors import InputError, MediaError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random pipeline."""
    return str(save_tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run where nothing else lies."""
    monkeypatch.chdir(tmp_path)


def write_lines(name: str, *lines: str | dict) -> str:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    Path(name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    return name


def picture(name: str, value: int) -> str:
    Image.fromarray(np.full((64, 96, 3), value, np.uint8)).save(name)
    return name


def run(file: str, *arguments: object) -> int:
    return app.main(["generate", "--prompts-file", file, *map(str, arguments)])


def videos(folder: str = "out") -> dict[str, int]:
    """Files of a folder and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(Path(folder).iterdir())}


def test_a_prompt_a_line(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each video is what its own call gives; run again, nothing is made."""
    file = write_lines("p.txt", "# shapes", "a red circle, moves left!", "", "  a blue square")
    assert run(file, "--model", model, "--seed", 3, "--steps", 2) == 0
    names = ["0002-a-red-circle-moves-left", "0004-a-blue-square"]
    assert list(videos()) == sorted(f"{name}{ending}" for name in names for ending in (".json", ".mp4"))
    shown = capsys.readouterr()
    assert shown.out.endswith("out: 2 made, 0 there already, 0 failed\n") and shown.err == ""
    single = ["generate", "a blue square", "--model", model, "--seed", "3", "--steps", "2", "-o", "one.mp4"]
    assert app.main(single) == 0
    assert (read_video("one.mp4")[0] == read_video(f"out/{names[1]}.mp4")[0]).all()
    batch, alone = read_metadata(f"out/{names[1]}.mp4"), read_metadata("one.mp4")
    assert len(batch.pop("request_sha256")) == 64 and batch == alone

    before = videos()
    capsys.readouterr()
    assert run(file, "--model", model, "--seed", 3, "--steps", 2) == 0
    assert videos() == before
    assert capsys.readouterr().out.endswith("out: 0 made, 2 there already, 0 failed\n")


def test_what_has_changed_is_made_again(model: str) -> None:
    line = {"prompt": "a red circle", "image": picture("first.png", 10), "output": "a"}
    file = write_lines("p.jsonl", line, {"prompt": "a blue square", "output": "b.gif"})
    options = ["--model", model, "--steps", 2, "-o", "deep/er"]
    assert run(file, *options) == 0
    names = ["a.json", "a.mp4", "b.gif", "b.json"]
    assert list(videos("deep/er")) == names

    def made_again() -> set[str]:
        """Which videos another run makes."""
        before = videos("deep/er")
        assert run(file, *options) == 0
        after = videos("deep/er")
        assert list(after) == names
        return {name for name in names if after[name] != before[name]}

    assert made_again() == set()
    picture("first.png", 20)
    assert made_again() == {"a.json", "a.mp4"}
    write_lines("p.jsonl", line | {"seed": 4}, {"prompt": "a blue square", "output": "b.gif"})
    assert made_again() == {"a.json", "a.mp4"}
    Path("deep/er/b.gif").unlink()
    options[3] = "2"  # the same settings
    before = videos("deep/er")
    assert run(file, *options) == 0
    assert {name for name, time in videos("deep/er").items() if before.get(name) != time} == {
        "b.gif",
        "b.json",
    }
    options[3] = 3
    assert made_again() == set(names)


def test_a_line_may_say_what_the_command_line_says(model: str) -> None:
    picture("first.png", 10), picture("last.png", 200)
    file = write_lines(
        "p.jsonl",
        {
            "prompt": "a red circle",
            "negative": "blue",
            "size": "64x32",
            "frames": 17,
            "steps": 2,
            "guidance": 1.5,
            "image": ["first.png@8:0.5"],
            "last": "last.png",
            "condition-noise": 0.0,
            "sampler": "heun",
            "seed": 9,
        },
        {"prompt": "a blue square"},
    )
    options = ["--model", model, "--steps", "1", "--frames", "9", "--format", "gif"]
    assert run(file, *options) == 0
    first = json.loads(Path("out/0001-a-red-circle.json").read_text())
    second = json.loads(Path("out/0002-a-blue-square.json").read_text())
    assert (first["width"], first["height"], first["num_frames"], first["num_inference_steps"]) == (
        64,
        32,
        17,
        2,
    )
    assert (first["guidance_scale"], first["negative_prompt"], first["seed"]) == (1.5, "blue", 9)
    assert [entry.get("frame") for entry in first["images"]] == [8, -1] and first["sampler"] == "heun"
    assert (second["num_frames"], second["num_inference_steps"], "images" in second) == (9, 1, False)
    # A record is a line, too, and is made again the same.
    (Path("r.jsonl")).write_text(json.dumps(first | {"output": "again.gif"}))
    assert run("r.jsonl") == 0
    assert (read_video("out/again.gif")[0] == read_video("out/0001-a-red-circle.gif")[0]).all()


def test_failures_stop_nothing(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_lines(
        "p.jsonl",
        "not json",
        {"prompt": "a red circle", "frames": 10},
        {"prompt": "a red circle", "stpes": 3},
        {"prompt": "a red circle", "image": "none.png"},
        {"prompt": "a red circle", "image": picture("first.png", 10) + "@99"},
        {"prompt": "a red circle", "output": "../up.mp4"},
        {"prompt": "a red circle", "output": "x.avi"},
        {"frames": 9},
        [],
        {"prompt": "a red circle", "lora": "none/at:all"},
        {"prompt": "a blue square"},
    )
    assert run(file, "--model", model, "--steps", 1) == 1
    out, err = capsys.readouterr()
    assert list(videos()) == ["0011-a-blue-square.json", "0011-a-blue-square.mp4"]
    assert out.endswith("out: 1 made, 0 there already, 10 failed\n")
    told = dict(
        zip(re.findall(r"^\[\d+/11\] line (\d+) failed: ", err, re.MULTILINE), err.splitlines(), strict=True)
    )
    # What can be known of a line alone comes first: all but the frame that isn't there.
    assert [int(line) for line in told] == [1, 2, 3, 4, 6, 7, 8, 9, 10, 5]
    words = [
        "isn't JSON",
        "9 or 17",
        "did you mean",
        "none.png",
        "frame_index=99",
        "../up",
        ".avi",
        "a prompt",
    ]
    for line, text in enumerate(words, start=1):
        assert text in told[str(line)]
    write_lines("p.txt", "# nothing")
    assert run("p.txt") == 2


def test_the_model_is_loaded_once_and_an_interruption_keeps_what_is_made(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ltx_diffusers.cli import making

    loads, writes = [], []
    load, write = loading.load_pipeline, making.write_record

    def interrupted(path: Path, record: dict) -> None:
        if len(writes) == 2:
            raise KeyboardInterrupt
        writes.append(path)
        write(path, record)

    monkeypatch.setattr(loading, "load_pipeline", lambda *a, **k: loads.append(a) or load(*a, **k))
    monkeypatch.setattr(making, "write_record", interrupted)
    file = write_lines("p.txt", "a red circle", "a red circle", "a blue square")
    assert run(file, "--model", model, "--steps", 1) == 130
    assert len(loads) == 1
    monkeypatch.setattr(making, "write_record", write)
    capsys.readouterr()
    assert run(file, "--model", model, "--steps", 1) == 0
    assert "1 made, 2 there already" in capsys.readouterr().out
    first, second = (read_video(f"out/000{number}-a-red-circle.mp4")[0] for number in (1, 2))
    assert not (first == second).all()  # a seed of its own each


def test_a_folder_that_cant_be_made(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert run(write_lines("p.txt", "a red circle"), "--model", model, "-o", "file/in") == 2
    assert "can't be made" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [("--steps", 0), ("--model", "none"), ("--device", "gpu"), ("--device", "cuda:99")]
)
def test_what_is_wrong_with_every_line_is_told_once(
    model: str, options: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_lines("p.txt", "a red circle", "a blue square")
    assert run(file, "--model", model, *options) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not Path("out").exists()


def test_no_folder_without_a_line_that_can_be_used(model: str) -> None:
    assert run(write_lines("p.jsonl", {"frames": 9}, []), "--model", model) == 1
    assert not Path("out").exists()


def test_an_output_may_lie_in_a_folder_of_its_own(model: str) -> None:
    file = write_lines("p.jsonl", {"prompt": "a red circle", "output": "new/x.mp4"})
    assert run(file, "--model", model, "--steps", 1) == 0
    assert Path("out/new/x.mp4").exists() and Path("out/new/x.json").exists()


def test_jobs_of_hostile_files(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        read_jobs(tmp_path / "none.txt", tmp_path, ".mp4", {})
    (tmp_path / "p.csv").write_text("prompt,seed\na red circle,1\n")
    with pytest.raises(MediaError, match=r"expected text with a prompt a line, or \.jsonl"):
        read_jobs(tmp_path / "p.csv", tmp_path, ".mp4", {})
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MediaError, match="can't be read"):
        read_jobs(tmp_path / "bad.txt", tmp_path, ".mp4", {})
    (tmp_path / "p.jsonl").write_text('{"prompt": "x", "output": "a"}\n' * 2)
    with pytest.raises(InputError, match="lines 1 and 2"):
        read_jobs(tmp_path / "p.jsonl", tmp_path, ".mp4", {})
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "x", "output": "a.mp4"}\n{"prompt": "y", "output": "a.gif"}'
    )
    with pytest.raises(InputError, match="same file"):
        read_jobs(tmp_path / "p.jsonl", tmp_path, ".mp4", {})
    (tmp_path / "odd.txt").write_text(
        "\ufeff///\n\u00e9t\u00e9 \u4e16\u754c\n" + "long " * 99, encoding="utf-8"
    )
    names = [job.output.name for job in read_jobs(tmp_path / "odd.txt", tmp_path, "", {})]
    assert names[:2] == ["0001", "0002-\u00e9t\u00e9-\u4e16\u754c"] and len(names[2]) < 60


def test_fingerprints_are_of_what_is_asked_for() -> None:
    asked = Settings(prompt="x", seed=0)
    assert fingerprint(asked) == fingerprint(Settings(prompt="x", seed=0))
    assert fingerprint(asked) != fingerprint(Settings(prompt="x"))
    picture("a.png", 1)
    before = fingerprint(Settings.of({"prompt": "x", "images": "a.png"}))
    picture("a.png", 2)
    assert fingerprint(Settings.of({"prompt": "x", "images": "a.png"})) != before
