"""Clips by number from a set of picture and video files: what the readers of folders, lists and tars share."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import InputError, MediaError
from ..geometry import VideoSize
from .beside import Beside, read_beside
from .clips import Clip, Problem
from .cutting import Cut
from .decoding import one_line
from .media_entries import MediaEntry
from .moving_shapes import Split
from .pictures import MIDDLE

logger = logging.getLogger(__name__)

_ATTEMPTS = 64
"""Entries tried for one number before the set is given up."""

_REMEMBERED = 2**17
"""Numbers whose entries are kept in mind, for their captions."""

# First words of the seeds of what is drawn, so that no two draws share their random numbers.
_ORDER, _CLIP = 1, 2


class MediaClips:
    """Clips cut from pictures and videos, by number (see `ClipReader`).

    Every entry is used once before any is used again, in an order that the seed and the round decide. Of a video a
    random stretch is taken, of every picture a random part; held-out clips come from the middle.

    An entry that can't be read, or is too short or too small, is left out where its turn comes: the number gets
    another, and `skipped` lists it. So is one whose references, mask or conditions can't be read, or don't fit it.

    Args:
        entries: The set.
        problems: What was wrong with it so far.
        num_frames, height, width, split, seed: See `ClipReader`.
        settings: Those of `Cut`, by name.

    Raises:
        InputError: If a setting can't be used, or the set has nothing for this split and number of frames.
    """

    def __init__(
        self,
        entries: Sequence[MediaEntry],
        problems: Sequence[Problem] = (),
        num_frames: int = 17,
        height: int = 96,
        width: int = 96,
        split: Split = "train",
        seed: int = 0,
        **settings: Any,
    ) -> None:
        if split not in ("train", "held-out"):
            raise InputError("unknown split", got=repr(split), expected="'train' or 'held-out'")
        self.num_frames, self.height, self.width = num_frames, height, width
        self.split, self.seed = split, seed
        self.cut = Cut.from_options(settings)
        self._fingerprint = _fingerprint(entries)
        self._of_split = split_entries(entries, split, self.cut.held_out_share)
        # Shared by all sizes of one reader, so that each thing is listed and reported once.
        self._skipped: dict[Problem, None] = dict.fromkeys(problems)
        if problems and split == "train":  # the held-out reader of the same set would say it again
            logger.warning("the set has %d unusable parts; the first is %s", len(problems), problems[0])
        self._resolved: dict[int, MediaEntry] = {}
        self._stamps: list[str] = []  # shared by all sizes, too
        self._choose_usable()
        self._sizes = {(num_frames, height, width): self}

    @property
    def skipped(self) -> tuple[Problem, ...]:
        """What was left out so far, each thing once."""
        return tuple(self._skipped)

    @property
    def num_entries(self) -> int:
        """Pictures and videos that clips of this size may come from; so many numbers use each of them once."""
        return len(self._entries)

    @property
    def num_described(self) -> int:
        """How many of these have a caption."""
        return sum(bool(entry.caption) for entry in self._entries)

    def __getitem__(self, number: int) -> Clip:
        """The clip of a number.

        Raises:
            MediaError: If dozens of entries in a row can't be used.
        """
        return self._read(number)[1]

    def caption(self, number: int, rng: np.random.Generator) -> str:
        """The caption of a number's clip.

        If the clip wasn't read before, this reads it: only that tells whether another entry takes its place.
        """
        return self._resolve(number).caption

    def name(self, number: int) -> str:
        """The file that a number's clip comes from; reads it as `caption` does."""
        return self._resolve(number).name

    def with_size(
        self, num_frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> MediaClips:
        """The same set in another size; None keeps what it is."""
        size = (num_frames or self.num_frames, height or self.height, width or self.width)
        if size not in self._sizes:
            other = copy.copy(self)
            other.num_frames, other.height, other.width = size
            other._resolved = {}
            other._choose_usable()
            self._sizes[size] = other
        return self._sizes[size]

    def with_frames(self, num_frames: int) -> MediaClips:
        """The same set at another number of frames."""
        return self.with_size(num_frames)

    def __repr__(self) -> str:
        names = ("num_frames", "height", "width", "split", "seed", "cut")
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        entries = f"{len(self._of_split)} entries {self._fingerprint}"
        return f"{type(self).__name__}({entries} of files {self._stamp()}, {settings})"

    def _stamp(self) -> str:
        """Sizes and times of the files in short: others once a file was written anew. Looked up once."""
        if not self._stamps:
            digest = hashlib.sha256()
            for path in dict.fromkeys(
                path for entry in self._of_split for path in (entry.path, *entry.files_beside)
            ):
                try:
                    found = path.stat()
                    digest.update(repr((found.st_size, found.st_mtime_ns)).encode())
                except OSError:  # it is left out when its turn comes
                    digest.update(b"none")
            self._stamps.append(digest.hexdigest()[:12])
        return self._stamps[0]

    def _choose_usable(self) -> None:
        self._entries = [entry for entry in self._of_split if self.cut.takes(entry, self.num_frames)]
        if not self._entries:
            raise InputError(
                f"the set has nothing for {self.split} clips of {self.num_frames} frames",
                got=f"{len(self._of_split)} pictures and videos in that split",
                fix="ask for fewer frames, add data, or change held_out_share",
            )

    def _resolve(self, number: int) -> MediaEntry:
        known = self._resolved.get(number)
        return known if known is not None else self._read(number)[0]

    def _read(self, number: int) -> tuple[MediaEntry, Clip]:
        if number < 0:
            raise InputError("clips are numbered from 0", got=number)
        problems = []
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([_CLIP, self.seed, number, attempt])
            entry = self._entry(number) if attempt == 0 else self._entries[rng.integers(len(self._entries))]
            try:
                frames, frame_rate, beside = self._cut(entry, rng)
            except (MediaError, OSError) as error:
                problems.append(self._skip(entry, error))
                continue
            if len(self._resolved) >= _REMEMBERED:
                self._resolved.clear()
            self._resolved[number] = entry
            clip = Clip(
                frames=frames.astype(np.float32) / 255,
                caption=entry.caption,
                name=entry.name,
                frame_rate=frame_rate,
                references=tuple(each.astype(np.float32) / 255 for each in beside.references),
                mask=beside.mask,
                conditions=beside.conditions,
            )
            return entry, clip
        raise MediaError(f"none of {_ATTEMPTS} pictures and videos in a row could be used", got=problems[-1])

    def _entry(self, number: int) -> MediaEntry:
        """The entry whose turn a number is."""
        turn, place = divmod(number, len(self._entries))
        return self._entries[_order(self.seed, turn, len(self._entries))[place]]

    def _cut(self, entry: MediaEntry, rng: np.random.Generator) -> tuple[np.ndarray, float | None, Beside]:
        """A clip's frames, uint8 (F, H, W, 3), their rate, and what goes with them."""
        if self.split == "train":
            place, position = float(rng.random()), (float(rng.random()), float(rng.random()))
        else:
            place, position = MIDDLE[0], MIDDLE
        size = VideoSize(self.num_frames, self.height, self.width)
        frames, rate = self.cut.clip(entry.open(), entry.is_picture, size, place, position, part=entry.part)
        return frames, rate, read_beside(entry, frames, place, position, self.cut)

    def _skip(self, entry: MediaEntry, error: Exception) -> Problem:
        problem = Problem(entry.name, one_line(error))
        if problem not in self._skipped:
            self._skipped[problem] = None
            logger.warning("left out %s (%d so far)", problem, len(self._skipped))
        return problem


def split_entries(entries: Sequence[MediaEntry], split: Split, held_out_share: float) -> list[MediaEntry]:
    """The entries of a split.

    What an entry says itself counts; the others are held out if their key's hash falls into the share, so that they
    stay held out when the set grows. Where that leaves a split without any picture, or without any video, the one with
    the lowest hash is held out, or the one with the highest isn't.
    """
    held = {
        id(entry): entry.split == "held-out"
        if entry.split is not None
        else is_held_out(entry.key, held_out_share)
        for entry in entries
    }
    for kind in (True, False):
        _give_both_splits([entry for entry in entries if entry.is_picture == kind], held)
    return [entry for entry in entries if held[id(entry)] == (split == "held-out")]


def _give_both_splits(entries: Sequence[MediaEntry], held: dict[int, bool]) -> None:
    if len({held[id(entry)] for entry in entries}) != 1:
        return
    # Parts of one file have one key, and go together.
    free = [entry for entry in entries if entry.split is None]
    keys = sorted({entry.key for entry in free}, key=_hash)
    if not keys:
        return
    if is_held := held[id(free[0])]:
        moved = keys[-1]
    elif len(keys) > 1:
        moved = keys[0]
    else:
        return
    held |= {id(entry): not is_held for entry in free if entry.key == moved}


def is_held_out(key: str, held_out_share: float) -> bool:
    """Whether an entry belongs to the held-out share by the hash of its key."""
    return _hash(key) < held_out_share


@lru_cache(maxsize=8)
def _order(seed: int, turn: int, count: int) -> np.ndarray:
    """The order in which a round goes through the entries."""
    return np.random.default_rng([_ORDER, seed, turn]).permutation(count)


def _hash(text: str) -> float:
    """A number in [0, 1) that is the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64


def _fingerprint(entries: Sequence[MediaEntry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(
            repr((entry.name, entry.span, entry.caption, entry.split)).encode("utf-8", "backslashreplace")
        )
        if entry.part is not None:
            digest.update(repr(entry.part).encode())
        if entry.references or entry.mask:
            digest.update(repr((entry.references, entry.mask)).encode("utf-8", "backslashreplace"))
        if entry.conditions is not None:
            digest.update(repr(entry.conditions).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:12]
