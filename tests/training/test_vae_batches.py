"""Stages and buckets: which clips a step takes, in which size, on which process."""

from collections import Counter

import numpy as np
import pytest

from ltx_diffusers.data.shape_clips import ShapeClips
from ltx_diffusers.errors import InputError
from ltx_diffusers.training.vae_batches import BatchPlan, read_batch
from ltx_diffusers.training.vae_config import BucketConfig, VAEStage

PICTURES = BucketConfig(num_frames=1, batch_size=6, share=1.0)
CLIPS = BucketConfig(num_frames=9, height=64, width=32, batch_size=2, share=3.0)


def mixed(steps=2000):
    return VAEStage(steps=steps, buckets=(PICTURES, CLIPS))


def test_buckets_are_drawn_by_their_shares_and_no_clip_is_taken_twice_or_left_out():
    plan = BatchPlan([VAEStage(steps=3, num_frames=9, batch_size=4), mixed()], 0, 2)
    assert plan.total_steps == 2003
    counts, expected = Counter(), 0
    for step in range(plan.total_steps):
        shares = [plan.share(step, rank, 2) for rank in range(2)]
        assert shares[0].bucket == shares[1].bucket
        numbers = shares[0].numbers + shares[1].numbers
        assert numbers == list(range(expected, expected + shares[0].bucket.batch_size))
        expected += len(numbers)
        counts[shares[0].bucket.num_frames] += step >= 3
    assert 0.2 < counts[1] / 2000 < 0.3


def test_a_plan_follows_from_its_seed():
    def buckets(seed):
        plan = BatchPlan([mixed(100)], seed, 1)
        return [plan.share(step, 0, 1).bucket.num_frames for step in range(100)]

    assert buckets(0) == buckets(0) != buckets(1)


def test_clips_come_in_the_buckets_size_and_stride():
    clips = ShapeClips(17, 32, 32)
    fast = BucketConfig(num_frames=9, height=64, width=32, batch_size=2, stride=2)
    plan = BatchPlan([VAEStage(steps=2, buckets=(fast,))], 0, 1)
    read = read_batch(clips, plan.share(1, 0, 1))
    whole = ShapeClips(17, 64, 32)
    assert read["frames"].shape == (2, 9, 64, 32, 3)
    np.testing.assert_array_equal(read["frames"][1], whole[3].frames[::2])
    assert read["captions"] == (whole[2].caption, whole[3].caption)


def test_what_cannot_be_is_refused():
    for settings in ({}, {"num_frames": 9}, {"num_frames": 9, "batch_size": 2, "buckets": (PICTURES,)}):
        with pytest.raises(ValueError, match="num_frames and batch_size, or else buckets"):
            VAEStage(steps=1, **settings)
    with pytest.raises(ValueError, match="32 or 64"):
        BucketConfig(num_frames=9, height=40, batch_size=1)
    with pytest.raises(InputError, match="multiple of the processes"):
        BatchPlan([mixed()], 0, 4)
    with pytest.raises(InputError, match="no such step"):
        BatchPlan([mixed(3)], 0, 1).share(3, 0, 1)
