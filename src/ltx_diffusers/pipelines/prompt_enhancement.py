"""Prompts written out by a chat model, as an option: LTX-Video follows long, literal descriptions best.

Any chat model of transformers will do, of text or of pictures and text; the caller chooses it. Nothing here runs
unless it is asked for. The official pipeline does the same with two fixed models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from diffusers.utils import logging
from jinja2.exceptions import TemplateError
from PIL import Image

from ..errors import InputError
from .images import as_pil, split_images

logger = logging.get_logger(__name__)

WORD_LIMIT = 150
"""Words that the model is asked to keep to: they fit the 256 tokens of text that the released models read."""

TEXT_INSTRUCTIONS = f"""\
You turn a short idea for a video clip of a few seconds into the description that a video model draws it from.
Write one paragraph in the present tense, in the order in which things happen, and only what a camera would see:
1. who or what acts, and the main movement, in the first sentence;
2. how they move and what they look like: clothes, colours, materials, faces;
3. the place behind them;
4. how the camera stands or moves, and the light.
Keep every fact of the idea; add none that contradicts it, no sound, no feelings, no text on screen, no cuts.
At most {WORD_LIMIT} words. Answer with the paragraph alone, without a title, a list or quotation marks."""

IMAGE_INSTRUCTIONS = f"""\
The picture is the first frame of a video clip of a few seconds, and the text says what shall happen in it.
Write the description that a video model draws the clip from: one paragraph in the present tense.
Begin with what the picture shows, as it is there, even where the text says otherwise; go on with how it starts to
move and what happens then, in order; end with the camera and the light.
Only what a camera would see; nothing that can't follow from the picture, no sound, no text on screen, no cuts.
At most {WORD_LIMIT} words. Answer with the paragraph alone, without a title, a list or quotation marks."""


_QUOTATION_MARKS = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"


class Enhancer(Protocol):
    """Anything that rewrites prompts; `PromptEnhancer` is one, a function will do."""

    def __call__(self, prompts: list[str], images: list[Any] | None = None) -> list[str]:
        """As many prompts as are given.

        Args:
            prompts: What the user wrote.
            images: The first frame of each video, None where there is none; None for no pictures at all.
        """
        ...


class PromptEnhancer:
    """Writes prompts out with a chat model of transformers.

    The likeliest answer is taken, so that the same prompt gives the same text, unless there is a temperature. Prompts
    are answered one by one: each gets what it would get alone.

    Args:
        model: A model with `generate`; where it is, the texts go.
        processor: Its tokenizer, or the processor of a model that also reads pictures; it has a chat template.
        text_instructions: System prompt where there is no picture.
        image_instructions: System prompt where there is one.
        max_new_tokens: Longest answer.
        temperature: 0 for the likeliest answer; above, answers are drawn, by `seed`.
        seed: Of the draws, the same for each prompt.

    Raises:
        InputError: If the processor has no chat template, or a number is out of range.

    Example:
        >>> enhance = PromptEnhancer.from_pretrained("Qwen/Qwen3-4B-Instruct-2507", dtype=torch.bfloat16)
        >>> enhance("a red kite over the sea")
        >>> pipe(prompt="a red kite over the sea", prompt_enhancer=enhance)
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        text_instructions: str = TEXT_INSTRUCTIONS,
        image_instructions: str = IMAGE_INSTRUCTIONS,
        max_new_tokens: int = 400,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        tokenizer = getattr(processor, "tokenizer", processor)
        if not (getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)):
            raise InputError(
                "the prompt can be written out by a chat model only",
                got=f"{type(processor).__name__} without a chat template",
                fix="use an instruction-tuned model",
            )
        if max_new_tokens < 1 or not 0 <= temperature < float("inf"):
            raise InputError(
                "max_new_tokens must be at least 1, and temperature at least 0",
                got=f"{max_new_tokens} and {temperature}",
            )
        self.model, self.processor = model, processor
        self.text_instructions, self.image_instructions = text_instructions, image_instructions
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **settings: Any,
    ) -> Self:
        """Load a chat model.

        Args:
            name: A folder, or a repository on the Hub.
            device: Where the model goes; the CPU if None.
            dtype: Its precision; as the files say if None.
            **settings: As the class takes them.

        Raises:
            InputError: If there is no such model, it can't write texts, or it isn't a chat model.
        """
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForImageTextToText,
            AutoProcessor,
            AutoTokenizer,
        )

        try:
            config = AutoConfig.from_pretrained(name)
            reads_images = hasattr(config, "vision_config")
            processor = (AutoProcessor if reads_images else AutoTokenizer).from_pretrained(name)
            kind = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
            model = kind.from_pretrained(name, dtype="auto" if dtype is None else dtype)
        except (OSError, ValueError, KeyError) as problem:
            first_line = str(problem).strip().partition("\n")[0]
            raise InputError(f"the chat model {name} can't be loaded", got=first_line[:300]) from problem
        return cls(model.to(device or "cpu").eval(), processor, **settings)

    @property
    def reads_images(self) -> bool:
        """Whether the model takes pictures."""
        return getattr(self.processor, "image_processor", None) is not None

    def to(self, device: torch.device | str) -> Self:
        """Move the model, for example off the GPU while a video is made."""
        self.model.to(device)
        return self

    def __call__(self, prompts: str | list[str], images: Any = None) -> Any:
        """Write prompts out.

        Args:
            prompts: One text or a list.
            images: The first frame of each video, in any form that the pipelines take; one for all, or a list with
                one or None for each. A model of text alone does without them.

        Returns:
            A text, or a list if a list was given.

        Raises:
            InputError: If numbers don't fit, something isn't a text or a picture, or the model answers nothing.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError("a prompt to write out must be a text", got=repr(prompts))
        pictures = [None] * len(texts)
        if images is not None:
            given = images if isinstance(images, (list, tuple)) else [images] * len(texts)
            pictures = [None if image is None else _pil(image) for image in given]
        if len(pictures) != len(texts):
            raise InputError(
                "images must be one or one for each prompt", got=len(pictures), expected=len(texts)
            )
        if not self.reads_images:
            pictures = [None] * len(texts)
        pairs = list(zip(texts, pictures, strict=True))
        shown = logging.tqdm(pairs, desc="Writing prompts out", delay=1, leave=False)
        answers = [self._answer(text, picture) for text, picture in shown]
        return answers[0] if isinstance(prompts, str) else answers

    @torch.no_grad()
    def _answer(self, text: str, picture: Image.Image | None) -> str:
        instructions = self.text_instructions if picture is None else self.image_instructions
        inputs = self._inputs(instructions, text, picture).to(self.model.device)
        drawing = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self.temperature > 0:
            drawing = {"do_sample": True, "temperature": self.temperature}
        with _seeded(self.seed, self.model.device):
            output = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, **drawing)
        answer = output[0, inputs["input_ids"].shape[1] :]
        written = cleaned(self._tokenizer.decode(answer, skip_special_tokens=True))
        if len(answer) >= self.max_new_tokens:
            written = whole_sentences(written)
        if not written:
            raise InputError(
                "the chat model gave no prompt",
                got=f"nothing for {text!r}",
                fix="use another model, or raise max_new_tokens",
            )
        logger.info("The prompt %r was written out: %r", text, written)
        return written

    def _inputs(self, instructions: str, text: str, picture: Image.Image | None) -> Any:
        """The chat as tensors, with the instructions in the user's own words where a model knows no system."""
        separate = [_message("system", instructions, None, self.reads_images)]
        separate.append(_message("user", text, picture, self.reads_images))
        joined = [_message("user", f"{instructions}\n\n{text}", picture, self.reads_images)]
        options = {"enable_thinking": False} if not self.reads_images else {}

        def tensors(messages: list[dict[str, Any]]) -> Any:
            return self.processor.apply_chat_template(
                messages,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **options,
            )

        try:
            return tensors(separate)
        except TemplateError:
            return tensors(joined)


