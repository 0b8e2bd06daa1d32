"""A real, small disk: a tmpfs in a mount namespace of its own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import multiprocessing

_NEW_MOUNTS, _NEW_USER, _PRIVATE, _RECURSIVE = 0x20000, 0x10000000, 0x40000, 0x4000


def _mount(path: Path, size: int) -> str | None:
    """Mount a tmpfs of `size` bytes, for this process only; what is in the way, or None."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    calls = [
        lambda: libc.unshare(_NEW_MOUNTS | (_NEW_USER if user else 0)),
        lambda: libc.mount(b"none", b"/", None, _PRIVATE | _RECURSIVE, None),
        lambda: libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, f"size={size}".encode()),
    ]
    for index, call in enumerate(calls):
        if call():
            return os.strerror(ctypes.get_errno())
        if index == 0 and user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return None


def _inside(path: Path, size: int, function: Callable, arguments: tuple, results: Any) -> None:
    refused = _mount(path, size)
    results.put((refused, None if refused else function(path, *arguments)))


def on_small_disk(path: Path, size: int, function: Callable, *arguments: object) -> Any:
    """What `function(path, *arguments)` returns in a forked process that sees a disk of `size` bytes at `path`.

    The test is skipped where the system doesn't let tests mount.
    """
    path.mkdir()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_inside, args=(path, size, function, arguments, results), daemon=True)
    process.start()
    refused, found = results.get(timeout=120)
    process.join()
    if refused:
        pytest.skip(f"can't mount a tmpfs: {refused}")
    return found


def fill(folder: Path) -> Path:
    """Fill a disk to the last byte with one file, to be deleted."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        for block in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(block))
            except OSError:
                continue
    return path
