"""Windows of a long video: what they cover, what they are given, and where prompts change."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltx_diffusers.errors import InputError
from ltx_diffusers.pipelines.windows import Window, plan_windows, prompt_spans, window_sizes


def test_a_plan_by_hand() -> None:
    """12 latent frames after the first, windows of 5 with 2 given: 5, then 7 new ones in three windows."""
    assert plan_windows(12, 5, 2) == [
        Window(0, -1, 5),
        Window(2, 5, 7),
        Window(4, 7, 9),
        Window(7, 9, 12),
    ]
    assert plan_windows(3, 5, 2) == [Window(0, -1, 3)]
    assert plan_windows(12, 5, 2)[1].frames(8) == (16, 56)


def test_a_window_ends_where_the_next_prompt_begins() -> None:
    windows = plan_windows(12, 5, 2, [3, 6])
    assert [(window.given + 1, window.end, window.prompt) for window in windows] == [
        (0, 3, 0),
        (4, 6, 1),
        (7, 9, 2),
        (10, 12, 2),
    ]
    assert windows[1] == Window(1, 3, 6, 1)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_latent_frame_is_made_once_and_overlaps_are_kept(data: st.DataObject) -> None:
    last = data.draw(st.integers(0, 60))
    size = data.draw(st.integers(1, 20))
    overlap = data.draw(st.integers(0, size - 1))
    changes = sorted(data.draw(st.sets(st.integers(0, last - 1), max_size=4))) if last else []
    windows = plan_windows(last, size, overlap, changes)
    made = [frame for window in windows for frame in range(window.given + 1, window.end + 1)]
    assert made == list(range(last + 1))
    for before, window in itertools.pairwise(windows):
        assert window.given == before.end
        assert window.start >= before.start
        assert window.num_latents == size + 1 or window.start == 0
        assert window.given - window.start >= overlap or window.start == 0
    prompts = [sum(frame > change for change in changes) for frame in range(last + 1)]
    assert [window.prompt for window in windows for _ in range(window.given, window.end)] == prompts


def test_prompts_begin_with_the_nearest_latent_frame() -> None:
    """At 8 frames a second latent frame k makes the frames 8k - 7 to 8k."""
    assert prompt_spans("a", 41, 8, 8) == (["a"], [])
    assert prompt_spans([(0, "a"), (2, "b"), (3.4, "c")], 41, 8, 8) == (["a", "b", "c"], [2, 3])


@pytest.mark.parametrize(
    "prompt",
    [
        [],
        7,
        ["a", "b"],
        [(0, "a", 1)],
        [(0, 1)],
        [(1, "a")],
        [(0, "a"), (-1, "b")],
        [(0, "a"), (5.0, "b")],
        [(0, "a"), (2, "b"), (2.1, "c")],
        [(0, "a"), (3, "b"), (2, "c")],
        [(0, "a"), (float("nan"), "b")],
    ],
)
def test_prompts_that_cannot_be(prompt: object) -> None:
    with pytest.raises(InputError):
        prompt_spans(prompt, 41, 8, 8)


def test_sizes_of_windows() -> None:
    assert window_sizes(161, None, 401, 8) == (20, 3)
    assert window_sizes(65, None, 401, 8) == (8, 2)
    assert window_sizes(17, None, 401, 8) == (2, 0)
    assert window_sizes(9, None, 9, 8) == (1, 0)
    assert window_sizes(97, 1, 401, 8) == (12, 0)


@pytest.mark.parametrize(
    "sizes", [(16, None, 41), (1, None, 41), (17, 17, 41), (17, 8, 41), (17, 9, 40), (17.0, 9, 41)]
)
def test_sizes_that_cannot_be(sizes: tuple) -> None:
    with pytest.raises(InputError):
        window_sizes(*sizes, 8)


@pytest.mark.parametrize(
    ("size", "overlap", "changes"), [(3, 3, []), (3, -1, []), (3, 1, [5, 5]), (3, 1, [12]), (3, 1, [-1])]
)
def test_plans_that_cannot_be(size: int, overlap: int, changes: list[int]) -> None:
    with pytest.raises(InputError):
        plan_windows(12, size, overlap, changes)
