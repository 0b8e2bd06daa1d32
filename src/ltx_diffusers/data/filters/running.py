"""A whole set measured, on several processes, going on where an earlier run stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import MediaError
from ..clips import Problem
from ..media_entries import MediaEntry
from .journal import Journal
from .measuring import MeasuredScene, Measuring, content_key, measure, restored
from .watching import Watching

_AHEAD = 2  # entries given to each process, so that none waits

_Answer = tuple[str | None, dict[str, Any] | None]
"""The key of an entry, None if it can't be read; and what was found, None if that is known already."""


def measure_set(
    entries: Sequence[MediaEntry],
    settings: Measuring | None = None,
    *,
    journal: Path | None = None,
    workers: int = 1,
    advance: Callable[[], Any] = lambda: None,
) -> tuple[list[MeasuredScene], list[Problem]]:
    """Measure every scene of a set.

    Args:
        entries: The set.
        settings: What is measured.
        journal: A file in which measurements are kept under the content of what was measured: with the same settings
            nothing is measured twice.
        workers: Processes. With more than one, a file that makes the decoder crash is a problem like others.
        advance: Called after each entry, for a progress bar.

    Returns:
        The scenes in the order of the set, and what can't be used.

    Raises:
        InputError: If the journal holds something else, or a filter gives something else than it says.
        MediaError: If the journal can't be written.
    """
    settings = settings or Measuring()
    found: list[dict[str, Any]] = [{}] * len(entries)
    with Journal(journal) as kept:
        task = partial(
            _answer,
            identity=settings.identity(),
            watching=settings.watching,
            crop_bars=settings.crop_bars,
            classes=settings.classes(),
        )
        for number, (key, result) in _answers(entries, task, kept.keys, workers):
            if result is None:
                result = kept[key]
            elif key is not None:
                kept.put(key, result)
            found[number] = result
            advance()
    scenes: list[MeasuredScene] = []
    problems: list[Problem] = []
    for entry, result in zip(entries, found, strict=True):
        if "problem" in result:
            problems.append(Problem(entry.name, result["problem"]))
        else:
            scenes += restored(entry, result)
    return scenes, problems


def _answers(
    entries: Sequence[MediaEntry], task: Callable[..., _Answer], known: frozenset[str], workers: int
) -> Iterator[tuple[int, _Answer]]:
    """The answer for each entry by its number, in any order."""
    if workers == 1:
        for number, entry in enumerate(entries):
            yield number, task(entry, known=known)
        return
    left = deque(range(len(entries)))
    while left:
        suspects = yield from _in_pool(entries, left, task, known, workers)
        for number in suspects:
            # Each alone, so that it is seen which of them crashed the process.
            alone = deque([number])
            if (yield from _in_pool(entries, alone, task, known, 1)):
                yield number, (None, {"problem": "the process that decoded it crashed"})


def _in_pool(
    entries: Sequence[MediaEntry],
    left: deque[int],
    task: Callable[..., _Answer],
    known: frozenset[str],
    workers: int,
) -> Iterator[tuple[int, _Answer]]:
    """Answers until nothing is left, or a process died; returns the numbers whose answers were lost then."""
    # Processes of their own start: a copy of this one would share the state of its decoders and threads.
    context = multiprocessing.get_context("spawn")
    running: dict[Future, int] = {}
    pool = ProcessPoolExecutor(workers, context, _begin, (known,))
    try:
        while left or running:
            while left and len(running) < _AHEAD * workers:
                running[pool.submit(_in_worker, task, entries[left[0]])] = left[0]
                left.popleft()
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                answer = future.result()
                yield running.pop(future), answer
    except BrokenProcessPool:
        pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return sorted(running.values())


def _answer(
    entry: MediaEntry,
    *,
    known: frozenset[str],
    identity: str,
    watching: Watching,
    crop_bars: bool,
    classes: tuple[Any, ...],
) -> _Answer:
    try:
        key = content_key(entry, identity)
    except MediaError as error:
        return None, {"problem": str(error)}
    if key in known:
        return key, None
    return key, measure(entry, watching, crop_bars, classes)


# In the processes.

_known: frozenset[str] = frozenset()


def _begin(known: frozenset[str]) -> None:
    """Prepare a process: the first one handles Ctrl-C, and if it is killed this one must not stay behind."""
    global _known
    _known = known
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _in_worker(task: Callable[..., _Answer], entry: MediaEntry) -> _Answer:
    return task(entry, known=_known)
