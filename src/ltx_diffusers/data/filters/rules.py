"""Which scenes are kept: limits of their numbers, captions, and nothing twice."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ...errors import InputError
from .hashing import same_scenes
from .measuring import MeasuredScene

_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}

NO_CAPTION = "no caption"
TWICE = "there twice"
"""Reasons that aren't a limit of a number."""


@dataclass(frozen=True)
class Rule:
    """A limit of a number; a scene without that number meets it.

    Attributes:
        score: Name of the number.
        compare: ">=", "<=", ">" or "<".
        limit: What it is compared with.
    """

    score: str
    compare: str
    limit: float

    def allows(self, scene: MeasuredScene) -> bool:
        """Whether a scene meets it."""
        value = scene.scores.get(self.score)
        return value is None or _COMPARE[self.compare](value, self.limit)

    def __str__(self) -> str:
        return f"{self.score} {self.compare} {self.limit:g}"


DEFAULT_RULES = (
    Rule("seconds", ">=", 1.0),
    Rule("still_share", "<=", 0.8),
    Rule("brightness", ">=", 0.03),
    Rule("brightness", "<=", 0.97),
    Rule("contrast", ">=", 0.02),
    Rule("blur", "<=", 0.8),
)
"""Leave out what is hardly ever wanted: too short, frozen, black, white, even, badly blurred."""


def parse_rule(text: str, scores: Collection[str]) -> Rule:
    """A rule such as "motion >= 2".

    Args:
        text: Name, comparison and limit.
        scores: Names of the numbers there are.

    Raises:
        InputError: If it can't be read, or there is no such number; then with near names.
    """
    found = re.fullmatch(r"\s*([\w-]+)\s*(>=|<=|>|<)\s*(\S+)\s*", text)
    try:
        limit = float(found[3]) if found else float("nan")
    except ValueError:
        limit = float("nan")
    if found is None or limit != limit:
        raise InputError(
            "this is no rule",
            got=repr(text),
            expected="a number's name, >= or <=, and a limit: 'seconds >= 2'",
        )
    if found[1] not in scores:
        near = difflib.get_close_matches(found[1], scores, n=2)
        raise InputError(
            f"no filter gives a number called {found[1]!r}",
            expected=" or ".join(near) if near else f"one of {', '.join(scores)}",
        )
    return Rule(found[1], found[2], limit)


def with_defaults(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The default rules and these; one that limits the same number on the same side replaces the default."""
    rules = tuple(rules)
    said = {(rule.score, rule.compare[0]) for rule in rules}
    return (*(rule for rule in DEFAULT_RULES if (rule.score, rule.compare[0]) not in said), *rules)


@dataclass(frozen=True)
class Verdict:
    """What was decided of a scene.

    Attributes:
        scene: The scene.
        reasons: Why it is left out, each a rule, `NO_CAPTION` or `TWICE`, with details; nothing if it is kept.
    """

    scene: MeasuredScene
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether it is kept."""
        return not self.reasons


def decide(
    scenes: Sequence[MeasuredScene],
    rules: Sequence[Rule],
    *,
    captions: bool = False,
    duplicates: bool = False,
) -> list[Verdict]:
    """Which scenes are kept.

    Args:
        scenes: What was measured.
        rules: All must be met.
        captions: Whether a caption is needed.
        duplicates: Whether scenes that look the same may all be kept. Otherwise one is: the largest picture, of these
            the longest, of these the first.

    Returns:
        A verdict for each, in their order.
    """
    reasons: list[list[tuple[str, str]]] = []
    for scene in scenes:
        broken = [rule for rule in rules if not rule.allows(scene)]
        mine = [(str(rule), f"{rule.score} is {scene.scores[rule.score]:g}") for rule in broken]
        if captions and not scene.entry.caption:
            mine.append((NO_CAPTION, "it has no caption"))
        reasons.append(mine)
    if not duplicates:
        kept = [number for number, mine in enumerate(reasons) if not mine]
        for number, other in _repeated(scenes, kept).items():
            reasons[number].append((TWICE, f"it looks like {scenes[other].name}"))
    return [Verdict(scene, tuple(mine)) for scene, mine in zip(scenes, reasons, strict=True)]


def _repeated(scenes: Sequence[MeasuredScene], numbers: Sequence[int]) -> dict[int, int]:
    """Of some scenes those that look like a better one, with that."""

    def worth(number: int) -> tuple[float, float, int]:
        width, height = scenes[number].size
        return (-width * height, -scenes[number].seconds, number)

    ordered = sorted(numbers, key=worth)
    same = same_scenes(
        [scenes[number].fingerprint for number in ordered], [scenes[number].seconds for number in ordered]
    )
    return {ordered[number]: ordered[other] for number, other in same.items()}
