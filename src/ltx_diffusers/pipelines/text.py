"""Text to features: T5 with its mask, padded to one length."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ..denoising.velocity import TextFeatures

logger = logging.getLogger(__name__)


def encode_texts(
    tokenizer: Any,
    text_encoder: torch.nn.Module,
    texts: list[str],
    *,
    max_length: int,
    device: torch.device | str,
    dtype: torch.dtype,
    warn_of_cuts: bool = True,
) -> TextFeatures:
    """Features of prompts, each padded or cut to `max_length` tokens.

    The encoder gets the mask, as in training, so that padding doesn't leak into the features of the text
    (Diffusers' LTX pipelines leave it out). A prompt that is cut is reported with what was lost, if `warn_of_cuts`.

    Returns:
        Features (B, max_length, D) and mask (B, max_length), bool.
    """
    ids, mask = tokenized(tokenizer, texts, max_length, warn_of_cuts)
    embeds = features_of(text_encoder, ids, mask, device)
    return TextFeatures(embeds.to(device=device, dtype=dtype), mask.to(device).bool())


def tokenized(
    tokenizer: Any, texts: list[str], max_length: int, warn_of_cuts: bool = True
) -> tuple[Tensor, Tensor]:
    """Tokens and mask (B, max_length) of texts, on the CPU; see `encode_texts`."""
    tokens = tokenizer(
        texts,
        padding="max_length",
        max_length=max_length,
        truncation=True,
        add_special_tokens=True,
        return_tensors="pt",
    )
    if warn_of_cuts:
        _warn_of_cuts(tokenizer, texts, max_length)
    return tokens.input_ids, tokens.attention_mask


def features_of(
    text_encoder: torch.nn.Module, ids: Tensor, mask: Tensor, device: torch.device | str
) -> Tensor:
    """Features (B, T, D) of tokens (B, T), in the encoder's dtype."""
    return text_encoder(ids.to(device), attention_mask=mask.to(device))[0]


def repeat_features(text: TextFeatures, times: int) -> TextFeatures:
    """Each text `times` in a row, for several videos per prompt: (B, ...) to (B * times, ...)."""
    return TextFeatures(
        text.embeds.repeat_interleave(times, dim=0), text.mask.repeat_interleave(times, dim=0)
    )


def _warn_of_cuts(tokenizer: Any, texts: list[str], max_length: int) -> None:
    # The last of `max_length` tokens is the end mark, and so is the last of the whole text.
    whole = tokenizer(texts, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
    for text, ids in zip(texts, whole, strict=True):
        if len(ids) > max_length:
            lost = tokenizer.decode(ids[max_length - 1 : -1], skip_special_tokens=True)
            logger.warning(
                "A prompt of %d tokens was cut to max_sequence_length=%d. Lost: %r (prompt: %r)",
                len(ids),
                max_length,
                lost,
                text if len(text) <= 60 else text[:57] + "...",
            )
