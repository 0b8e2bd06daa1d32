"""Latents and text features on disk, written beforehand by `ltx-diffusers precompute` and read by the trainer.

A folder holds `samples.jsonl`, whose first line says what everything was made with and whose others are one sample
each, and the folders `latents` and `texts` of shards (see `tensor_shards`). `samples.jsonl` is written last and whole:
a folder without it isn't finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..geometry import VideoSize
from .clip_plan import piece_name
from .conditioning import Piece
from .fingerprints import key_of, text_fingerprint, vae_fingerprint
from .samples import GivenLatents, LatentSample
from .sources import Posterior
from .tensor_shards import ShardReader, shard_sizes

FORMAT = 1
"""Of the folder; another one is refused."""

SAMPLES_NAME = "samples.jsonl"
LATENTS_FOLDER, TEXTS_FOLDER, PARTS_FOLDER = "latents", "texts", "parts"

_AGAIN = "run `ltx-diffusers precompute` with the same arguments again; what is there already is kept"


class LatentStore:
    """Samples by number from a folder of precomputed latents.

    Nothing but the list of samples is kept in memory. Can be pickled.

    Args:
        folder: Where they are.
        header: First line of the list.
        lines: The samples, one JSON object each.

    Attributes:
        settings: What the latents were made with: `vae`, `text_encoder` (None without texts), `data`, `encoding`,
            `versions`.
        buckets: Numbers of the samples of each size; sizes in frames and pixels.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], lines: Sequence[bytes]) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = header["settings"]
        self._prompts: dict[str, list[str]] = header["prompts"]
        self._lines = lines
        self.buckets: dict[VideoSize, list[int]] = {}
        for number in range(len(lines)):
            self.buckets.setdefault(VideoSize(*self.record(number)["size"]), []).append(number)
        vae = self.settings["vae"]
        self._scale = torch.tensor(vae["deviation_scale"], dtype=torch.float32).view(-1, 1, 1, 1)
        self._latents = ShardReader(folder / LATENTS_FOLDER)
        self._texts = ShardReader(folder / TEXTS_FOLDER)

    @classmethod
    def open(cls, folder: str | Path, *, vae: torch.nn.Module | None = None) -> LatentStore:
        """The samples of a folder.

        Args:
            folder: Written by `ltx-diffusers precompute`.
            vae: The VAE that latents must be of; None doesn't check that.

        Raises:
            InputError: If there are none, they aren't finished or complete, or they are of another VAE.
        """
        folder = Path(folder)
        path = folder / SAMPLES_NAME
        try:
            first, *lines = path.read_bytes().splitlines()
            header = json.loads(first)
            known = header["format"]
        except OSError:
            unfinished = (folder / LATENTS_FOLDER).is_dir()
            raise InputError(
                f"the latents in {folder} aren't finished" if unfinished else f"{folder} has no latents",
                fix=_AGAIN if unfinished else "write them with `ltx-diffusers precompute SET -o FOLDER`",
            ) from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} is damaged", fix=_AGAIN) from None
        if known != FORMAT:
            raise InputError(
                f"{folder} was written by another version of this library",
                got=f"format {known}",
                expected=f"format {FORMAT}",
                fix="precompute into a new folder",
            )
        if len(lines) != header["samples"]:
            raise InputError(
                f"{path} is damaged",
                got=f"{len(lines)} samples",
                expected=header["samples"],
                fix=_AGAIN,
            )
        for name, sizes in header["shards"].items():
            found = shard_sizes(folder / name)
            wrong = [shard for shard, size in sizes.items() if found.get(shard) != size]
            if wrong:
                raise InputError(f"{folder / name / wrong[0]} is missing or cut short", fix=_AGAIN)
        store = cls(folder, header, lines)
        if vae is not None:
            store.check_vae(vae)
        return store

    @property
    def has_text(self) -> bool:
        """Whether samples come with their captions' features."""
        return self.settings["text_encoder"] is not None

    def check_vae(self, vae: torch.nn.Module) -> None:
        """Check that the latents are of a VAE. Raises `InputError` if they are of another."""
        _check_same("VAE", vae_fingerprint(vae), self.settings["vae"]["fingerprint"], self.folder)

    def check_text_encoder(self, tokenizer: Any, text_encoder: torch.nn.Module) -> None:
        """Check that the features are of a text encoder. Raises `InputError` if there are none, or of another."""
        made = self._text_settings()
        given = text_fingerprint(tokenizer, text_encoder, made["length"])
        _check_same("text encoder", given, made["fingerprint"], self.folder)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> LatentSample:
        """The sample of a number.

        Raises:
            InputError: If its file is gone or damaged.
        """
        record = self.record(number)
        posterior = self._posterior(record["latents"])
        embeds, mask = self._features(record["text"]) if "text" in record else (None, None)
        conditions = None
        if "conditions" in record:
            read = [(frame, self._posterior(place)) for frame, place in record["conditions"]]
            conditions = tuple(GivenLatents(frame, given.mean, given.deviation) for frame, given in read)
        return LatentSample(
            mean=posterior.mean,
            deviation=posterior.deviation,
            frame_rate=record["frame_rate"],
            caption=record["caption"],
            name=record["name"],
            text_embeds=embeds,
            text_mask=mask,
            references=tuple(self._posterior(place).mean for place in record.get("references", ())),
            reference_scale=self.settings["data"]["reference_scale"],
            mask=self._latents.read(*record["mask"])["mask"].float() if "mask" in record else None,
            conditions=conditions,
        )

    def view(self, number: int, view: Any) -> Posterior:
        """The posterior of a piece of a sample's clip that was encoded by itself.

        Args:
            number: Of the sample.
            view: `conditioning.Piece`.

        Raises:
            InputError: If it wasn't encoded.
        """
        known = self.record(number).get("pieces", {})
        name = piece_name(view.frame, view.frames) if isinstance(view, Piece) else repr(view)
        if name not in known:
            raise _no_piece(f"{name} of {self.describe(number)}")
        return self._posterior(known[name])

    def check_pieces(self, pieces: Iterable[Piece], size: VideoSize) -> None:
        """Check that pieces of all clips of a size were encoded. Raises `InputError` if one wasn't."""
        for number in self.buckets.get(size, ())[:1]:  # all clips of a size have the same
            known = self.record(number).get("pieces", {})
            for piece in pieces:
                if piece_name(piece.frame, piece.frames) not in known:
                    raise _no_piece(f"{piece.frames} frames from {piece.frame}")

    def describe(self, number: int) -> str:
        """The file that a sample comes from."""
        return self.record(number)["name"]

    def caption(self, number: int, rng: np.random.Generator | None = None) -> str:
        """The caption of a sample; it has one wording."""
        return self.record(number)["caption"]

    def record(self, number: int) -> dict[str, Any]:
        """All that is noted of a sample, as plain data."""
        return json.loads(self._lines[number])

    def text(self, caption: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (T, D) and mask (T,) of the empty caption, or of a prompt that was encoded besides, without padding.

        Raises:
            InputError: If the text wasn't encoded.
        """
        self._text_settings()
        if caption not in self._prompts:
            raise InputError(
                f"the text {caption[:60]!r} wasn't precomputed", fix="precompute it with --prompt"
            )
        return self._features(self._prompts[caption])

    def _text_settings(self) -> dict[str, Any]:
        if self.settings["text_encoder"] is None:
            raise InputError(f"{self.folder} holds no features of texts", fix="precompute without --no-text")
        return self.settings["text_encoder"]

    def _posterior(self, place: Sequence[str]) -> Posterior:
        stored = self._latents.read(*place)
        return Posterior(stored["mean"].float(), stored["deviation"].float() * self._scale)

    def _features(self, place: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        embeds = self._texts.read(*place)["embeds"].float()
        return embeds, torch.ones(embeds.shape[0], dtype=torch.bool)


def is_store(folder: Path) -> bool:
    """Whether `ltx-diffusers precompute` has written into a folder, be it finished or not."""
    return (folder / SAMPLES_NAME).is_file() or all(
        (folder / name).is_dir() for name in (LATENTS_FOLDER, PARTS_FOLDER)
    )


def text_key(fingerprint: str, caption: str) -> str:
    """The key of a caption's features, by the text encoder's fingerprint."""
    return key_of("text", fingerprint, caption)


def _no_piece(what: str) -> InputError:
    return InputError(
        "these latents have no such piece of a clip", got=what, fix="precompute it with --piece FIRST:FRAMES"
    )


def _check_same(what: str, given: str, stored: str, folder: Path) -> None:
    if given != stored:
        raise InputError(
            f"the latents in {folder} are of another {what}",
            got=f"{stored}, the model given is {given}",
            fix=f"precompute them with this {what}, into a new folder or the same one",
        )
