"""Figures and pictures in TensorBoard, and what the other loggers are told."""

import io
import sys
import types

import numpy as np
import pytest
from helpers.toy_task import toy_config, toy_run
from PIL import Image

from ltx_diffusers.data.video import write_video
from ltx_diffusers.errors import InputError
from ltx_diffusers.training.logs import build_trackers, log_pictures
from ltx_diffusers.training.run_folder import check_run


def pictures(folder):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(folder / "sheet.png")
    clip = np.stack([np.full((32, 48, 3), value, np.uint8) for value in (0, 120, 240)])
    write_video(folder / "clip.mp4", clip, 10.0)
    return folder


def test_figures_pictures_and_videos_are_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = toy_run(tmp_path, loggers=["tensorboard"], validate_every=3)
    measure = run.task.validate
    run.task.validate = lambda folder: measure(pictures(folder))
    run.train()
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("validation/loss")] == [3, 6]
    (sheet, *_) = events.Images("validation/sheet")
    picture = Image.open(io.BytesIO(sheet.encoded_image_string))
    assert picture.size == (6, 4) and picture.convert("RGB").getpixel((0, 0)) == (200, 200, 200)
    clip = events.Images("validation/clip")[0]
    animation = Image.open(io.BytesIO(clip.encoded_image_string))
    assert (animation.format, animation.n_frames, animation.size) == ("GIF", 3, (48, 32))
    assert animation.info["duration"] == 100


def test_weights_and_biases_gets_the_run_its_config_and_media(tmp_path, monkeypatch):
    calls = []
    wandb = types.ModuleType("wandb")
    wandb.init = lambda **settings: calls.append(settings)
    wandb.Image = lambda path: ("image", path)
    wandb.Video = lambda path, format: ("video", path, format)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = toy_config(
        tmp_path / "my-run",
        loggers=["wandb"],
        project="videos",
        logger_options={"wandb": {"tags": ["a"], "name": "other"}},
    )
    (tracker,) = build_trackers(config)
    tracker.start()
    (told,) = calls
    assert (told["project"], told["name"], told["tags"]) == ("videos", "other", ["a"])
    assert told["config"]["optimizer"]["learning_rate"] == 0.05
    tracker.log = lambda media, step: calls.append((media, step))
    folder = pictures(tmp_path / "pictures")
    log_pictures([tracker], folder, 7)
    assert calls[1] == (
        {
            "validation/sheet": ("image", str(folder / "sheet.png")),
            "validation/clip": ("video", str(folder / "clip.mp4"), "mp4"),
        },
        7,
    )


def test_missing_loggers_are_named_before_any_work(tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trackio" else found(name))
    with pytest.raises(InputError, match="'trackio' needs the package trackio; pip install trackio"):
        check_run(toy_config(tmp_path, loggers=["trackio"]))
    with pytest.raises(InputError, match="not one of the run's loggers; got wandb; expected none"):
        check_run(toy_config(tmp_path, logger_options={"wandb": {}}))
    with pytest.raises(InputError, match="loggers"):
        toy_config(tmp_path, loggers=["mlfow"])
