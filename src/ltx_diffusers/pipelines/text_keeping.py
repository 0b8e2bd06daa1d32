"""How pipelines hold their text encoder, the largest part: always, while it is needed, or as memory allows.

Diffusers' pipelines hold it all the time, or move it with `enable_model_cpu_offload`.
"""

from __future__ import annotations

import functools
import gc
import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from torch import Tensor, nn

from ..denoising.passes import free_memory
from ..denoising.velocity import TextFeatures
from ..errors import InputError, LTXError
from .prompt_cache import Fingerprint, PromptCache, identity
from .release import INDEX, read_config, warn_once
from .request import no_text_encoder
from .text import features_of, tokenized

PART = "text_encoder"
KEEPING = ("always", "auto", "never")
"""How a text encoder is kept, see `KeepsTextEncoder.keep_text_encoder`."""

_NOT_ON_DEMAND = ("quantization_config", "device_map", "from_flax", "custom_pipeline")


@dataclass(frozen=True)
class TextSource:
    """Where a text encoder can be loaded from again.

    Attributes:
        folder: Its own, inside the pipeline's.
        class_name: Of its model, in transformers.
        arguments: Of `from_pretrained`: `dtype` and `variant`, where they were given.
    """

    folder: Path
    class_name: str
    arguments: tuple[tuple[str, Any], ...]

    def load(self) -> nn.Module:
        """The encoder, on the CPU."""
        return getattr(transformers, self.class_name).from_pretrained(self.folder, **dict(self.arguments))

    def identity(self) -> str:
        """What tells the files, as they are now, and how they are read from all others."""
        return identity(self.folder, self.class_name, str(self.arguments))


def check_keeping(keeping: str) -> None:
    """Check a way to keep the text encoder.

    Raises:
        InputError: If there is no such way.
    """
    if keeping not in KEEPING:
        raise InputError("unknown way to keep the text encoder", got=keeping, expected=", ".join(KEEPING))


def text_source(folder: Path, arguments: Mapping[str, Any]) -> TextSource | None:
    """Where a pipeline's text encoder is, or None if it has none that transformers loads.

    Args:
        folder: The pipeline's.
        arguments: Of its `from_pretrained`.
    """
    entry = read_config(folder, INDEX).get(PART)
    if not isinstance(entry, list) or entry[:1] != ["transformers"] or not (folder / PART).is_dir():
        return None
    if PART in arguments or any(arguments.get(name) is not None for name in _NOT_ON_DEMAND):
        return None
    dtype = arguments.get("dtype", arguments.get("torch_dtype"))
    if isinstance(dtype, Mapping):
        dtype = dtype.get(PART, dtype.get("default"))
    given: dict[str, Any] = {"dtype": torch.float32 if dtype is None else dtype}
    variant = arguments.get("variant")
    if variant is not None and any(f".{variant}." in path.name for path in (folder / PART).iterdir()):
        given["variant"] = variant
    return TextSource(folder / PART, entry[1], tuple(given.items()))


def set_aside(
    folder: Path, arguments: Mapping[str, Any], keeping: str
) -> tuple[TextSource | None, dict[str, Any]]:
    """Where a pipeline's text encoder is, and the arguments that leave it there when the pipeline is loaded.

    Args:
        folder: The pipeline's.
        arguments: Of its `from_pretrained`.
        keeping: One of `KEEPING`.

    Raises:
        InputError: If it is to be loaded later, but can't be.
    """
    source = text_source(folder, arguments)
    if keeping == "never" and source is None:
        raise _not_on_demand(keeping)
    return source, {} if keeping == "always" or source is None else {PART: None}


def _not_on_demand(keeping: str) -> InputError:
    return InputError(
        "the text encoder can't be loaded when it is needed",
        got=keeping,
        expected='"always"',
        fix="use from_pretrained on a folder or repository with a text encoder in Diffusers' layout, without "
        "quantization_config, device_map or a text_encoder of your own",
    )


