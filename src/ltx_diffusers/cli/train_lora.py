"""`ltx-diffusers train lora`: from a folder of clips to a LoRA with its card, and to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..data.media_clips import MediaClips
    from ..hub.facts import CardFacts

_EMBEDDED, _EMBEDDED_PRESET, _DEFAULT_PRESET = "embedded", "embedded", "2b-24gb"
_VARIATIONS = 4
"""Moments and crops of each picture or video that are encoded."""
_MOST_ENCODED = 4096
_MOST_HELD_OUT = 16


def command(
    data: Annotated[
        str,
        typer.Option(
            help="Folder, list or tars of clips with captions; a folder of `precompute`; or a reader's name."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    model: Annotated[
        str, typer.Option(help="embedded, a folder, a repository, or an official checkpoint file.")
    ] = _EMBEDDED,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="For a checkpoint file: folder or repository with T5 and its tokenizer."),
    ] = None,
    caption_prefix: Annotated[
        str | None, typer.Option(help="Put before every caption: the word that the LoRA is called by.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Settings for a model and a GPU: 2b-12gb, 2b-24gb, 2b-48gb, 2b-80gb, 13b-24gb, 13b-48gb, 13b-80gb or "
            "embedded. \\[default: 2b-24gb; for the embedded model embedded]",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Of the clips: WIDTHxHEIGHTxFRAMES; of `precompute`'s latents only that of the videos that are made. "
            "\\[default: the preset's; of latents their own]"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Of the adapter.")] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Make a video for this at validations and for the card; may be given again."),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="REPO", help="Upload the LoRA and its card to owner/name in the end."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    base_model: Annotated[
        str | None,
        typer.Option(help="For the card: repository of the model. \\[default: --model, if it is one]"),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Settings that replace the preset's, like adapter.dora=true."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of the run's folder.")
    ] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
) -> None:
    """Train a LoRA. It lies in OUTPUT/model, for Diffusers and for ComfyUI, with samples and a card."""
    from ..training.config import override_values, parse_config
    from ..training.transformer import TransformerTask
    from ..training.transformer_config import TransformerTrainConfig
    from .loading import hush
    from .setup import set_up
    from .train import run_training

    set_up()  # plugins may bring readers
    hush()
    repository = _check_hub(model, base_model, push_to_hub, private)
    values = _values(model, text_encoder, preset, size, data)
    values |= {"output": str(output)}
    given = {
        "steps": steps,
        "caption_prefix": None if caption_prefix is None else f"{caption_prefix.strip()} ",
    }
    values |= {key: value for key, value in given.items() if value is not None}
    if rank is not None:
        values["adapter"]["rank"] = rank
    if prompt:
        values["samples"] = {"prompts": prompt}
    _use_data(values, data, size)
    override_values(values, overrides or ())
    finished = run_training(TransformerTask, parse_config(TransformerTrainConfig, values), resume, threads)
    if finished is not None:
        _write_card(finished, repository, push_to_hub, private)


def _values(
    model: str, text_encoder: str | None, preset: str | None, size: str | None, data: str
) -> dict[str, Any]:
    """The preset's settings for the model; what is wrong with these two is said before anything is loaded."""
    from ..data.buckets import parse_clip_size
    from ..training.lora_presets import lora_preset
    from .loading import find_pipeline

    values = lora_preset(preset or (_EMBEDDED_PRESET if model == _EMBEDDED else _DEFAULT_PRESET))
    # A checkpoint file lacks a text encoder, which latents with texts don't need.
    if text_encoder is not None or not (Path(model).expanduser().is_file() and _has_texts(data)):
        find_pipeline(model, text_encoder)
    values |= {"initial_weights": model, "initial_text_encoder": text_encoder}
    if size is not None:
        wanted = parse_clip_size(size)
        values["data"] |= {"num_frames": wanted.frames, "height": wanted.height, "width": wanted.width}
    return values


def _has_texts(data: str) -> bool:
    """Whether the data are precomputed latents with features of their texts."""
    from ..training.latent_store import LatentStore, is_store

    path = Path(data).expanduser()
    return is_store(path) and LatentStore.open(path).has_text


