"""Model cards: front matter that the Hub reads, and what a user wants to know. Nothing is claimed that isn't known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from .contents import COMPONENT, DIFFUSERS, LORA, OFFICIAL, PIPELINE
from .facts import CardFacts, Figure, Gathered
from .inspection import Component, inspect_model
from .layouts import SCHEDULER_FILE, ModelFolder
from .sources import COMPONENT_FILE
from .usage import usage

DEFAULT_PROMPT = "A red kite rises over a beach in the evening light, waves roll in, the camera follows it."

_LORA_SETTINGS = ("rank", "alpha", "layers")
_IMAGE_TO_VIDEO = "LTXImageToVideoPipeline"


@dataclass(frozen=True)
class Card:
    """A card and what it lacks.

    Attributes:
        text: Content of README.md.
        notes: What its author should add, in a sentence each.
    """

    text: str
    notes: tuple[str, ...]


def make_card(
    folder: ModelFolder,
    repository: str,
    layout: str,
    gathered: Gathered,
    *,
    inherited: Mapping[str, str] | None = None,
    file: str | None = None,
) -> Card:
    """The card of a model or a LoRA.

    Args:
        folder: The model.
        repository: Where it is uploaded to, `owner/name`.
        layout: In which layout.
        gathered: What is known about it.
        inherited: License, license_name and license_link of the base model's card, for a card that states none.
        file: For the official layout: the name of the weights' file.

    Raises:
        InputError: If it is a LoRA and nothing says which model it belongs to.
    """
    facts = gathered.facts
    if folder.contents.kind == LORA and facts.base_model is None:
        raise InputError(
            "nothing says which model this LoRA belongs to",
            fix="give --base-model OWNER/NAME, or write base_model into card.yaml",
        )
    notes = []
    licence = {key: value for key in _LICENCE if (value := getattr(facts, key)) is not None}
    if not licence and inherited:
        licence = dict(inherited)
        notes.append(
            f"the licence is that of {facts.base_model}: {licence.get('license_name', licence['license'])}"
        )
    if "license" not in licence:
        notes.append("no licence is stated; give --license")
    if not gathered.samples:
        notes.append("no sample videos; give --sample, or put some into samples/")
    prompt = facts.prompt or DEFAULT_PROMPT
    weights = folder.contents.weights
    body = [
        f"# {facts.title or repository.partition('/')[2]}",
        facts.description or _description(folder, layout, facts),
        "## Use",
        usage(
            folder.contents,
            layout,
            repository,
            prompt=prompt,
            base_model=facts.base_model,
            settings=settings_of(folder),
            file=file or next(iter(weights), None),
            text_encoder=repository
            if any(name.startswith("text_encoder/") for name in folder.files)
            else None,
        ),
        _samples(gathered),
        _parts(folder, gathered.adapters),
        _training(facts),
        _figures(facts.figures),
        _licence(licence),
    ]
    front = _front_matter(folder, layout, gathered, licence)
    text = f"---\n{front}---\n\n" + "\n\n".join(part for part in body if part) + "\n"
    return Card(text, tuple(notes))


_LICENCE = ("license", "license_name", "license_link")


def settings_of(folder: ModelFolder) -> dict[str, dict[str, Any]]:
    """Configs of a pipeline's transformer, VAE and scheduler, as our classes have them."""
    from ..models.recorded import with_recorded

    if folder.contents.kind != PIPELINE:
        return {}
    files = {"transformer": COMPONENT_FILE, "vae": COMPONENT_FILE, "scheduler": SCHEDULER_FILE}
    return {part: with_recorded(folder.json(f"{part}/{file}")) for part, file in files.items()}


def _front_matter(folder: ModelFolder, layout: str, gathered: Gathered, licence: Mapping[str, str]) -> str:
    from huggingface_hub import ModelCardData

    facts, contents = gathered.facts, folder.contents
    tags = ["ltx-video", "ltx-diffusers", *(["lora"] if contents.kind == LORA else [])]
    extra: dict[str, Any] = {}
    if facts.base_model is not None:
        extra["base_model_relation"] = "adapter" if contents.kind == LORA else "finetune"
    widget = [
        {"text": sample.prompt, "output": {"url": name}}
        for name, sample in gathered.samples.items()
        if sample.prompt
    ]
    if widget:
        extra["widget"] = widget
    if facts.trigger:
        extra["instance_prompt"] = facts.trigger  # the Hub's page shows it
    data = ModelCardData(
        **licence,
        library_name="diffusers" if layout == DIFFUSERS else "ltx-diffusers",
        pipeline_tag=_pipeline_tag(folder),
        base_model=facts.base_model,
        tags=[*tags, *(tag for tag in facts.tags if tag not in tags)],
        language=facts.language or None,
        datasets=facts.datasets or None,
        **extra,
    )
    return data.to_yaml(line_break="\n") + "\n"


