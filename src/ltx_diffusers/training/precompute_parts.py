"""What each process of a precomputation did, and all of it put together.

Processes don't talk to each other. Each leaves a file when it is finished, and the one that finds everybody's files
puts them together. So they may run at once or one after the other, on one machine or on many that share a disk, and a
failed one is just started again.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..data.clips import Problem
from ..errors import InputError, MediaError
from .latent_store import FORMAT, LATENTS_FOLDER, PARTS_FOLDER, SAMPLES_NAME, TEXTS_FOLDER, text_key
from .tensor_shards import index_shards, remove_unused, shard_sizes

REPORT_NAME = "report.json"
"""What was left out, and what was remarkable."""


@dataclass
class PartOfRun:
    """What one process did.

    Attributes:
        settings: What the latents are made with; the same for all.
        prompts: Texts encoded beside the captions.
        samples: Records of the samples, each with the number of its entry in the set as `entry`.
        encoded: Latents that were encoded now.
        left_out: Entries that give no sample.
        cut_captions: Captions that are longer than the text encoder takes.
    """

    settings: dict[str, Any]
    prompts: list[str]
    samples: list[dict[str, Any]] = field(default_factory=list)
    encoded: int = 0
    left_out: list[Problem] = field(default_factory=list)
    cut_captions: list[Problem] = field(default_factory=list)


@dataclass
class PrecomputeReport:
    """What a folder of latents holds, and what was remarkable.

    Attributes:
        samples: All samples.
        encoded: Latents that were encoded now, references included; the others were there.
        sizes: Samples of each size, "width x height x frames".
        frame_rates: Samples of each frame rate, rounded to hundredths; pictures aren't counted.
        left_out: What gives no sample, and why.
        without_caption: Samples that nobody described.
        cut_captions: Captions that are longer than the text encoder takes.
        duplicates: Names of entries that show the same, in groups.
        dropped: Samples left out because an earlier one has the same latents.
        freed: Bytes of files that nothing uses any more and were removed.
    """

    samples: int = 0
    encoded: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    frame_rates: Counter[float] = field(default_factory=Counter)
    left_out: list[Problem] = field(default_factory=list)
    without_caption: list[str] = field(default_factory=list)
    cut_captions: list[Problem] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    dropped: int = 0
    freed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        problems = {
            name: [asdict(problem) for problem in getattr(self, name)]
            for name in ("left_out", "cut_captions")
        }
        rates = {"frame_rates": {f"{rate:g}": n for rate, n in self.frame_rates.items()}}
        # Not asdict: it makes nonsense of counters.
        return vars(self) | problems | rates


class Parts:
    """The files that processes leave in a folder.

    Args:
        folder: Of the latents.
        run: Says what is being computed: files of other runs don't count.
        rank, world_size: Which process this is, of how many.
    """

    def __init__(self, folder: Path, run: str, rank: int, world_size: int) -> None:
        self.folder, self.run, self.rank, self.world_size = folder, run, rank, world_size

    def begin(self) -> None:
        """Make the folder, unfinished. Raises `MediaError` if that can't be."""
        try:
            (self.folder / PARTS_FOLDER).mkdir(parents=True, exist_ok=True)
            (self.folder / SAMPLES_NAME).unlink(missing_ok=True)
            self._path(self.rank).unlink(missing_ok=True)
        except OSError as error:
            raise MediaError(f"{self.folder} can't be written", got=error.strerror or error) from error

    def leave(self, part: PartOfRun) -> None:
        """Note what this process did. Raises `MediaError` if that can't be written."""
        content = {"run": self.run, "part": asdict(part)}
        write_whole(self._path(self.rank), json.dumps(content, ensure_ascii=False).encode())

    def gather(self) -> list[PartOfRun] | None:
        """What all processes did; None if one isn't finished."""
        found = []
        for rank in range(self.world_size):
            try:
                content = json.loads(self._path(rank).read_bytes())
            except (OSError, ValueError):
                return None
            if content["run"] != self.run:
                return None
            fields = content["part"]
            problems = {
                name: [Problem(**problem) for problem in fields[name]]
                for name in ("left_out", "cut_captions")
            }
            found.append(PartOfRun(**fields | problems))
        # One may have been left by an earlier run with another model.
        return found if all(part.settings == found[0].settings for part in found) else None

    def _path(self, rank: int) -> Path:
        return self.folder / PARTS_FOLDER / f"{rank:05d}-of-{self.world_size:05d}.json"