def _use_data(values: dict[str, Any], data: str, size: str | None) -> None:
    """Settings for a set: its reader, how many of its clips are encoded, and how many are held out."""
    from ..data import data_readers
    from ..data.media_sets import reader_of
    from ..training.latent_store import is_store

    path = Path(data).expanduser()
    if is_store(path):
        values |= {"source": "latents", "latents": str(path)}
        if size is None:
            values["data"] |= _usual_size(path)
        return
    if not path.exists() and data in data_readers.list():
        values["data"]["reader"] = data
        return
    values["data"] |= {"reader": reader_of(path), "options": {"path": str(path)}}
    clips = _open(values["data"], "train")
    count, held_out = clips.num_entries, _held_out(values["data"])
    if count == 0:
        raise InputError(
            "the set has no clips to train on",
            got=data,
            fix="`ltx-diffusers data check` says what is wrong with it",
        )
    if clips.num_described < count:
        typer.echo(f"note: {count - clips.num_described} of {count} clips have no caption", err=True)
    if _VARIATIONS * count > _MOST_ENCODED:
        values["source"] = "on-the-fly"
    values |= {
        "cached_clips": _VARIATIONS * count,
        "validation_clips": min(held_out, _MOST_HELD_OUT),
        "validation_prompts": max(1, min(held_out, values["validation_prompts"])),
    }


def _usual_size(latents: Path) -> dict[str, int]:
    """The size that most videos of a folder of latents have; of pictures if there are no videos."""
    from ..training.latent_store import LatentStore

    buckets = LatentStore.open(latents).buckets
    size = max(buckets, key=lambda each: (each.frames > 1, len(buckets[each])))
    return {"num_frames": size.frames, "height": size.height, "width": size.width}


def _open(values: dict[str, Any], split: Literal["train", "held-out"]) -> MediaClips:
    from ..training.clips import open_clips
    from ..training.config import DataConfig, parse_config

    return open_clips(parse_config(DataConfig, values), split)


def _held_out(values: dict[str, Any]) -> int:
    """Pictures and videos that are held out."""
    try:
        return _open(values, "held-out").num_entries
    except InputError:
        return 0  # a set of one clip has none to hold out


def _check_hub(model: str, base_model: str | None, push_to_hub: str | None, private: bool) -> str | None:
    """The repository that the LoRA is for, if it is known; whether it can be pushed is checked now."""
    from ..hub.layouts import is_repository_name

    local = model == _EMBEDDED or Path(model).expanduser().exists()
    repository = base_model or (model if not local and is_repository_name(model) else None)
    if push_to_hub is None:
        return repository
    if repository is None:
        raise InputError("nothing says which model this LoRA belongs to", fix="give --base-model OWNER/NAME")
    from ..hub.client import Hub
    from ..hub.push import check_visibility

    hub = Hub(None)
    target = hub.look(hub.full_name(push_to_hub))
    check_visibility(target, private or None)
    hub.check_rights(target)
    return repository


def _write_card(folder: Path, repository: str | None, push_to_hub: str | None, private: bool) -> None:
    """Write the card into the LoRA's folder, and upload both if so wanted."""
    from ..hub.cards import make_card
    from ..hub.contents import CARD, NATIVE
    from ..hub.facts import CardFacts, gather
    from ..hub.layouts import read_folder
    from ..hub.push import push_folder

    facts: CardFacts = CardFacts(base_model=repository)
    if repository is None:
        typer.echo("note: no card was written, for nothing says which model this is for; see --base-model")
        return
    lora = read_folder(folder)
    name = push_to_hub or f"me/{folder.parent.name}"
    card = make_card(lora, name, NATIVE, gather(lora, facts))
    (folder / CARD).write_text(card.text, encoding="utf-8")
    for note in card.notes:
        typer.echo(f"note: {note}")
    if push_to_hub is not None:
        upload = push_folder(folder, push_to_hub, private=private or None, card=True, facts=facts)
        typer.echo(f"uploaded: {upload.url or upload.repository}")
