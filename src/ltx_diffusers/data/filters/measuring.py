"""What filters say of each scene of a picture or video."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from ...errors import InputError, MediaError
from ..decoding import MediaFacts, one_line
from ..media_entries import MediaEntry, Part
from . import filters
from .bars import bar_share, find_bars
from .hashing import Fingerprint, fingerprint
from .scene import Box, Scene
from .watching import Watching, watch

BARS = {"bars": "share of the picture that black bars take, 0 to 1"}
"""The number that finding bars gives."""

_VERSION = 1
"""Raised when what is measured changes: what was kept before counts no more."""

_DIGITS = 5
_CHUNK = 2**20


@dataclass(frozen=True)
class Measuring:
    """What is measured.

    Attributes:
        watching: How videos are divided into scenes.
        crop_bars: Whether black bars are cut off; then all other numbers are those of what is left.
        filters: The filters, by name; by default all that are registered.

    Raises:
        InputError: If two filters give a number of the same name.
        UnknownNameError: If no filter has a name.
    """

    watching: Watching = field(default_factory=Watching)
    crop_bars: bool = True
    filters: tuple[str, ...] = field(default_factory=lambda: tuple(filters.list()))

    def __post_init__(self) -> None:
        """Check the settings. Raises `InputError`."""
        names: dict[str, str] = dict.fromkeys(BARS, "black bars")
        for filter_name in self.filters:
            for score in filters.get(filter_name).scores:
                if score in names:
                    raise InputError(
                        f"two filters give a number called {score!r}", got=f"{names[score]} and {filter_name}"
                    )
                names[score] = filter_name

    def scores(self) -> dict[str, str]:
        """What each number is, by its name."""
        found = dict(BARS)
        for name in self.filters:
            found |= filters.get(name).scores
        return found

    def classes(self) -> tuple[Callable[[], Callable[[Scene], dict[str, float]]], ...]:
        """The filters themselves, which other processes find by their modules."""
        return tuple(filters.get(name) for name in self.filters)

    def identity(self) -> str:
        """Tells settings and filters apart that may measure something else."""
        words = [_VERSION, self.watching, self.crop_bars]
        for name in self.filters:
            entry = filters.get(name)
            words += [name, entry.__module__, sorted(entry.scores), getattr(entry, "version", 1)]
        return repr(words)


@dataclass(frozen=True, kw_only=True)
class MeasuredScene:
    """A picture, or a scene of a video, with its numbers.

    Attributes:
        entry: The picture or video.
        facts: What its header says.
        part: Which part of the file the scene is; None: all of it.
        seconds: Duration; 0 for a picture.
        size: Width and height of what is to be seen, in pixels.
        scores: The numbers, by name.
        fingerprint: By which the same scene is found elsewhere; None if it has none.
    """

    entry: MediaEntry
    facts: MediaFacts
    part: Part | None
    seconds: float
    size: tuple[int, int]
    scores: Mapping[str, float]
    fingerprint: Fingerprint | None

    @property
    def name(self) -> str:
        """The file's name, with the stretch if it is one."""
        if self.part is None or (self.part.start == 0 and self.part.end is None):
            return self.entry.name
        end = "" if self.part.end is None else f"{self.part.end:.2f}"
        return f"{self.entry.name} [{self.part.start:.2f}-{end} s]"


def content_key(entry: MediaEntry, identity: str) -> str:
    """What measurements of an entry are kept under: its content, part and caption, and what is measured.

    Raises:
        MediaError: If it can't be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        source = entry.open()
        if isinstance(source, Path):
            with source.open("rb") as file:
                _feed(digest, file)
        else:
            _feed(digest, source)
    except OSError as error:
        raise MediaError("it can't be read", got=one_line(error)) from error
    words = (identity, entry.part, entry.caption, entry.is_picture)
    digest.update(repr(words).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _feed(digest: Any, file: IO[bytes]) -> None:
    while piece := file.read(_CHUNK):
        digest.update(piece)


def measure(
    entry: MediaEntry,
    watching: Watching,
    crop_bars: bool,
    classes: tuple[Callable[[], Callable[[Scene], dict[str, float]]], ...],
) -> dict[str, Any]:
    """Watch a picture or video and measure its scenes.

    Returns:
        Plain data: `facts`, and `scenes` in order; or `problem`, why it can't be used. `restored` reads it.

    Raises:
        InputError: If a filter gives something that isn't a number it names.
    """
    try:
        facts, scenes = watch(entry, watching)
    except MediaError as error:
        return {"problem": str(error)}
    is_whole = len(scenes) == 1
    judges = [build() for build in classes]
    return {
        "facts": asdict(facts),
        "scenes": [_measured(scene, entry, judges, crop_bars, is_whole) for scene in scenes],
    }


def _measured(
    scene: Scene, entry: MediaEntry, judges: list[Any], crop_bars: bool, is_whole: bool
) -> dict[str, Any]:
    box = find_bars(scene)
    scores = {"bars": bar_share(scene, box)}
    if box is not None and crop_bars:
        scene = scene.cropped(box)
    else:
        box = None
    for judge in judges:
        given = judge(scene)
        _check(judge, given)
        scores |= given
    print_ = fingerprint(scene)
    return {
        "span": None if is_whole else [round(scene.start, 6), round(scene.end, 6)],
        "crop": _within(entry, box),
        "seconds": round(scene.seconds, 6),
        "size": [scene.width, scene.height],
        "scores": {name: float(f"{value:.{_DIGITS}g}") for name, value in scores.items()},
        "print": None if print_ is None else {"bits": f"{print_.bits:x}", "colours": print_.colours},
    }


def _check(judge: Any, given: Mapping[str, float]) -> None:
    for name, value in given.items():
        if name not in judge.scores or not float("-inf") < value < float("inf"):
            raise InputError(
                f"the filter {type(judge).__name__} gives something else than it says",
                got=f"{name} = {value}",
                expected=f"finite numbers called {', '.join(judge.scores)}",
            )


def _within(entry: MediaEntry, box: Box | None) -> list[int] | None:
    """A box of what is seen of an entry, in pixels of the file; None if nothing is cut off."""
    crop = None if entry.part is None else entry.part.crop
    if box is None:
        return None if crop is None else list(crop)
    left, top = (0, 0) if crop is None else crop[:2]
    return [left + box[0], top + box[1], box[2], box[3]]


def restored(entry: MediaEntry, found: Mapping[str, Any]) -> list[MeasuredScene]:
    """The scenes of what `measure` gave of an entry."""
    facts = MediaFacts(**found["facts"])
    scenes = []
    for plain in found["scenes"]:
        whole = entry.part or Part()
        start, end = plain["span"] or (whole.start, whole.end)
        part = Part(start, end, None if plain["crop"] is None else tuple(plain["crop"]))
        print_ = plain["print"]
        scenes.append(
            MeasuredScene(
                entry=entry,
                facts=facts,
                part=None if part == Part() else part,
                seconds=plain["seconds"],
                size=tuple(plain["size"]),
                scores=plain["scores"],
                fingerprint=None
                if print_ is None
                else Fingerprint(int(print_["bits"], 16), tuple(print_["colours"])),
            )
        )
    return scenes