def _pipeline_tag(folder: ModelFolder) -> str | None:
    contents = folder.contents
    if contents.kind == COMPONENT and contents.part != "transformer":
        return None  # the Hub has no task for autoencoders and upsamplers
    if contents.kind == PIPELINE and not contents.makes_videos:
        return "video-to-video"
    is_animation = contents.index.get("_class_name") == _IMAGE_TO_VIDEO
    return "image-to-video" if is_animation else "text-to-video"


def _description(folder: ModelFolder, layout: str, facts: CardFacts) -> str:
    """One sentence that is true of every such upload."""
    base = f"[{facts.base_model}](https://huggingface.co/{facts.base_model})"
    contents = folder.contents
    if contents.kind == LORA:
        return f"A LoRA for {base}." + (f" Begin prompts with `{facts.trigger}`." if facts.trigger else "")
    what = {
        PIPELINE: "A text-to-video and image-to-video model with the structure of LTX-Video"
        if contents.makes_videos
        else "An upsampler of LTX-Video's latents",
        COMPONENT: f"A {(contents.part or '').replace('_', ' ')} with the structure of LTX-Video's",
    }.get(contents.kind, "A checkpoint of LTX-Video")
    how = {
        DIFFUSERS: "in the layout of Diffusers",
        OFFICIAL: "as an official single file",
    }.get(layout, "in the layout of ltx-diffusers")
    return f"{what}{f', made from {base}' if facts.base_model else ''}, {how}."


def _samples(gathered: Gathered) -> str:
    if not gathered.samples:
        return ""
    rows = [
        [f"[{Path(name).name}]({name})", sample.prompt or ""] for name, sample in gathered.samples.items()
    ]
    gallery = "<Gallery />\n\n" if any(sample.prompt for sample in gathered.samples.values()) else ""
    return f"## Samples\n\n{gallery}{_table(('video', 'prompt'), rows)}"


def _parts(folder: ModelFolder, adapters: Mapping[str, Any]) -> str:
    if folder.contents.kind == LORA:
        rows = [[key, adapters[key]] for key in _LORA_SETTINGS]
        return f"## The adapter\n\n{_table(('setting', 'value'), rows)}"
    if folder.contents.kind not in (PIPELINE, COMPONENT):
        return ""
    components = inspect_model(str(folder.path)).components
    rows = [_component_row(component) for component in components]
    return f"## What is in it\n\n{_table(('component', 'class', 'parameters', 'dtype'), rows)}"


def _component_row(component: Component) -> list[object]:
    millions = "" if component.parameters is None else f"{component.parameters / 1e6:,.2f} M"
    return [component.name, component.class_name or "", millions, ", ".join(component.dtypes)]


def _training(facts: CardFacts) -> str:
    if not facts.training:
        return ""
    text = yaml.safe_dump(facts.training, sort_keys=False, allow_unicode=True, width=100)
    return f"## Training\n\n```yaml\n{text}```"


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    rows = [
        [figure.name, _number(figure), f"`{figure.command}`" if figure.command else ""] for figure in figures
    ]
    return f"## Figures\n\n{_table(('what', 'measured', 'command'), rows)}"


def _number(figure: Figure) -> str:
    if isinstance(figure.value, str):
        return f"{figure.value} {figure.unit}".strip()
    if figure.unit == "share":
        return f"{100 * figure.value:.1f} %"
    return f"{figure.value:.4g} {figure.unit}".strip()


def _licence(licence: Mapping[str, str]) -> str:
    if "license" not in licence:
        return ""
    name = licence.get("license_name") or licence["license"]
    link = licence.get("license_link")
    return f"## Licence\n\n{f'[{name}]({link})' if link else name}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple, set)) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
