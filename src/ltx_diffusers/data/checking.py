"""What a set of pictures and videos holds, and what is wrong with it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import MediaError
from .beside import look_beside
from .clips import Problem
from .decoding import MediaFacts, count_frames, one_line, probe_video
from .media_entries import MediaEntry, Part, number_in
from .video import read_image

_TOLERANCE = 0.02
"""Share by which what a list says may differ from what a file's header says."""

_AHEAD = 4
_CHUNK = 2**20


@dataclass
class SetReport:
    """What was found in a set.

    Attributes:
        pictures, videos: Usable ones.
        bytes: Of all that could be read, usable or not.
        seconds: Duration of all usable videos.
        without_caption: Usable pictures and videos that nobody described.
        sizes: How many have each size, "width x height".
        frame_rates: How many videos have each rate in frames per second, rounded to hundredths.
        num_frames: Of each usable video.
        broken: What can't be used, and why.
        wrong: What can be used, but isn't as a list says, or has an unreadable caption or metadata.
        duplicates: Names of files with the same content, in groups.
    """

    pictures: int = 0
    videos: int = 0
    bytes: int = 0
    seconds: float = 0.0
    without_caption: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    frame_rates: Counter[float] = field(default_factory=Counter)
    num_frames: list[int] = field(default_factory=list)
    broken: list[Problem] = field(default_factory=list)
    wrong: list[Problem] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is broken, wrong or there twice."""
        return not (self.broken or self.wrong or self.duplicates)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        plain = {
            name: getattr(self, name)
            for name in ("pictures", "videos", "bytes", "seconds", "without_caption")
        }
        counts = {
            "sizes": dict(self.sizes),
            "frame_rates": {str(rate): n for rate, n in self.frame_rates.items()},
        }
        problems = {
            name: [asdict(problem) for problem in getattr(self, name)] for name in ("broken", "wrong")
        }
        return {**plain, **counts, **problems, "num_frames": self.num_frames, "duplicates": self.duplicates}


@dataclass(frozen=True)
class _Finding:
    digest: str = ""
    size: int = 0
    facts: MediaFacts | None = None
    problem: str | None = None


def check_set(
    entries: Sequence[MediaEntry],
    problems: Sequence[Problem] = (),
    *,
    quick: bool = False,
    workers: int = 1,
    advance: Callable[[], Any] = lambda: None,
) -> SetReport:
    """Read every picture and video of a set and report on it.

    Args:
        entries: The set.
        problems: What was wrong with it so far; those become `SetReport.wrong`.
        quick: Read videos' headers only, instead of decoding every frame.
        workers: Threads that read; decoding doesn't hold Python's lock.
        advance: Called after each entry, for a progress bar.
    """
    report = SetReport(wrong=list(problems))
    by_content: dict[str, dict[Any, str]] = defaultdict(dict)
    for entry, finding in _findings(entries, quick, workers):
        report.bytes += finding.size
        if finding.digest and finding.size:
            # Several entries may be parts of one file.
            by_content[finding.digest].setdefault(entry.place, entry.name)
        if finding.facts is None:
            report.broken.append(Problem(entry.name, finding.problem or ""))
        else:
            _count(report, entry, finding.facts)
        advance()
    report.duplicates = [list(names.values()) for names in by_content.values() if len(names) > 1]
    return report


def _findings(
    entries: Sequence[MediaEntry], quick: bool, workers: int
) -> Iterator[tuple[MediaEntry, _Finding]]:
    """Each entry with what was found, in order; a few are read ahead, not all at once."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        chunk = workers * _AHEAD
        for start in range(0, len(entries), chunk):
            some = entries[start : start + chunk]
            yield from zip(some, pool.map(lambda entry: _look_at(entry, quick), some), strict=True)


def _look_at(entry: MediaEntry, quick: bool) -> _Finding:
    digest, size = "", 0
    try:
        source = entry.open()
        digest, size = _digest(source)
        for path in entry.files_beside:
            look_beside(path)
        if entry.is_picture:
            height, width = read_image(source).shape[:2]
            return _Finding(digest, size, MediaFacts(width, height, 1))
        return _Finding(digest, size, probe_video(source) if quick else count_frames(source))
    except (MediaError, OSError) as error:
        return _Finding(digest, size, problem=one_line(error))
    except Exception as error:  # decoders meet damaged files with errors of any kind
        return _Finding(digest, size, problem=f"{type(error).__name__}: {one_line(error)}")


def _digest(source: Path | IO[bytes]) -> tuple[str, int]:
    digest, size = hashlib.blake2b(digest_size=16), 0
    file = source.open("rb") if isinstance(source, Path) else source
    try:
        while piece := file.read(_CHUNK):
            digest.update(piece)
            size += len(piece)
    finally:
        if isinstance(source, Path):
            file.close()
        else:
            file.seek(0)
    return digest.hexdigest(), size


def _count(report: SetReport, entry: MediaEntry, facts: MediaFacts) -> None:
    report.sizes[f"{facts.width}x{facts.height}"] += 1
    report.without_caption += not entry.caption
    if entry.is_picture:
        report.pictures += 1
    else:
        report.videos += 1
        seconds = _seconds(entry, facts)
        report.seconds += seconds
        report.frame_rates[round(facts.frame_rate or 0.0, 2)] += 1
        report.num_frames.append(_num_frames(entry, facts))
    report.wrong += [Problem(entry.name, text) for text in _disagreements(entry, facts)]


def _seconds(entry: MediaEntry, facts: MediaFacts) -> float:
    return max(0.0, (entry.part or Part()).seconds(facts.seconds))


def _num_frames(entry: MediaEntry, facts: MediaFacts) -> int:
    share = _seconds(entry, facts) / facts.seconds if facts.seconds else 1.0
    return round(share * facts.num_frames)


def _disagreements(entry: MediaEntry, facts: MediaFacts) -> Iterator[str]:
    """Where a list or metadata say something else than the file."""
    width, height = number_in(entry.facts, "width"), number_in(entry.facts, "height")
    if width not in (None, facts.width) or height not in (None, facts.height):
        said = "x".join("?" if side is None else f"{side:g}" for side in (width, height))
        yield f"its size is {facts.width}x{facts.height}, not {said} as its metadata say"
    part = entry.part or Part()
    if part.crop is not None:
        try:
            part.checked_crop(facts.width, facts.height)
        except MediaError as error:
            yield one_line(error)
    if entry.is_picture:
        if entry.conditions:
            yield "it is a picture, which is given nothing: its conditions are never used"
        return
    if part.start >= facts.seconds:
        yield f"it begins at {part.start:g} s, but the video lasts {facts.seconds:g} s"
    for condition in entry.conditions or ():
        try:
            condition.begin(_num_frames(entry, facts))
        except MediaError as error:
            yield one_line(error)
    frame = 1 / facts.frame_rate if facts.frame_rate else 0.0
    for names, true, slack in (
        (("fps", "frame_rate"), facts.frame_rate, 0.0),
        (("duration", "seconds"), facts.seconds, frame),
    ):
        said = number_in(entry.facts, *names)
        if said is not None and true and abs(said - true) > _TOLERANCE * true + slack:
            yield f"its {names[0]} is {true:g}, not {said:g} as its metadata say"