def enhanced_prompts(
    enhancer: Enhancer, prompt: str | list[str] | None, images: Sequence[Any] | None = None
) -> str | list[str]:
    """The prompts of a call, written out.

    Args:
        enhancer: What writes.
        prompt: The call's prompt or prompts.
        images: First frame of each prompt's video, None where there is none.

    Raises:
        InputError: If there is no prompt as a text, or the enhancer doesn't give a text for each.
    """
    _check_callable(enhancer)
    if prompt is None:
        raise InputError("prompt_enhancer needs the prompt as a text", got="prompt_embeds")
    texts = [prompt] if isinstance(prompt, str) else prompt
    pictures = list(images) if images is not None and any(image is not None for image in images) else None
    written = enhancer(list(texts), pictures)
    if not isinstance(written, list) or len(written) != len(texts) or not all(map(_is_text, written)):
        raise InputError("prompt_enhancer must give a list with a text for each prompt", got=repr(written))
    return written[0] if isinstance(prompt, str) else written


def asked_once(enhancer: Enhancer) -> Enhancer:
    """An enhancer that gives its first answer again, for a video that is made in several passes.

    Raises:
        InputError: If it isn't one.
    """
    _check_callable(enhancer)
    answers: list[list[str]] = []

    def enhance(prompts: list[str], images: list[Any] | None = None) -> list[str]:
        if not answers:
            answers.append(enhancer(prompts, images))
        return answers[0]

    return enhance


