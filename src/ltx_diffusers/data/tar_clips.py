"""Clips by number from WebDataset tars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import MediaError
from . import data_readers
from .clips import Problem
from .media_clips import MediaClips
from .media_entries import MediaEntry
from .moving_shapes import Split
from .tars import find_shards, index_shard


@data_readers.register("webdataset")
class TarClips(MediaClips):
    """Pictures and videos in WebDataset tars, read from where they lie in them (see `tars`).

    The tars' headers are gone through once at the start; after that every number's clip is one read of one member.

    Args:
        num_frames, height, width, split, seed: See `ClipReader`.
        path: A tar, a folder of tars, a pattern like `shards/{000000..000099}.tar`, or a list of these.
        settings: Those of `Cut`, by name.

    Raises:
        InputError: As `MediaClips`.
        MediaError: If a tar isn't there, or none has a picture or video.
    """

    def __init__(
        self,
        num_frames: int = 17,
        height: int = 96,
        width: int = 96,
        split: Split = "train",
        seed: int = 0,
        *,
        path: str | Path | Sequence[str | Path],
        **settings: Any,
    ) -> None:
        entries, problems = index_shards(find_shards(path))
        super().__init__(entries, problems, num_frames, height, width, split, seed, **settings)


def index_shards(shards: Sequence[Path]) -> tuple[list[MediaEntry], list[Problem]]:
    """The samples of many tars, one after the other, and what is wrong with them.

    Raises:
        MediaError: If none has a picture or video.
    """
    from rich.console import Console
    from rich.progress import track

    entries: list[MediaEntry] = []
    problems: list[Problem] = []
    console = Console(stderr=True)
    for shard in track(
        shards, "reading the tars' headers", console=console, transient=True, disable=not console.is_terminal
    ):
        found, wrong = index_shard(shard)
        entries += found
        problems += wrong
    if not entries:
        raise MediaError(
            "the tars have no pictures or videos",
            got=f"{len(shards)} tars, {problems[0]}" if problems else None,
        )
    return entries, problems
