"""A small T5 encoder with a word tokenizer, for models trained from scratch on a small world."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from .config import check_settings

_PAD, _END, _UNKNOWN = "<pad>", "</s>", "<unk>"


def build_word_tokenizer(words: Sequence[str], max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are whole words, in lower case, with T5's special tokens and end mark.

    Args:
        words: The vocabulary; other words become `<unk>`.
        max_length: Longest text in tokens.
    """
    vocabulary = {word: index for index, word in enumerate([_PAD, _END, _UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_END}", special_tokens=[(_END, vocabulary[_END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_END,
        unk_token=_UNKNOWN,
        model_max_length=max_length,
        padding_side="right",
    )


def build_text_encoder(tokenizer: PreTrainedTokenizerFast, settings: dict[str, Any]) -> T5EncoderModel:
    """A T5 encoder with random weights for a tokenizer.

    Args:
        tokenizer: Gives the vocabulary.
        settings: Fields of `T5Config`.

    Raises:
        InputError: If it has no such field; the message names near ones.
    """
    # T5Config itself keeps unknown fields without a word.
    check_settings(settings, inspect.signature(T5Config.__init__).parameters, "text_encoder")
    config = T5Config(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **{"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, **settings},
    )
    return T5EncoderModel(config)