def _check_callable(enhancer: Any) -> None:
    if not callable(enhancer):
        raise InputError("prompt_enhancer must be a PromptEnhancer or a function", got=repr(enhancer))


def first_pictures(per_prompt: Sequence[Sequence[Any]], num_prompts: int) -> list[Any]:
    """The first frame of each prompt's video as far as conditions give it, None where they don't.

    Args:
        per_prompt: Conditions: one list for all prompts, or one for each.
        num_prompts: How many prompts there are.
    """
    pictures = []
    for entries in per_prompt:
        at_start = [
            entry
            for entry in entries
            if getattr(entry, "frame_index", None) == 0 and getattr(entry, "place", None) is None
        ]
        media = [split_images(entry.video if entry.image is None else entry.image)[0] for entry in at_start]
        pictures.append(media[0] if media else None)
    return pictures * num_prompts if len(pictures) == 1 else pictures


def cleaned(answer: str) -> str:
    """An answer as one paragraph, without what a model thought aloud and without quotation marks around it."""
    answer = re.sub(r"<think>.*?(</think>|\Z)", " ", answer, flags=re.DOTALL)
    answer = " ".join(answer.split())
    is_quoted = answer[:1] in _QUOTATION_MARKS and answer[-1:] in _QUOTATION_MARKS
    return answer.strip(_QUOTATION_MARKS).strip() if is_quoted else answer


def whole_sentences(text: str) -> str:
    """A text that was cut off, up to its last whole sentence; all of it if it has none."""
    end = max(text.rfind(mark) for mark in ".!?")
    return text if end < 0 else text[: end + 1]


def _is_text(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip())


def _message(role: str, text: str, picture: Image.Image | None, in_parts: bool) -> dict[str, Any]:
    """A message in the form of transformers' chat templates; models of pictures want its content in parts."""
    if not in_parts:
        return {"role": role, "content": text}
    parts: list[dict[str, Any]] = [] if picture is None else [{"type": "image", "image": picture}]
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def _pil(image: Any) -> Image.Image:
    pictures = split_images(image)
    if len(pictures) != 1:
        raise InputError("a prompt has one picture, its first frame", got=f"{len(pictures)} pictures")
    return as_pil(pictures[0])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global random numbers seeded, which transformers draws from, and left as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
