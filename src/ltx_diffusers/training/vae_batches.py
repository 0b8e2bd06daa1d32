"""Which clips a step of the VAE's training takes: stages, buckets, and each process's share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.clips import ClipReader
from ..errors import InputError
from .config import share_of_batch
from .vae_config import BucketConfig, VAEStage


class Share(NamedTuple):
    """One process's part of a step.

    Attributes:
        stage: The step's stage.
        bucket: The step's bucket.
        numbers: Numbers of the clips.
    """

    stage: VAEStage
    bucket: BucketConfig
    numbers: list[int]


class BatchPlan:
    """Stages of buckets, laid out over the steps; the clips are taken one after the other through the whole run.

    Args:
        stages: One after the other.
        seed: Of the choice of buckets.
        processes: How many shares each batch is divided into.

    Raises:
        InputError: If the processes can't share a batch evenly.
    """

    def __init__(self, stages: Sequence[VAEStage], seed: int, processes: int) -> None:
        self.stages = stages
        self.total_steps = sum(stage.steps for stage in stages)
        for stage in stages:  # now, not when a later stage begins
            for bucket in stage.all_buckets():
                share_of_batch(bucket.batch_size, processes)
        chosen, sizes = [], []
        for index, stage in enumerate(stages):
            buckets = stage.all_buckets()
            shares = np.array([bucket.share for bucket in buckets])
            rng = np.random.default_rng([seed, index, 1])
            choice = rng.choice(len(buckets), size=stage.steps, p=shares / shares.sum())
            chosen.append(choice)
            sizes.append(np.array([bucket.batch_size for bucket in buckets])[choice])
        self._bucket_of_step = np.concatenate(chosen)
        ends = np.cumsum(np.concatenate(sizes))
        self._first_clip = np.concatenate([[0], ends[:-1]])
        self._last_steps = np.cumsum([stage.steps for stage in stages])

    def share(self, step: int, rank: int, world_size: int) -> Share:
        """What a rank takes at a step (from 0).

        Raises:
            InputError: If the processes can't share the batch evenly, or there is no such step.
        """
        if not 0 <= step < self.total_steps:
            raise InputError("the run has no such step", got=step, expected=f"0 to {self.total_steps - 1}")
        stage = self.stages[int(np.searchsorted(self._last_steps, step, side="right"))]
        bucket = stage.all_buckets()[int(self._bucket_of_step[step])]
        size = share_of_batch(bucket.batch_size, world_size)
        start = int(self._first_clip[step]) + rank * size
        return Share(stage, bucket, list(range(start, start + size)))


def clips_of_bucket(clips: ClipReader, bucket: BucketConfig) -> ClipReader:
    """A set of clips in a bucket's size, before its stride is taken."""
    return clips.with_size((bucket.num_frames - 1) * bucket.stride + 1, bucket.height, bucket.width)


def read_batch(clips: ClipReader, share: Share) -> dict[str, Any]:
    """Frames (B, F, H, W, 3) in [0, 1] and captions of a process's share."""
    read = [clips_of_bucket(clips, share.bucket)[number] for number in share.numbers]
    frames = np.stack([clip.frames[:: share.bucket.stride] for clip in read])
    return {"frames": frames, "captions": tuple(clip.caption for clip in read)}
