"""Many videos from a file of prompts: one file a prompt, what is there already is skipped, a failure stops nothing."""

from __future__ import annotations

import hashlib
import json
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..data.video import video_format
from ..errors import InputError, LTXError, MediaError
from .loading import find_pipeline
from .records import as_json, record_path, settings_of_record
from .settings import Settings, option_values
from .stages import Stages

if TYPE_CHECKING:
    from .making import Made, Maker

REQUEST = "request_sha256"
"""The field of a record that says which request its video answers."""

_SLUG_CHARACTERS = 48
_NO_LINES_OF_PROMPTS = (".csv", ".tsv", ".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Job:
    """One video of a batch.

    Attributes:
        line: Number of its line in the file, from 1.
        settings: What to make; None if the line can't be used.
        output: Where to; None if the line can't be used.
        request: Hash of what is asked for, see `fingerprint`.
        error: Why the line can't be used.
    """

    line: int
    settings: Settings | None = None
    output: Path | None = None
    request: str | None = None
    error: LTXError | None = None


@dataclass
class Tally:
    """How a batch went: how many videos were made, were there already, and failed."""

    made: int = 0
    there: int = 0
    failed: int = 0

    def __str__(self) -> str:
        return f"{self.made} made, {self.there} there already, {self.failed} failed"


def read_jobs(file: Path, folder: Path, ending: str, shared: Mapping[str, Any]) -> list[Job]:
    """The videos that a file of prompts asks for, each checked as far as it can be without a model.

    Args:
        file: A prompt a line, without empty lines and those that begin with #; or, if its name ends in .jsonl, an
            object a line: `prompt`, and more settings by the names of the record or of the options; `output` names
            the file.
        folder: Where the videos go.
        ending: Of their names, such as ".mp4"; "" for folders of frames.
        shared: Settings of all lines that don't say otherwise.

    Raises:
        MediaError: If the file can't be read, or is a table or JSON by its ending.
        InputError: If it has no prompts, or two lines name one output, or outputs with one record.
        LTXError: If no line can be used, all for the same reason.
    """
    if file.suffix.lower() in _NO_LINES_OF_PROMPTS:
        raise MediaError(
            "prompts aren't read from such a file", got=file, expected="text with a prompt a line, or .jsonl"
        )
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise MediaError(f"no such file: {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{file} can't be read", got=getattr(error, "strerror", None) or error) from error
    read = _object if file.suffix.lower() == ".jsonl" else _prompt
    jobs = [
        _job(number, line, read, folder, ending, shared)
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not jobs:
        raise InputError(f"{file} has no prompts", expected="a prompt a line")
    if jobs[0].error is not None and len({str(job.error) for job in jobs}) == 1:
        raise jobs[0].error
    records: dict[Path, Job] = {}
    for job in jobs:
        if job.output is None:
            continue
        other = records.setdefault(record_path(job.output), job)
        if other is not job:
            raise InputError(
                "two lines have the same output, or outputs whose settings are written to the same file",
                got=f"{other.output} and {job.output} in lines {other.line} and {job.line}",
            )
    return jobs


def run_batch(jobs: list[Job], maker: Maker) -> Tally:
    """Make the videos of a batch, one after the other.

    A video is there already if its record says that it answers the same request: settings, files and their
    contents. Whatever goes wrong with one is told on stderr, and the next is made; lines that can't be used are
    told first, before any work.

    Args:
        jobs: What `read_jobs` read.
        maker: Makes the videos, with the model loaded once.
    """
    tally = Tally()
    for number, job in enumerate(sorted(jobs, key=lambda job: job.error is None), start=1):
        head = f"[{number}/{len(jobs)}]"
        try:
            if job.error is not None:
                raise job.error
            made = _make(job, maker)
        except Exception as error:
            tally.failed += 1
            kind = "" if isinstance(error, LTXError) else f"{type(error).__name__}: "
            typer.echo(f"{head} line {job.line} failed: {kind}{' '.join(str(error).split())}", err=True)
            if maker.verbose:
                traceback.print_exception(error)
            continue
        if made is None:
            tally.there += 1
            typer.echo(f"{head} {job.output} is there already")
        else:
            tally.made += 1
            typer.echo(f"{head} {made.path}: seed {made.settings.seed}")
    return tally


def _make(job: Job, maker: Maker) -> Made | None:
    """The video of a job; None if it is there already."""
    if _answers(job.output, job.request):
        return None
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"the folder {job.output.parent} can't be made", got=error.strerror) from error
    with Stages() as stages:
        return maker.make(job.settings, job.output, stages=stages, remarks={REQUEST: job.request})


def fingerprint(settings: Settings) -> str:
    """A hash of what is asked for: the settings as given, and the contents of the files that they name.

    Raises:
        MediaError: If a file is missing or can't be read.
    """
    hashes = [file.hashed().sha256 for file in settings.given_files()]
    text = json.dumps([as_json(settings), hashes], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _answers(output: Path, request: str) -> bool:
    """Whether a finished video is there, made for the same request."""
    try:
        record = json.loads(record_path(output).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get(REQUEST) == request and output.exists()


def _job(
    number: int,
    line: str,
    read: Callable[[str], dict[str, Any]],
    folder: Path,
    ending: str,
    shared: Mapping[str, Any],
) -> Job:
    try:
        given = read(line)
        output = given.pop("output", None)
        settings = Settings.of({**shared, **given})
        settings.check()
        where = _output(number, output, settings.prompt, folder, ending)
        video_format(where)
        request = fingerprint(settings)
        if not _answers(where, request):
            find_pipeline(settings.model, settings.text_encoder)
        return Job(number, settings, where, request)
    except LTXError as error:
        return Job(number, error=error)


def _prompt(line: str) -> dict[str, Any]:
    return {"prompt": line.strip()}


def _object(line: str) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise InputError("the line isn't JSON", got=error) from None
    if not isinstance(given, dict):
        raise InputError("the line isn't a JSON object", got=line.strip()[:40])
    if "versions" in given:
        return settings_of_record(given) | ({"output": given["output"]} if "output" in given else {})
    return option_values(given)


def _output(number: int, name: Any, prompt: str, folder: Path, ending: str) -> Path:
    """Where a video goes: as its line says, else by the line's number and the prompt's first words."""
    if name is None:
        words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")[:_SLUG_CHARACTERS].strip("-")
        return folder / f"{number:04d}{'-' if words else ''}{words}{ending}"
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError("an output must be the name of a file in the batch's folder", got=repr(name))
    return folder / (name if Path(name).suffix else name + ending)