def released_afterwards(encode: Callable) -> Callable:
    """Decorates a pipeline's method that encodes texts: the encoder isn't needed any more when it is done."""

    @functools.wraps(encode)
    def encode_and_release(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return encode(self, *args, **kwargs)
        finally:
            self._release_text_encoder()

    return encode_and_release


class KeepsTextEncoder:
    """Mixin of a pipeline: the text encoder is loaded when needed and freed by a rule; prompts may be kept on disk."""

    _text_source: TextSource | None = None
    _text_keeping: str = "always"
    _prompt_cache: PromptCache | None = None
    _own_encoder: Callable[[], nn.Module | None] = staticmethod(lambda: None)

    def keep_text_encoder(self, keeping: str) -> None:
        """Say how long the text encoder stays in memory.

        Args:
            keeping: "always"; "never": it is loaded for the texts of a call and freed after them; "auto": likewise, but
                it is only freed if, beside it, less memory of its device is free than it takes itself. It is read
                anew from the pipeline's files, so changes to it are lost; one that you put there yourself stays.

        Raises:
            InputError: If there is no such way, or nothing is known of where the encoder could be loaded from again.
        """
        check_keeping(keeping)
        if keeping != "always" and self._text_source is None:
            raise _not_on_demand(keeping)
        self._text_keeping = keeping
        self._release_text_encoder()

    def _know_text_source(self, source: TextSource | None, keeping: str) -> None:
        """Note where the text encoder of a pipeline that was just loaded is."""
        self._text_source = source
        self._text_keeping = "always" if source is None else keeping
        if source is not None and self.text_encoder is not None:
            self._own_encoder = weakref.ref(self.text_encoder)

    def enable_prompt_cache(self, folder: str | os.PathLike) -> None:
        """Keep features of prompts in a folder and take them from there, by the tokens and the encoder's weights.

        With `keep_text_encoder` "never" or "auto" the encoder isn't loaded while all prompts are there.

        Args:
            folder: It is made if there is none; several pipelines and processes may share it.

        Raises:
            InputError: If it can't be made.
        """
        self._prompt_cache = PromptCache(folder)

    def disable_prompt_cache(self) -> None:
        """Encode every prompt again."""
        self._prompt_cache = None

    @property
    def _encodes_text(self) -> bool:
        has_encoder = self.text_encoder is not None or self._text_source is not None
        return has_encoder and self.tokenizer is not None

    @functools.cached_property
    def _text_fingerprint(self) -> Fingerprint:
        return Fingerprint()

    def _encoded(
        self, texts: list[str], length: int, device: torch.device, dtype: torch.dtype
    ) -> TextFeatures:
        """Features (B, length, D) and mask (B, length) of texts."""
        ids, mask = tokenized(self.tokenizer, texts, length)
        encoder = None if self._prompt_cache is None else self._fingerprint()

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            model = self._text_encoder()
            if encoder is not None and self._text_fingerprint.of(model) != encoder:
                raise LTXError("the text encoder's files were changed while it was loaded", fix="try again")
            return features_of(model, ids, mask, device)

        if encoder is None:
            embeds = encode(ids, mask)
        else:
            embeds = self._prompt_cache.features(encoder, ids, mask, encode)
        return TextFeatures(embeds.to(device, dtype), mask.to(device).bool())

    def _text_encoder(self) -> nn.Module:
        """The encoder, loaded if it isn't there."""
        if self.text_encoder is None:
            if self._text_source is None:
                raise no_text_encoder()
            files = (
                self._text_source.identity()
            )  # before they are read: if they change meanwhile, it is never found
            loaded = self._text_source.load()
            if self._prompt_cache is not None:
                self._prompt_cache.remember_files(files, self._text_fingerprint.of(loaded))
            self.register_modules(text_encoder=loaded.to(self._execution_device))
            self._own_encoder = weakref.ref(loaded)
        return self.text_encoder

    def _fingerprint(self) -> str | None:
        """Of the encoder, from its files if it isn't loaded; None where prompts can't be kept."""
        if self.text_encoder is None and self._text_source is not None:
            known = self._prompt_cache.fingerprint_of_files(self._text_source.identity())
            if known is not None:
                return known
        encoder = self._text_encoder()
        if encoder.training:
            return None  # dropout: a text has many features
        found = self._text_fingerprint.of(encoder)
        if found is None:
            warn_once("Prompts aren't kept on disk: the text encoder's weights are offloaded one by one.")
        return found

    def _release_text_encoder(self) -> None:
        """Free the encoder if that is the rule, and it is the one that was loaded from where it can be had again."""
        encoder = self.text_encoder
        if self._text_keeping == "always" or encoder is None or encoder is not self._own_encoder():
            return
        if hasattr(encoder, "_hf_hook"):
            return  # Diffusers' offloading moves it
        device = next(encoder.parameters()).device
        if self._text_keeping == "auto" and free_memory(device) >= encoder.get_memory_footprint():
            return
        self.text_encoder = None
        del encoder
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save the pipeline as Diffusers does, with its text encoder also where that isn't loaded."""
        if self._text_source is not None:
            self._text_encoder()
        try:
            return super().save_pretrained(*args, **kwargs)
        finally:
            self._release_text_encoder()

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> Self:
        """A pipeline around another one's components, as in Diffusers; the ways to keep text go with them."""
        made = super().from_pipe(pipeline, **kwargs)
        if isinstance(pipeline, KeepsTextEncoder) and PART not in kwargs:
            for name in ("_text_source", "_text_keeping", "_prompt_cache", "_own_encoder"):
                setattr(made, name, getattr(pipeline, name))
        return made
