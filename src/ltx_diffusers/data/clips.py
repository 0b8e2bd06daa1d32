"""What a data reader is: captioned clips by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class GivenFrames:
    """Frames that a clip is given in training.

    Attributes:
        frame: Frame of the clip at which they begin.
        frames: float32 (f, H, W, 3) in [0, 1], f = 8k + 1; more than one begin at a multiple of 8.
    """

    frame: int
    frames: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A captioned clip.

    Attributes:
        frames: float32 (F, H, W, 3) in [0, 1].
        caption: One wording of what it shows; "" if nobody wrote one.
        name: What a user finds it by: a file's path, with the place inside an archive; "" for what has no place.
        frame_rate: Of these frames, per second; None for a picture, or where the set has none of its own.
        references: What it is made from, for training in context: float32 (F, H, W, 3) in [0, 1] of its own moments
            and size each, or (1, H, W, 3) for a picture that goes with all moments. Clips without any have none.
        mask: Which pixels are made anew, bool (F, H, W); None for a clip that hasn't one.
        conditions: What it is given in training, in order of the frames; () for nothing, None to have that drawn.
    """

    frames: np.ndarray
    caption: str
    name: str = ""
    frame_rate: float | None = None
    references: tuple[np.ndarray, ...] = ()
    mask: np.ndarray | None = None
    conditions: tuple[GivenFrames, ...] | None = None


@dataclass(frozen=True)
class Problem:
    """Something in a set of clips that was left out.

    Attributes:
        name: Which file, member of an archive, or line of a list.
        reason: Why, in one line.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class ClipReader(Protocol):
    """The contract of `data_readers`: a class that is built with the settings below and then read by number.

    It is called as `reader(num_frames, height, width, split, seed, **options)`; every argument but the options has a
    default. Options are what a config's `data.options` holds.

    1. The set is endless: every number from 0 has a clip, and the same number has always the same clip, whatever was
       read before and in whichever process. Ranks and steps take different numbers, so a run on several processes
       sees what one process would, and a resumed run needs nothing but its step.
    2. "train" and "held-out" have no source in common.
    3. Nothing that is wrong with single files may end a run: a broken one is left out, listed in `skipped`, and
       another takes its number, by a rule that follows from seed and number alone.
    4. `repr` tells two readers apart that give other clips: caches are named after it.
    5. A reader can be pickled.

    Args:
        num_frames: Frames of a clip; 1 gives pictures.
        height, width: Size of a clip in pixels.
        split: "train" or "held-out".
        seed: Another seed is another order, and another choice of moments and crops.

    Attributes:
        skipped: What was left out so far, each thing once. A reader that can't meet anything broken needs none.
    """

    num_frames: int
    height: int
    width: int

    def __getitem__(self, number: int) -> Clip:
        """The clip of a number."""

    def caption(self, number: int, rng: np.random.Generator) -> str:
        """A wording of the clip of a number, drawn anew; clips that have one wording give that."""

    def name(self, number: int) -> str:
        """Words that identify the clip of a number, for messages."""

    def with_size(
        self, num_frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> ClipReader:
        """The same set in another size; None keeps what it is. Cheap: training calls it at every step."""

    def with_frames(self, num_frames: int) -> ClipReader:
        """The same set at another number of frames."""


def skipped_by(reader: ClipReader) -> Sequence[Problem]:
    """What a reader has left out so far; nothing if it keeps no list."""
    return getattr(reader, "skipped", ())
