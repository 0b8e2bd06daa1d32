"""Features of texts by an encoder that isn't trained: computed once for each text, or read from disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..denoising.velocity import TextFeatures
from .latent_store import LatentStore

_REMEMBERED_BYTES = 2**31


class FrozenTexts:
    """Features of texts, remembered up to a limit.

    Args:
        tokenizer: Of the encoder.
        text_encoder: The encoder.
        length: Longest text in tokens.
        remembered_bytes: How much memory the features may take; the oldest go first.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: PreTrainedModel,
        length: int,
        remembered_bytes: int = _REMEMBERED_BYTES,
    ) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.length = length
        self._limit = remembered_bytes
        self._bytes = 0
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def of(self, texts: Sequence[str]) -> list[Tensor]:
        """Features (T, D) of the tokens of each text, without padding, on the CPU."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = {text: self._known[text] for text in texts if text in self._known}
        if new:
            found |= self._encode(new)
            for text in new:
                self._remember(text, found[text])
        return [found[text] for text in texts]

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt"
        )
        device = self.text_encoder.device
        mask = tokens.attention_mask.to(device)
        features = self.text_encoder(input_ids=tokens.input_ids.to(device), attention_mask=mask)[0]
        rows = zip(features.cpu(), tokens.attention_mask.bool(), strict=True)
        return {text: row[kept].clone() for text, (row, kept) in zip(texts, rows, strict=True)}

    def _remember(self, text: str, features: Tensor) -> None:
        self._known[text] = features
        self._bytes += features.nbytes
        while self._bytes > self._limit and len(self._known) > 1:
            self._bytes -= self._known.popitem(last=False)[1].nbytes


class StoredTexts:
    """Features of texts that `ltx-diffusers precompute` has encoded; no encoder is needed.

    Args:
        store: Has them: of its samples' captions, of the empty text, and of the prompts that it was asked for.
    """

    def __init__(self, store: LatentStore) -> None:
        self.store = store

    def of(self, texts: Sequence[str]) -> list[Tensor]:
        """Features (T, D) of the tokens of each text, without padding; the empty text and asked-for prompts only.

        Raises:
            InputError: If one wasn't encoded.
        """
        found = []
        for text in texts:
            embeds, mask = self.store.text(text)
            found.append(embeds[mask])
        return found


def padded(features: Sequence[Tensor]) -> TextFeatures:
    """Features (T, D) of several texts as one batch, padded to the longest.

    Returns:
        Features (B, T, D) and mask (B, T), bool.
    """
    mask = [torch.ones(len(each), dtype=torch.bool) for each in features]
    return TextFeatures(pad_sequence(list(features), batch_first=True), pad_sequence(mask, batch_first=True))
