"""What was measured and decided: as text, as plain data, and as pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MediaError
from ..clips import Problem
from ..decoding import Window, decode_clip
from ..media_entries import Part
from ..pictures import contact_sheet, fit_frames
from ..video import read_image, write_image
from .measuring import MeasuredScene
from .rules import Verdict
from .writing import scene_row

_SHARES = {"lowest": 0, "5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95, "highest": 100}
_PER_REASON = 4
_MOST_ROWS = 48
_EXTREMES = 3
_HEIGHT = 90  # of a picture in a sheet
_WIDEST = 240
_PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)


def score_table(scenes: Sequence[MeasuredScene]) -> dict[str, dict[str, float]]:
    """How each number is spread over the scenes that have it: percentiles by their names."""
    names = dict.fromkeys(name for scene in scenes for name in scene.scores)
    table = {}
    for name in sorted(names):
        values = [scene.scores[name] for scene in scenes if name in scene.scores]
        table[name] = dict(zip(_SHARES, np.percentile(values, list(_SHARES.values())).tolist(), strict=True))
    return table


def describe_scores(scenes: Sequence[MeasuredScene], meanings: Mapping[str, str]) -> Iterator[str]:
    """The table of numbers as lines of text, with what each number is."""
    table = score_table(scenes)
    if not table:
        return
    widest = max(map(len, table))
    yield "  ".join([" " * widest, *(f"{name:>8}" for name in _SHARES)])
    for name, row in table.items():
        yield "  ".join([name.ljust(widest), *(f"{value:>8.4g}" for value in row.values())])
    yield from (f"{name}: {meanings[name]}" for name in table if name in meanings)


def describe_scenes(scenes: Sequence[MeasuredScene]) -> str:
    """How many scenes there are, in one line."""
    pictures = sum(scene.entry.is_picture for scene in scenes)
    seconds = sum(scene.seconds for scene in scenes)
    files = len({scene.entry.place for scene in scenes})
    parts = [f"{_count(len(scenes) - pictures, 'scene')}, {_duration(seconds)}"]
    if pictures:
        parts.append(_count(pictures, "picture"))
    return f"{' and '.join(parts)} from {_count(files, 'file')}"


def describe_verdicts(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """What was kept and left out, and why, as lines of text."""
    kept = [verdict.scene for verdict in verdicts if verdict.is_kept]
    left = [verdict for verdict in verdicts if not verdict.is_kept]
    yield f"kept: {describe_scenes(kept)}"
    yield f"left out: {describe_scenes([verdict.scene for verdict in left])}"
    for reason, times in _reasons(left).most_common():
        yield f"  {times} {_unmet(reason)}"


def report_data(
    scenes: Sequence[MeasuredScene],
    problems: Sequence[Problem],
    meanings: Mapping[str, str],
    folder: Path,
    verdicts: Sequence[Verdict] | None = None,
) -> dict[str, Any]:
    """Everything as plain data; paths are relative to `folder`."""
    data: dict[str, Any] = {
        "meanings": dict(meanings),
        "scores": score_table(scenes),
        "problems": [{"name": problem.name, "reason": problem.reason} for problem in problems],
    }
    if verdicts is None:
        return data | {"scenes": [scene_row(scene, folder) for scene in scenes]}
    left = [verdict for verdict in verdicts if not verdict.is_kept]
    return data | {
        "kept": len(verdicts) - len(left),
        "left_out": len(left),
        "reasons": dict(_reasons(left).most_common()),
        "scenes": [
            scene_row(verdict.scene, folder)
            | {"reasons": [f"{rule}: {details}" for rule, details in verdict.reasons]}
            for verdict in verdicts
        ],
    }


def examples_left_out(verdicts: Sequence[Verdict]) -> list[tuple[MeasuredScene, str]]:
    """Some scenes that were left out, a few for each reason, with the reason as a title."""
    shown: Counter[str] = Counter()
    found: list[tuple[str, MeasuredScene, str]] = []
    for verdict in verdicts:
        for rule, details in verdict.reasons:
            if shown[rule] < _PER_REASON:
                shown[rule] += 1
                found.append((rule, verdict.scene, f"{_unmet(rule)} ({details}): {verdict.scene.name}"))
    found.sort(key=lambda one: one[0])
    return [(scene, title) for _, scene, title in found][:_MOST_ROWS]


def examples_kept(verdicts: Sequence[Verdict]) -> list[tuple[MeasuredScene, str]]:
    """Some scenes that are kept, spread evenly over the set."""
    kept = [verdict.scene for verdict in verdicts if verdict.is_kept]
    chosen = np.linspace(0, len(kept) - 1, min(len(kept), _MOST_ROWS // 3)).round().astype(int)
    return [
        (kept[number], " | ".join(filter(None, (kept[number].name, kept[number].entry.caption))))
        for number in chosen
    ]


def examples_of_scores(
    scenes: Sequence[MeasuredScene], names: Sequence[str]
) -> list[tuple[MeasuredScene, str]]:
    """For each number the scenes with the lowest and the highest values."""
    found = []
    for name in names:
        having = sorted((scene for scene in scenes if name in scene.scores), key=lambda one: one.scores[name])
        if not having or having[0].scores[name] == having[-1].scores[name]:
            continue
        ends = having if len(having) <= 2 * _EXTREMES else [*having[:_EXTREMES], *having[-_EXTREMES:]]
        found += [(scene, f"{name} {scene.scores[name]:g}: {scene.name}") for scene in ends]
    return found


def write_sheet(
    path: Path,
    examples: Sequence[tuple[MeasuredScene, str]],
    advance: Callable[[], Any] = lambda: None,
) -> bool:
    """Draw scenes with titles, a row each, as a PNG file.

    Returns:
        Whether there was anything to draw; nothing is written otherwise.

    Raises:
        MediaError: If the file can't be written.
    """
    rows, titles = [], []
    for scene, title in examples:
        try:
            rows.append(_frames(scene))
            titles.append(title[:160])
        except (MediaError, OSError):  # it could be read a moment ago; a sheet does without
            pass
        advance()
    if not rows:
        return False
    write_image(path, np.asarray(contact_sheet(rows, titles, columns_frames=len(_PLACES))))
    return True


def _frames(scene: MeasuredScene) -> np.ndarray:
    """A few frames of a scene, small, uint8 (F, h, w, 3)."""
    part = scene.part or Part()

    def fit(picture: np.ndarray) -> np.ndarray:
        left, top, width, height = part.checked_crop(picture.shape[1], picture.shape[0])
        picture = picture[top : top + height, left : left + width]
        wide = max(2, min(_WIDEST, round(width * _HEIGHT / height)))
        return fit_frames(picture, _HEIGHT, wide)

    if scene.entry.is_picture:
        return fit(read_image(scene.entry.open()))[None]
    windows = [Window(1, place, start=part.start, end=part.end) for place in _PLACES]
    return np.concatenate([decode_clip(scene.entry.open(), window, fit)[0] for window in windows])


def _reasons(left: Sequence[Verdict]) -> Counter[str]:
    return Counter(rule for verdict in left for rule in dict(verdict.reasons))


def _unmet(reason: str) -> str:
    """A reason in words: of a limit, that it isn't met."""
    return f"not {reason}" if "<" in reason or ">" in reason else reason


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"
