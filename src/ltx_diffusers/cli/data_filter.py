"""`ltx-diffusers data filter`, and the report of `data check`: scenes found, measured, chosen and written as a list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .progress_bars import progress

if TYPE_CHECKING:
    from ..data.clips import Problem
    from ..data.filters.measuring import MeasuredScene, Measuring
    from ..data.filters.rules import Rule, Verdict
    from ..data.media_entries import MediaEntry

_SHOWN = 20
_EXIT_PROBLEMS = 1


def command(
    source: Annotated[
        Path,
        typer.Argument(metavar="SET", help="A folder or a CSV, JSON or JSONL list of pictures and videos."),
    ],
    output: Annotated[
        Path, typer.Argument(metavar="LIST", help="The list to write, a JSONL file for the reader 'list'.")
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep", metavar="RULE", help="A limit, as 'motion >= 2'; it replaces the default of that side."
        ),
    ] = None,
    defaults: Annotated[
        bool, typer.Option("--defaults/--no-defaults", help="Also apply the default limits.")
    ] = True,
    captions: Annotated[bool, typer.Option("--captions", help="Leave out what has no caption.")] = False,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Keep scenes that look the same as another.")
    ] = False,
    cuts: Annotated[
        str, typer.Option("--cuts", help="How cuts are found: histogram, pyscenedetect or none.")
    ] = "histogram",
    cut_threshold: Annotated[
        float | None, typer.Option("--cut-threshold", help="Of that detector; a higher one finds fewer cuts.")
    ] = None,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", help="Longer scenes are divided evenly.")
    ] = 60.0,
    crop: Annotated[bool, typer.Option("--crop/--no-crop", help="Cut black bars off.")] = True,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="A folder for report.txt, report.json, left_out.png and kept.png."),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            "--measured", help="Where measurements are kept, a JSONL file: nothing in it is measured again."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read and measure.")] = 1,
) -> None:
    """Find the scenes of a set, measure them, and write those worth training on as a list.

    What is left out goes into LIST.dropped.jsonl, with the reasons. Measurements are kept in LIST.measured.jsonl: an
    interrupted run goes on, and other limits need no new measuring. Broken files are listed; then the exit code is 1.
    """
    from ..data.filters.measuring import Measuring
    from ..data.filters.reporting import describe_scores, describe_verdicts
    from ..data.filters.rules import decide
    from ..data.filters.watching import Watching
    from ..data.filters.writing import check_list_writable, write_list
    from ..data.media_sets import find_entries
    from ..plugins import load_plugins
    from .report_files import check_folder

    load_plugins()
    settings = Measuring(Watching(cuts, cut_threshold, max_seconds), crop)
    meanings = settings.scores()
    rules = _rules(keep or [], defaults, meanings)
    if report is not None:
        check_folder(report)
    entries, problems = find_entries(source)
    dropped = output.with_name(f"{output.stem}.dropped.jsonl")
    for path in (output, dropped):
        check_list_writable(path, source, entries)
    journal = measured or output.with_name(f"{output.stem}.measured.jsonl")
    scenes, broken = _measure(entries, settings, journal, workers)
    problems = [*problems, *broken]
    verdicts = decide(scenes, rules, captions=captions, duplicates=duplicates)
    write_list(output, (verdict for verdict in verdicts if verdict.is_kept))
    write_list(dropped, (verdict for verdict in verdicts if not verdict.is_kept))
    lines = [*describe_scores(scenes, meanings), *describe_verdicts(verdicts), *_listed(problems)]
    if report is not None:
        _write_filter_report(report, lines, verdicts, problems, meanings)
    typer.echo("\n".join(lines))
    if problems:
        raise typer.Exit(_EXIT_PROBLEMS)


def report_scenes(
    folder: Path, entries: Sequence[MediaEntry], before: Sequence[str], checked: dict[str, Any], workers: int
) -> list[str]:
    """Measure a set that is only looked at, and write its report: text, JSON, and extremes of the numbers as pictures.

    Args:
        folder: Where to.
        entries: The set.
        before: Lines of text that come first.
        checked: What else belongs into the JSON.
        workers: Processes.

    Returns:
        More lines of text.
    """
    from ..data.filters.facts import FactsFilter
    from ..data.filters.measuring import Measuring
    from ..data.filters.reporting import describe_scenes, describe_scores, examples_of_scores, report_data
    from ..plugins import load_plugins

    load_plugins()
    settings = Measuring()
    meanings = settings.scores()
    scenes, problems = _measure(entries, settings, folder / "measured.jsonl", workers)
    lines = [describe_scenes(scenes), *describe_scores(scenes, meanings)]
    data = {"set": checked, **report_data(scenes, problems, meanings, folder.absolute())}
    _write_texts(folder, [*before, *lines], data)
    names = [name for name in meanings if name not in FactsFilter.scores]
    _draw({folder / "scores.png": examples_of_scores(scenes, names)})
    return lines


def _measure(
    entries: Sequence[MediaEntry], settings: Measuring, journal: Path, workers: int
) -> tuple[list[MeasuredScene], list[Problem]]:
    from ..data.filters.running import measure_set

    with progress("measuring", len(entries)) as advance:
        return measure_set(entries, settings, journal=journal, workers=workers, advance=advance)


def _write_filter_report(
    folder: Path,
    lines: Iterable[str],
    verdicts: Sequence[Verdict],
    problems: Sequence[Problem],
    meanings: dict[str, str],
) -> None:
    from ..data.filters.reporting import examples_kept, examples_left_out, report_data

    scenes = [verdict.scene for verdict in verdicts]
    folder.mkdir(parents=True, exist_ok=True)
    _write_texts(folder, lines, report_data(scenes, problems, meanings, folder.absolute(), verdicts))
    _draw(
        {folder / "left_out.png": examples_left_out(verdicts), folder / "kept.png": examples_kept(verdicts)}
    )


def _write_texts(folder: Path, lines: Iterable[str], data: dict[str, Any]) -> None:
    from .report_files import replace_file, write_json

    text = "".join(f"{line}\n" for line in lines)
    replace_file(
        folder / "report.txt", lambda file: file.write_text(text, encoding="utf-8", errors="replace")
    )
    write_json(folder / "report.json", data)


def _draw(sheets: dict[Path, list[tuple[MeasuredScene, str]]]) -> None:
    from ..data.filters.reporting import write_sheet

    with progress("drawing", sum(map(len, sheets.values()))) as advance:
        for path, examples in sheets.items():
            if not write_sheet(path, examples, advance):
                path.unlink(missing_ok=True)  # an earlier report's


def _rules(texts: Sequence[str], defaults: bool, meanings: dict[str, str]) -> tuple[Rule, ...]:
    from ..data.filters.rules import parse_rule, with_defaults

    rules = tuple(parse_rule(text, meanings) for text in texts)
    return with_defaults(rules) if defaults else rules


def _listed(problems: Sequence[Problem]) -> list[str]:
    if not problems:
        return []
    more = [f"  and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return [f"broken or wrong: {len(problems)}", *(f"  {problem}" for problem in problems[:_SHOWN]), *more]