def put_together(
    folder: Path, parts: list[PartOfRun], problems: Iterable[Problem], *, drop_duplicates: bool, prune: bool
) -> PrecomputeReport:
    """Write the list of samples and the report.

    Args:
        folder: Of the latents.
        parts: What all processes did.
        problems: What was wrong with the set before it was read.
        drop_duplicates: Whether only the first of samples with the same latents counts.
        prune: Whether files that nothing uses any more are removed.

    Raises:
        InputError: If there is no sample at all.
        MediaError: If a file can't be written.
    """
    settings = parts[0].settings
    samples = sorted(
        (sample for part in parts for sample in part.samples), key=lambda sample: sample["entry"]
    )
    report = PrecomputeReport(
        encoded=sum(part.encoded for part in parts),
        left_out=[*problems, *(problem for part in parts for problem in part.left_out)],
        cut_captions=[problem for part in parts for problem in part.cut_captions],
    )
    report.duplicates = _duplicates(samples)
    if drop_duplicates:
        first = {sample["latents"]: sample for sample in reversed(samples)}
        kept = [sample for sample in samples if first[sample["latents"]] is sample]
        report.dropped = len(samples) - len(kept)
        samples = kept
    if not samples:
        why = report.left_out[0] if report.left_out else "an empty set"
        raise InputError("the set gives no sample", got=f"{len(report.left_out)} left out, the first: {why}")
    _count(report, samples)
    _write_samples(folder, settings, samples, parts[0].prompts)
    if prune:
        report.freed = _prune(folder, samples, parts[0])
    content = json.dumps(report.to_json(), ensure_ascii=False, indent=2)
    write_whole(folder / REPORT_NAME, content.encode())
    return report


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it. Raises `MediaError` if it can't be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise MediaError(f"{path} could not be written", got=error.strerror or error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _duplicates(samples: list[dict[str, Any]]) -> list[list[str]]:
    """Names of entries that share latents, and not merely a file of which they are parts."""
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for sample in samples:
        names[sample["latents"]][sample["name"]] = None
    groups = dict.fromkeys(tuple(same) for same in names.values() if len(same) > 1)
    return [list(group) for group in groups]


def _count(report: PrecomputeReport, samples: list[dict[str, Any]]) -> None:
    report.samples = len(samples)
    for sample in samples:
        frames, height, width = sample["size"]
        report.sizes[f"{width}x{height}x{frames}"] += 1
        if frames > 1:
            report.frame_rates[round(sample["frame_rate"], 2)] += 1
    without = (sample["name"] for sample in samples if not sample["described"])
    report.without_caption = list(dict.fromkeys(without))


def _write_samples(
    folder: Path, settings: dict[str, Any], samples: list[dict[str, Any]], prompts: list[str]
) -> None:
    shards = {
        LATENTS_FOLDER: index_shards(folder / LATENTS_FOLDER),
        TEXTS_FOLDER: index_shards(folder / TEXTS_FOLDER),
    }
    used: dict[str, set[str]] = {name: set() for name in shards}

    def place(name: str, key: str) -> list[str]:
        shard = shards[name].get(key)
        if shard is None:  # two processes had one number, or a file was removed meanwhile
            raise InputError(f"something is missing in {folder / name}", fix="run the same command again")
        used[name].add(shard)
        return [shard, key]

    text = settings["text_encoder"]
    lines = []
    for sample in samples:
        record = dict(sample)
        record["latents"] = place(LATENTS_FOLDER, sample["latents"])
        if "references" in sample:
            record["references"] = [place(LATENTS_FOLDER, key) for key in sample["references"]]
        if "pieces" in sample:
            record["pieces"] = {name: place(LATENTS_FOLDER, key) for name, key in sample["pieces"].items()}
        if "conditions" in sample:
            record["conditions"] = [
                [frame, place(LATENTS_FOLDER, key)] for frame, key in sample["conditions"]
            ]
        if "mask" in sample:
            record["mask"] = place(LATENTS_FOLDER, sample["mask"])
        if text is not None:
            record["text"] = place(TEXTS_FOLDER, text_key(text["fingerprint"], sample["caption"]))
        lines.append(json.dumps(record, ensure_ascii=False))
    header = {
        "format": FORMAT,
        "samples": len(lines),
        "settings": settings,
        "prompts": {
            prompt: place(TEXTS_FOLDER, text_key(text["fingerprint"], prompt)) for prompt in prompts if text
        },
    }
    sizes = {name: shard_sizes(folder / name) for name in shards}
    header["shards"] = {name: {shard: sizes[name][shard] for shard in sorted(used[name])} for name in used}
    content = "\n".join([json.dumps(header, ensure_ascii=False), *lines]) + "\n"
    write_whole(folder / SAMPLES_NAME, content.encode())


def _prune(folder: Path, samples: list[dict[str, Any]], part: PartOfRun) -> int:
    latents: set[str] = set()
    for sample in samples:
        latents |= {sample["latents"], *sample.get("references", ()), sample.get("mask", "")}
        latents |= set(sample.get("pieces", {}).values())
        latents |= {key for _, key in sample.get("conditions", ())}
    texts: Container[str] = ()
    if (text := part.settings["text_encoder"]) is not None:
        captions = [*part.prompts, *(sample["caption"] for sample in samples)]
        texts = {text_key(text["fingerprint"], caption) for caption in captions}
    return remove_unused(folder / LATENTS_FOLDER, latents) + remove_unused(folder / TEXTS_FOLDER, texts)
