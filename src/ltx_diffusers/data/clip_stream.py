"""WebDataset tars read shard by shard, for a `DataLoader`: split by rank and worker, and resumable.

The reader "webdataset" goes through all headers first and then reads any clip by its number. With thousands of tars
that takes long; a stream opens a tar only when its turn comes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..errors import InputError, MediaError
from .beside import read_beside
from .clips import Clip, Problem
from .cutting import Cut
from .decoding import one_line
from .media_clips import is_held_out
from .media_entries import MediaEntry
from .moving_shapes import Split
from .pictures import MIDDLE
from .tars import find_shards, index_shard

logger = logging.getLogger(__name__)

# First words of the seeds of what is drawn.
_SHARDS, _SAMPLES, _CLIP = 3, 4, 5


@dataclass(frozen=True)
class StreamPosition:
    """How far one part of a stream has come.

    Attributes:
        turn: Rounds through all tars that are finished.
        shard: Tars of this round that are finished, of those that this part reads.
        sample: Samples of the tar that are done with, left out or not.
    """

    turn: int = 0
    shard: int = 0
    sample: int = 0


class ClipStream(IterableDataset):
    """An endless stream of clips from WebDataset tars.

    Each round goes through the tars in an order of its own, and through each tar's samples likewise. Every rank and
    every worker of a `DataLoader` reads tars of its own; with fewer tars than these, all read every tar and take turns
    at the samples. No clip is read twice in a round, and all are read. What can't be read, or is too short or too
    small, is left out and listed.

    A part goes on from where it was, exactly: the order follows from seed, round and tar, and a clip's draws from the
    sample besides. `state_dict` and `load_state_dict` are those that torchdata's `StatefulDataLoader` calls in each
    worker; a plain `DataLoader` with workers can't ask them.

    Args:
        path: As for the reader "webdataset".
        num_frames, height, width: Size of the clips.
        split: "train" or "held-out"; decided by each key's hash alone.
        seed: Another seed is another order.
        rank, world_size: Which process this is, of how many; by default what torch.distributed says.
        settings: Those of `Cut`, by name.

    Raises:
        InputError: If a setting can't be used.
        MediaError: If a tar isn't there; while reading, if a whole round gives nothing.

    Example:
        >>> stream = ClipStream("shards", num_frames=17, height=256, width=256, frame_rate=8)
        >>> batches = DataLoader(stream, batch_size=4, num_workers=8, collate_fn=collate_clips)
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        num_frames: int = 17,
        height: int = 96,
        width: int = 96,
        split: Split = "train",
        seed: int = 0,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        **settings: Any,
    ) -> None:
        if split not in ("train", "held-out"):
            raise InputError("unknown split", got=repr(split), expected="'train' or 'held-out'")
        rank, world_size = _process(rank, world_size)
        self.shards = find_shards(path)
        self.cut = Cut.from_options(settings)
        self.size = (num_frames, height, width)
        self.split, self.seed = split, seed
        self.rank, self.world_size = rank, world_size
        self.position = StreamPosition()
        self._skipped: dict[Problem, None] = {}

    @property
    def skipped(self) -> tuple[Problem, ...]:
        """What this process, or this worker, has left out so far."""
        return tuple(self._skipped)

    def state_dict(self) -> dict[str, int]:
        """Where this part of the stream is: what comes next."""
        return {"turn": self.position.turn, "shard": self.position.shard, "sample": self.position.sample}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state, with as many ranks and workers as before. Raises `InputError` if it isn't one."""
        try:
            self.position = StreamPosition(**state)
        except TypeError as error:
            raise InputError("this isn't the state of a stream of clips", got=state) from error

    def __iter__(self) -> Iterator[Clip]:
        part, parts = self._part()
        # One part of many may get nothing in a round by chance, but not in so many.
        patience = 1 if parts == 1 else 8 + parts
        barren = 0
        while True:
            from_start = self.position == StreamPosition(self.position.turn)
            gave = False
            for clip in self._rest_of_turn(part, parts):
                gave = True
                yield clip
            self.position = StreamPosition(self.position.turn + 1)
            barren = 0 if gave else barren + from_start
            if barren >= patience:
                last = list(self._skipped)[-1:]
                raise MediaError("the tars hold nothing that can be used", got=last[0] if last else None)

    def _rest_of_turn(self, part: int, parts: int) -> Iterator[Clip]:
        turn = self.position.turn
        by_shard = len(self.shards) >= parts
        order = np.random.default_rng([_SHARDS, self.seed, turn]).permutation(len(self.shards))
        mine = order[part::parts] if by_shard else order
        for shard_place in range(self.position.shard, len(mine)):
            shard_number = int(mine[shard_place])
            entries = self._entries(self.shards[shard_number])
            words = [self.seed, turn, shard_number]
            samples = np.random.default_rng([_SAMPLES, *words]).permutation(len(entries))
            for place in range(self.position.sample, len(samples)):
                # Before the clip is given: the consumer may stop there, and it is done with.
                self.position = StreamPosition(turn, shard_place, place + 1)
                if not by_shard and (place + turn + shard_number) % parts != part:
                    continue
                sample = int(samples[place])
                clip = self._clip(entries[sample], np.random.default_rng([_CLIP, *words, sample]))
                if clip is not None:
                    yield clip
            self.position = StreamPosition(turn, shard_place + 1)

    def _entries(self, shard: Path) -> list[MediaEntry]:
        """What of a tar belongs to the split and can give clips of this many frames."""
        entries, problems = index_shard(shard)
        for problem in problems:
            self._skip(problem)
        return [entry for entry in entries if self._is_wanted(entry)]

    def _is_wanted(self, entry: MediaEntry) -> bool:
        held_out = is_held_out(entry.key, self.cut.held_out_share)
        return held_out == (self.split == "held-out") and self.cut.takes(entry, self.size[0])

    def _clip(self, entry: MediaEntry, rng: np.random.Generator) -> Clip | None:
        draws = (0.5, MIDDLE)
        if self.split == "train":
            draws = (float(rng.random()), (float(rng.random()), float(rng.random())))
        try:
            frames, frame_rate = self.cut.clip(
                entry.open(), entry.is_picture, self.size, *draws, part=entry.part
            )
            beside = read_beside(entry, frames, *draws, self.cut)
        except (MediaError, OSError) as error:
            self._skip(Problem(entry.name, one_line(error)))
            return None
        return Clip(
            frames=frames.astype(np.float32) / 255,
            caption=entry.caption,
            name=entry.name,
            frame_rate=frame_rate,
            conditions=beside.conditions,
        )

    def _skip(self, problem: Problem) -> None:
        if problem not in self._skipped:
            self._skipped[problem] = None
            logger.warning("left out %s (%d so far)", problem, len(self._skipped))

    def _part(self) -> tuple[int, int]:
        """Which part of the stream is read here, and of how many."""
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self.rank * count + number, self.world_size * count


def collate_clips(clips: Sequence[Clip]) -> dict[str, Any]:
    """Clips of one size as a batch.

    Returns:
        `video`, (B, 3, F, H, W) in [-1, 1], `captions` and `names`, lists of B texts.
    """
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    return {
        "video": frames.permute(0, 4, 1, 2, 3).contiguous() * 2 - 1,
        "captions": [clip.caption for clip in clips],
        "names": [clip.name for clip in clips],
    }


def _process(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise InputError("rank and world_size are given together or not at all")
    if rank is None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return 0, 1
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    if not 0 <= rank < world_size:
        raise InputError("rank must lie below world_size", got=f"{rank} of {world_size}")
    return rank, world_size
