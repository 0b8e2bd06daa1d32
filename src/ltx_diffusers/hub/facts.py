"""What a model card says, gathered from what lies in and beside a model's folder. Nothing is made up.

A file `card.yaml` in the folder states what nothing else does, and overrides the rest; an earlier card tells licence
and base model. A run folder of `ltx-diffusers
train` tells the training config and has validation videos; reports of `ltx-diffusers evaluate` have figures; videos
tell their prompts; adapters tell their rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InputError, LTXError, MediaError
from .contents import ADAPTER_CONFIG, CARD, LORA, SAMPLES
from .layouts import ModelFolder, is_repository_name

FACTS_FILE = "card.yaml"
VIDEO_SUFFIXES = (".mp4", ".webm", ".gif")

_MAX_SAMPLES = 4
_RUN_CONFIG = "config.yaml"
_REPORTS = ("shapes.json", "evaluation/shapes.json")


class Figure(BaseModel):
    """A measured number.

    Attributes:
        name: What was measured.
        value: The number; shares are numbers from 0 to 1 with the unit "share".
        unit: Its unit.
        command: The command that shows it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    value: float | str
    unit: str = ""
    command: str | None = None


class CardFacts(BaseModel):
    """What a card says beyond what the model's files tell; the content of `card.yaml`.

    Attributes:
        title: Its heading; the repository's name if None.
        description: A paragraph or more of Markdown.
        base_model: Repository that the model was made from, or that a LoRA is for.
        license: An identifier of the Hub, such as "apache-2.0", or "other" with the next two.
        license_name: The licence's own name.
        license_link: Where it can be read: an address, or a file of the repository.
        language: Language codes of the prompts.
        datasets: Data sets of the Hub that it was trained on.
        tags: Further tags.
        prompt: The prompt of the usage code.
        trigger: What prompts begin with that call for a LoRA.
        training: Facts of the training, by name.
        figures: Measured numbers.
        samples: Video files to show, by their paths from the folder, with their prompts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str | None = None
    description: str | None = None
    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: list[str] = Field(default_factory=list)
    datasets: list[str] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)
    prompt: str | None = None
    trigger: str | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    figures: list[Figure] = Field(default_factory=list)
    samples: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A video that the card shows: its file, and its prompt if it is known."""

    path: Path
    prompt: str | None


@dataclass(frozen=True)
class Gathered:
    """Facts with everything found, and where what was found comes from.

    Attributes:
        facts: What is stated, and what was found where nothing is stated.
        samples: Videos to upload, by their names in the repository.
        adapters: For a LoRA: its settings, from its metadata or its `adapter_config.json`.
    """

    facts: CardFacts
    samples: dict[str, Sample]
    adapters: dict[str, Any]


def gather(folder: ModelFolder, stated: CardFacts | None = None) -> Gathered:
    """Everything that a folder's card can say.

    Args:
        folder: The model.
        stated: Facts that override those of `card.yaml`.

    Raises:
        InputError: If `card.yaml` can't be used.
        MediaError: If a sample that was asked for is missing or isn't a video.
    """
    facts = read_facts(folder.path / FACTS_FILE, front_matter(folder.path / CARD))
    if stated is not None:
        facts = facts.model_copy(update=stated.model_dump(exclude_defaults=True))
        facts = CardFacts.model_validate(facts.model_dump())
    adapters = _adapters(folder) if folder.contents.kind == LORA else {}
    samples = _samples(folder, facts)
    found = {
        "base_model": facts.base_model or _base_model(folder, adapters),
        "training": facts.training or _training(folder.path),
        "figures": facts.figures or _figures(folder.path),
        "prompt": facts.prompt or next((sample.prompt for sample in samples.values() if sample.prompt), None),
    }
    return Gathered(facts.model_copy(update=found), samples, adapters)


def read_facts(path: Path, earlier: Mapping[str, Any] | None = None) -> CardFacts:
    """The facts of a `card.yaml`; empty ones if there is none.

    Args:
        path: The file.
        earlier: Front matter of an earlier card, for what the file doesn't state.

    Raises:
        InputError: If it isn't YAML, or has unknown or unusable entries.
    """
    content: Any = {}
    if path.is_file():
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path} isn't YAML", got=" ".join(str(error).split())) from None
    facts = check_facts(content, str(path))
    known = {key: value for key, value in (earlier or {}).items() if _is_kept(key, value)}
    if facts.license is not None:
        known = {key: value for key, value in known.items() if not key.startswith("license")}
    return check_facts(known | facts.model_dump(exclude_defaults=True), str(path))


def front_matter(path: Path) -> dict[str, Any]:
    """The front matter of a card; {} if there is no such file or it has none.

    Raises:
        InputError: If it isn't a mapping in YAML.
    """
    if not path.is_file():
        return {}
    try:
        match = re.match(r"---\s*\n(.*?\n)---\s*(\n|$)", path.read_text(encoding="utf-8"), re.DOTALL)
        content = yaml.safe_load(match[1]) if match else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"the front matter of {path} isn't YAML", got=" ".join(str(error).split())) from None
    if not isinstance(content, dict | None):
        raise InputError(f"the front matter of {path} isn't a mapping", got=type(content).__name__)
    return content or {}


