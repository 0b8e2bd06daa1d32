"""Where a run's figures and pictures go: TensorBoard, Weights & Biases, trackio, by accelerate's trackers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker
from PIL import Image

from ..data.video import read_image, read_video
from .config import RunConfig

_LOGS_FOLDER = "logs"
_MOST_VIDEOS = 8
_VIDEOS = (".mp4", ".webm", ".gif")


def build_trackers(config: RunConfig) -> list[GeneralTracker]:
    """Trackers for the loggers of a config. Those with projects name the run after its folder."""
    name = Path(config.output).absolute().name
    trackers: list[GeneralTracker] = []
    for logger in config.loggers:
        options = config.logger_options.get(logger, {})
        if logger == "tensorboard":
            trackers.append(TensorBoardTracker(_LOGS_FOLDER, config.output, **options))
        elif logger == "wandb":
            defaults = {"name": name, "dir": config.output, "config": config.model_dump(mode="json")}
            trackers.append(WandBTracker(config.project, **(defaults | options)))
        else:
            defaults = {"name": name, "config": config.model_dump(mode="json")}
            trackers.append(TrackioTracker(config.project, **(defaults | options)))
    return trackers


def log_pictures(trackers: list[GeneralTracker], folder: Path, step: int) -> None:
    """Send the pictures and the first videos of a validation's folder to the trackers. In the main process only."""
    pictures = sorted(folder.rglob("*.png"))
    videos = sorted(path for path in folder.rglob("*") if path.suffix in _VIDEOS)[:_MOST_VIDEOS]
    for tracker in trackers:
        if tracker.name == "tensorboard":
            for path in pictures:
                tracker.writer.add_image(_title(path, folder), read_image(path), step, dataformats="HWC")
            for path in videos:
                _add_animation(tracker.writer, _title(path, folder), path, step)
            tracker.writer.flush()
        else:
            import importlib

            kinds = importlib.import_module(tracker.name)  # both have classes of these names
            media: dict[str, Any] = {_title(path, folder): kinds.Image(str(path)) for path in pictures}
            media |= {
                _title(path, folder): kinds.Video(str(path), format=path.suffix.removeprefix("."))
                for path in videos
            }
            if media:
                tracker.log(media, step=step)


def _title(path: Path, folder: Path) -> str:
    return f"validation/{path.relative_to(folder).with_suffix('').as_posix()}"


def _add_animation(writer: Any, title: str, path: Path, step: int) -> None:
    """A video as an animated GIF: what TensorBoard shows. Its own way there needs moviepy."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    frames, rate = read_video(path)
    encoded = io.BytesIO()
    first, *others = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    first.save(
        encoded, "GIF", save_all=True, append_images=others, duration=max(20, round(1000 / rate)), loop=0
    )
    height, width = frames.shape[1:3]
    picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.getvalue())
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=title, image=picture)]), step)
