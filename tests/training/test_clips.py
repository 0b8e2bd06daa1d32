"""Training on clips from files: which reader a config names, and runs on broken sets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.media_sets import write_clips, write_pictures, write_tar
from helpers.tiny_runs import vae_run

from ltx_diffusers.data import data_readers
from ltx_diffusers.data.shape_clips import ShapeClips
from ltx_diffusers.data.tar_clips import TarClips
from ltx_diffusers.errors import InputError, UnknownNameError
from ltx_diffusers.training.clips import open_clips, read_data_config
from ltx_diffusers.training.config import DataConfig, parse_config
from ltx_diffusers.training.loop import Trainer
from ltx_diffusers.training.vae import VAETask, VAETrainConfig, to_model_range


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars of videos and pictures, some of them broken."""
    folder = write_clips(tmp_path_factory.mktemp("source"), 5)
    write_pictures(folder)
    (folder / "broken.mp4").write_bytes(b"broken")
    files = sorted(folder.iterdir())
    shards = tmp_path_factory.mktemp("tars")
    write_tar(shards / "0.tar", [(file.name, file.read_bytes()) for file in files[:7]])
    write_tar(shards / "1.tar", [(file.name, file.read_bytes()) for file in files[7:]])
    with (shards / "1.tar").open("r+b") as shard:
        shard.truncate(shard.seek(0, 2) - 10240)
    return shards


def config(output: Path, tars: Path, read_ahead: int = 0, **changes: object) -> VAETrainConfig:
    data = {
        "reader": "webdataset",
        "height": 32,
        "width": 32,
        "num_frames": 9,
        "options": {"path": str(tars)},
    }
    return parse_config(VAETrainConfig, vae_run(output, data=data, **changes))


def weights(task: VAETask) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.module.vae.state_dict().items()}


def test_a_run_on_broken_tars_resumes_with_the_clips_of_an_unbroken_one(tars: Path, tmp_path: Path) -> None:
    whole = Trainer(VAETask(config(tmp_path / "whole", tars)), config(tmp_path / "whole", tars))
    whole.train()
    assert whole.task.clips.skipped

    first = Trainer(VAETask(config(tmp_path / "run", tars)), config(tmp_path / "run", tars))
    for _ in range(4):
        first.train_step()
        first.step += 1
    first.save()
    # Reading ahead changes nothing.
    ahead = config(tmp_path / "run", tars, read_ahead=2)
    again = Trainer(VAETask(ahead), ahead, resume=True)
    assert again.step == 4
    again.train()
    expected = weights(whole.task)
    assert all(torch.equal(value, expected[name]) for name, value in weights(again.task).items())


def test_processes_see_the_clips_that_one_would(tars: Path, tmp_path: Path) -> None:
    task = VAETask(config(tmp_path, tars))
    for step in range(6):
        whole = task.batch(step, 0, 1)["video"]
        shares = [task.batch(step, rank, 2)["video"] for rank in range(2)]
        assert torch.equal(torch.cat(shares), whole)
        # A picture or a frame of a video in the first three steps, a stretch of a video in the others.
        share = task.plan.share(step, 0, 1)
        clip = task.clips.with_frames(share.bucket.num_frames)[share.numbers[1]]
        assert task.describe_sample(step, 0, 1, 1) == clip.name
        assert torch.equal(whole[1], to_model_range(clip.frames[None])[0])


def test_a_config_names_a_reader_and_its_options(tars: Path, tmp_path: Path) -> None:
    size = {"height": 32, "width": 64, "num_frames": 9}
    assert open_clips(DataConfig(**size)) == ShapeClips(9, 32, 64)
    options = {"path": str(tars), "stride": 2}
    clips = open_clips(DataConfig(reader="webdataset", options=options, **size), "held-out")
    assert isinstance(clips, TarClips) and clips.split == "held-out" and clips.cut.stride == 2
    with pytest.raises(InputError, match=r"data\.options\.path"):
        open_clips(DataConfig(reader="folder"))
    with pytest.raises(InputError, match=r"data\.options\.seeed"):
        open_clips(DataConfig(options={"seeed": 1}))
    with pytest.raises(InputError, match="stride"):
        open_clips(DataConfig(reader="webdataset", options={"path": str(tars), "strides": 2}))
    with pytest.raises(UnknownNameError, match="webdataset"):
        open_clips(DataConfig(reader="webdatset"))
    assert set(data_readers.list()) >= {"moving-shapes", "folder", "list", "webdataset"}


def test_the_data_of_a_config_can_be_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("output: x\nstages: wrong\ndata: {reader: list, num_frames: 9, options: {path: a.csv}}\n")
    data = read_data_config(path, {"reader": "folder"}, ["num_frames=17", "options.stride=2"])
    assert (data.reader, data.num_frames, data.options) == ("folder", 17, {"path": "a.csv", "stride": 2})
    path.write_text("data: [1]\n")
    with pytest.raises(InputError, match="'data'"):
        read_data_config(path, {})
    with pytest.raises(InputError, match="num_frame"):
        read_data_config(None, {}, ["num_frame=9"])
