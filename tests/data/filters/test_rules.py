"""What is kept: rules read, applied, and duplicates."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx_diffusers.data.decoding import MediaFacts
from ltx_diffusers.data.filters.hashing import Fingerprint
from ltx_diffusers.data.filters.measuring import MeasuredScene, Measuring
from ltx_diffusers.data.filters.rules import (
    DEFAULT_RULES,
    NO_CAPTION,
    TWICE,
    Rule,
    decide,
    parse_rule,
    with_defaults,
)
from ltx_diffusers.data.media_entries import MediaEntry
from ltx_diffusers.errors import InputError


def measured(
    name: str, *, size=(64, 48), seconds=2.0, bits: int | None = None, caption="x", **scores
) -> MeasuredScene:
    return MeasuredScene(
        entry=MediaEntry(name, name, Path(name), caption),
        facts=MediaFacts(*size, 48, 24.0, seconds),
        part=None,
        seconds=seconds,
        size=size,
        scores=scores,
        fingerprint=None if bits is None else Fingerprint(bits, (0,) * 9),
    )


def kept(scenes: list[MeasuredScene], *rules: str, **settings: bool) -> list[str]:
    parsed = [parse_rule(rule, Measuring().scores()) for rule in rules]
    return [verdict.scene.entry.name for verdict in decide(scenes, parsed, **settings) if verdict.is_kept]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("motion >= 2", Rule("motion", ">=", 2.0)),
        ("  blur<.5 ", Rule("blur", "<", 0.5)),
        ("still_share <=1e-1", Rule("still_share", "<=", 0.1)),
    ],
)
def test_rules_are_read(text: str, rule: Rule) -> None:
    assert parse_rule(text, Measuring().scores()) == rule
    assert parse_rule(str(rule), Measuring().scores()) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("motoin >= 2", "expected motion"),
        ("xyz > 2", "one of bars, "),
        ("motion = 2", "this is no rule"),
        ("motion >= fast", "this is no rule"),
        ("motion >= nan", "this is no rule"),
        ("", "this is no rule"),
    ],
)
def test_what_is_no_rule(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_rule(text, Measuring().scores())


def test_limits_hold_on_their_side() -> None:
    scenes = [measured(str(value), motion=float(value)) for value in range(5)]
    assert kept(scenes, "motion >= 2") == ["2", "3", "4"]
    assert kept(scenes, "motion > 2", "motion < 4") == ["3"]
    assert kept(scenes, "motion <= 0") == ["0"]
    assert kept([measured("picture", blur=0.1)], "motion >= 2", "seconds >= 5") == ["picture"]


def test_a_given_rule_replaces_the_default_of_its_side() -> None:
    rules = with_defaults([Rule("seconds", ">", 3.0), Rule("brightness", "<=", 0.5)])
    assert [str(rule) for rule in rules if rule.score in ("seconds", "brightness")] == [
        "brightness >= 0.03",
        "seconds > 3",
        "brightness <= 0.5",
    ]
    assert with_defaults([]) == DEFAULT_RULES
    assert {rule.score for rule in DEFAULT_RULES} <= set(Measuring().scores())


def test_every_reason_is_told() -> None:
    scene = measured("a", caption="", motion=1.0, seconds=0.5)
    (verdict,) = decide([scene], [Rule("motion", ">=", 2.0), Rule("motion", ">=", 3.0)], captions=True)
    assert verdict.reasons == (
        ("motion >= 2", "motion is 1"),
        ("motion >= 3", "motion is 1"),
        (NO_CAPTION, "it has no caption"),
    )
    assert decide([scene], [])[0].is_kept


def test_of_scenes_that_look_the_same_the_best_is_kept() -> None:
    scenes = [
        measured("small", bits=7),
        measured("other", bits=(1 << 40) - 1 << 60),
        measured("short", size=(128, 96), bits=7, seconds=1.9),
        measured("best", size=(128, 96), bits=7),
        measured("late", size=(128, 96), bits=7),
        measured("dark", size=(256, 96), bits=7, brightness=0.0),
    ]
    assert kept(scenes, "brightness >= 0.1") == ["other", "best"]
    assert len(kept(scenes, duplicates=True)) == 6
    reasons = [verdict.reasons for verdict in decide(scenes, [Rule("brightness", ">=", 0.1)])]
    assert reasons[0] == reasons[2] == reasons[4] == ((TWICE, "it looks like best"),)
    assert [rule for rule, _ in reasons[5]] == ["brightness >= 0.1"]


def test_filters_that_share_a_name_of_a_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ltx_diffusers.data.filters import filters

    class Other:
        """Another motion."""

        scores = {"motion": "something else"}

        def __call__(self, scene):
            return {}

    monkeypatch.setitem(filters._entries, "other", Other)
    with pytest.raises(InputError, match="called 'motion'.*motion and other"):
        Measuring()
    assert "motion" in Measuring(filters=("motion",)).scores()