def _is_kept(key: str, value: Any) -> bool:
    """Whether an earlier card's entry is used for a new one: what nothing but its author can tell."""
    if key in ("language", "datasets"):
        return isinstance(value, list)
    return key in ("base_model", "license", "license_name", "license_link") and isinstance(value, str)


def check_facts(content: Any, source: str) -> CardFacts:
    """Facts from a mapping.

    Args:
        content: The mapping.
        source: What it is, for the message.

    Raises:
        InputError: If it has unknown or unusable entries.
    """
    try:
        return CardFacts.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise InputError(
            f"{source} can't be used: {where}: {first['msg']}",
            expected=f"keys {', '.join(CardFacts.model_fields)}",
        ) from None


def _samples(folder: ModelFolder, facts: CardFacts) -> dict[str, Sample]:
    """Videos by their names in the repository: those asked for, else those in samples/, else of the last validation."""
    if facts.samples:
        wanted = {folder.path / path: prompt for path, prompt in facts.samples.items()}
    else:
        candidates = _videos(folder.path / SAMPLES)
        if not candidates and _is_run(folder.path.parent):
            validations = sorted(
                (folder.path.parent / "validation").glob("*/"),
                key=lambda each: (each.name == "final", each.name),
            )
            candidates = _videos(validations[-1])[:_MAX_SAMPLES] if validations else []
        wanted = dict.fromkeys(candidates, "")
    samples: dict[str, Sample] = {}
    for path, prompt in wanted.items():
        if path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
            raise MediaError(
                "a sample must be a video file", got=str(path), expected=" or ".join(VIDEO_SUFFIXES)
            )
        name = f"{SAMPLES}/{path.name}"
        if name in samples:
            raise MediaError("two samples have the same file name", got=path.name)
        samples[name] = Sample(path, prompt or _prompt_of(path))
    return samples


def _videos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in VIDEO_SUFFIXES)


def _prompt_of(path: Path) -> str | None:
    """The prompt that a video was made with, if it tells: `generate` and validation write it into the file."""
    from ..data.video import read_metadata

    try:
        prompt = read_metadata(path).get("prompt")
    except LTXError:  # a video without any is a video all the same
        return None
    return prompt if isinstance(prompt, str) else None


def _base_model(folder: ModelFolder, adapters: Mapping[str, Any]) -> str | None:
    """The repository that the model was loaded from before it was trained or changed."""
    names = [adapters.get("base_model_name_or_path")]
    for config in ("model_index.json", "transformer/config.json", "config.json"):
        names.append(folder.json(config).get("_name_or_path"))
    return next((name for name in names if isinstance(name, str) and is_repository_name(name)), None)


def _adapters(folder: ModelFolder) -> dict[str, Any]:
    """What a LoRA of any format is: rank, alpha, layers; and the model that it says it is for."""
    from ..conversion.lora.files import read_lora

    layers = read_lora(folder.path).layers
    blocks = sorted({re.sub(r"^transformer_blocks\.\d+\.", "", name) for name in layers})
    return {
        "rank": _span(layer.rank for layer in layers.values()),
        "alpha": _span(layer.alpha for layer in layers.values()),
        "layers": f"{len(layers)}: {', '.join(blocks)}",
        "base_model_name_or_path": folder.json(ADAPTER_CONFIG).get("base_model_name_or_path"),
    }


def _span(values: Iterable[float]) -> str:
    """A number, or the least and the greatest of several."""
    numbers = sorted(set(values))
    return " to ".join(f"{number:g}" for number in dict.fromkeys((numbers[0], numbers[-1])))


def _training(folder: Path) -> dict[str, Any]:
    """The config of the run that made the model, without the places where its files lie."""
    config = folder.parent / _RUN_CONFIG
    if not _is_run(folder.parent) or folder.name != "model":
        return {}
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return _without_paths(values) if isinstance(values, dict) else {}


def _is_run(folder: Path) -> bool:
    """Whether this is a folder that `ltx-diffusers train` has written."""
    return (folder / _RUN_CONFIG).is_file() and (folder / "checkpoints").is_dir()


def _without_paths(values: Any) -> Any:
    """A config without paths and without what isn't set."""
    if isinstance(values, dict):
        kept = {key: _without_paths(value) for key, value in values.items()}
        return {key: value for key, value in kept.items() if value not in (None, {}) and key != "output"}
    if isinstance(values, str) and (Path(values).is_absolute() or Path(values).expanduser().exists()):
        return None
    return values


def _figures(folder: Path) -> list[Figure]:
    """The figures of an evaluation's report in the folder."""
    for name in _REPORTS:
        try:
            report = json.loads((folder / name).read_text(encoding="utf-8"))
            command = report.get("settings", {}).get("command")
            return [
                Figure(
                    name=f"{entry['part']}: {entry['name'].replace('_', ' ')}",
                    value=entry["value"],
                    unit=entry["unit"],
                    command=command,
                )
                for entry in report["figures"]
            ]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{folder / name} isn't a report of `ltx-diffusers evaluate`", got=type(error).__name__
            ) from None
    return []
