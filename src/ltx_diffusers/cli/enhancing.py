"""Prompts written out by a chat model before a video is made (`generate --enhance MODEL`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from .given_media import Media
from .settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import torch


class Writer:
    """Writes prompts out with the chat model that the settings name, which stays loaded for the next ones."""

    def __init__(self) -> None:
        self._loaded: tuple[str, Any] | None = None

    def written(
        self, settings: Settings, media: Media, device: torch.device, *, quiet: bool = True
    ) -> tuple[Settings, dict[str, str]]:
        """The settings with the prompt written out, and remarks for the record that say where it is from.

        The settings then name no chat model any more, so that the same video is made again without one. While the
        video is made the chat model waits in main memory.

        Args:
            settings: What to make.
            media: Its pictures and clips, of which the model sees the first frame if it can.
            device: Where the chat model runs.
            quiet: Whether the libraries below are silent.

        Raises:
            InputError: If there is no such chat model, or it answers nothing.
        """
        if settings.enhance is None:
            return settings, {}
        enhancer = self._load(settings.enhance, quiet)
        prompt = enhancer.to(device)(settings.prompt, first_frame(settings, media))
        enhancer.to("cpu")
        typer.echo(f"prompt: {prompt}")
        remarks = {"enhanced_from": settings.prompt, "enhanced_by": settings.enhance}
        return replace(settings, prompt=prompt, enhance=None), remarks

    def _load(self, name: str, quiet: bool) -> Any:
        from ..pipelines.prompt_enhancement import PromptEnhancer
        from .loading import hush

        if quiet:
            from transformers.utils import logging

            hush()
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # the old one's memory may be needed for the new one
            self._loaded = (name, PromptEnhancer.from_pretrained(name))
        return self._loaded[1]


def first_frame(settings: Settings, media: Media) -> np.ndarray | None:
    """The frame that the video begins with as far as it is given, uint8 (H, W, 3)."""
    pictures = zip(settings.images, media.images, strict=True)
    clips = zip(settings.videos, media.videos, strict=True)
    starts = [picture for given, picture in pictures if given.frame == 0]
    starts += [clip.frames[0] for given, clip in clips if given.frame == 0]
    starts += [] if media.extend is None else [media.extend.frames[-1]]
    return starts[0] if starts else None
