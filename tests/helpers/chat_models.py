"""Tiny random chat models, of text and of pictures, that write prompts out."""

from __future__ import annotations

import re

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from ltx_diffusers import PromptEnhancer
from ltx_diffusers.pipelines.prompt_enhancement import IMAGE_INSTRUCTIONS, TEXT_INSTRUCTIONS

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<image> {% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %} <eos> {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + TEMPLATE
)


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Words of the instructions and a few more."""
    marks = ["<pad>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>", "<image>"]
    words = re.findall(r"\w+|[^\w\s]+", f"{TEXT_INSTRUCTIONS} {IMAGE_INSTRUCTIONS} red blue kite")
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*marks, *words]))}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=marks[3:],
        chat_template=template,
    )


def language_config(words: PreTrainedTokenizerFast) -> LlamaConfig:
    """One layer of width 16."""
    return LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        initializer_range=1.0,
    )


def text_enhancer(template: str | None = TEMPLATE, **settings) -> PromptEnhancer:
    """A language model that says twelve words."""
    words = tokenizer(template)
    torch.manual_seed(0)
    model = LlamaForCausalLM(language_config(words)).eval()
    model.lm_head.weight.data[: len(words.all_special_ids)] = 0  # it speaks words, no marks
    return PromptEnhancer(model, words, **{"max_new_tokens": 12, **settings})


def image_enhancer() -> PromptEnhancer:
    """One that also sees pictures."""
    words = tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        projection_dim=16,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language_config(words),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
        words,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    return PromptEnhancer(LlavaForConditionalGeneration(config).eval(), processor, max_new_tokens=12)
