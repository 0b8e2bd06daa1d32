"""Tables of the reports on video autoencoders."""

from __future__ import annotations

from typing import Any

_COLUMNS = 4


def _title(facts: dict[str, Any]) -> str:
    latent = facts["latent_size"]
    return (
        f"{facts['name']} ({facts['class']}): {facts['latent_channels']} channels, latents of "
        f"{latent['frames']}x{latent['height']}x{latent['width']}, 1:{facts['compression']:.0f}"
    )


def print_reconstruction(console: Any, report: dict[str, Any]) -> None:
    """Of `measure_reconstruction`'s report."""
    from rich.table import Table

    table = Table(
        "decode noise", "measure", "mean", "95 % interval", "worst clip", title=_title(report["model"])
    )
    for label, figures in report["figures"].items():
        for name, figure in figures.items():
            low, high = figure["interval"]
            shown = f"{_number(low)} to {_number(high)}"
            table.add_row(label, _with_unit(name), _number(figure["mean"]), shown, _number(figure["worst"]))
            label = ""
        table.add_section()
    console.print(table)
    for name in ("encode", "decode"):
        used = report["resources"][name]
        console.print(
            f"{name}: {used['seconds_per_clip']:.3f} s a clip, {used['frames_per_second']:.1f} frames/s, "
            f"{used['megapixels_per_second']:.2f} megapixels/s, peak memory {_bytes(used['peak_bytes'])} above the "
            f"model ({report['resources']['device']})",
            soft_wrap=True,
            highlight=False,
        )


def print_latents(console: Any, reports: list[dict[str, Any]]) -> None:
    """Of reports of `measure_latent_space`: a column each, or a row each where they are many."""
    from rich.table import Table

    names, rows = [report["model"]["name"] for report in reports], _latent_rows(reports)
    title = _title(reports[0]["model"])
    if len(reports) > _COLUMNS:
        table = Table("", *(label.strip() for label, _ in rows), title=title)
        for index, name in enumerate(names):
            table.add_row(name, *(values[index] for _, values in rows))
    else:
        table = Table("measure", *names, title=title)
        for label, values in rows:
            table.add_row(label, *values)
    console.print(table)


def print_comparison(console: Any, reports: list[dict[str, Any]]) -> None:
    """Of both reports of each model merged, a column each."""
    from rich.table import Table

    table = Table("measure", *(report["model"]["name"] for report in reports))
    facts = [report["model"] for report in reports]
    table.add_row("class", *(fact["class"] for fact in facts))
    table.add_row("parameters", *(f"{fact['parameters']['all'] / 1e6:.1f} M" for fact in facts))
    table.add_row("compression", *(f"1:{fact['compression']:.0f}" for fact in facts))
    table.add_row("pixels per latent", *(f"{fact['pixels_per_latent']:.0f}" for fact in facts))
    table.add_section()
    for name in reports[0]["figures"]["default"]:
        means = [report["figures"]["default"][name]["mean"] for report in reports]
        table.add_row(_with_unit(name), *map(_number, means))
    for name in ("encode", "decode"):
        used = [report["resources"][name] for report in reports]
        table.add_row(f"{name}, megapixels/s", *(_number(entry["megapixels_per_second"]) for entry in used))
        table.add_row(f"{name}, peak memory", *(_bytes(entry["peak_bytes"]) for entry in used))
    table.add_section()
    for label, values in _latent_rows(reports):
        table.add_row(label, *values)
    console.print(table)


def _latent_rows(reports: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    entries = [report["latents"] for report in reports]
    channels = [report["model"]["latent_channels"] for report in reports]
    of = [f"{entry['used_channels']} of {count}" for entry, count in zip(entries, channels, strict=True)]
    rows = [
        ("channels used", of),
        ("effective rank", [_number(entry["effective_rank"]) for entry in entries]),
        ("  of normalised channels", [_number(entry["normalized"]["effective_rank"]) for entry in entries]),
        ("first component", [_share(entry["first_component"]) for entry in entries]),
        ("mean |correlation|", [_number(entry["mean_absolute_correlation"]) for entry in entries]),
        (
            "low frequencies (in noise)",
            [
                f"{_share(entry['spectrum']['low_frequency_share'])} "
                f"({_share(entry['spectrum']['low_frequency_share_of_noise'])})"
                for entry in entries
            ],
        ),
        ("local correlation", [_number(entry["local_correlation"]) for entry in entries]),
    ]
    noises = [report.get("noise") for report in reports]
    if all(noises):
        for index, level in enumerate(noises[0]["levels"]):
            values = [_number(entry["psnr"][index]) for entry in noises]
            rows.append((f"PSNR (dB) with noise {level:g}", values))
    return rows


_UNITS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "flicker": "flicker (grey levels)", "lpips": "LPIPS"}


def _with_unit(name: str) -> str:
    return _UNITS.get(name, name)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _bytes(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 1e6:,.0f} MB"
