"""`ltx-diffusers evaluate reconstruction|latents|compare`: video autoencoders, by numbers and plots."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common_options import Device, Dtype
from .report_files import check_folder, write_json
from .stages import Stages
from .vae_tables import print_comparison, print_latents, print_reconstruction

if TYPE_CHECKING:
    from ..data.clips import ClipReader
    from ..evaluation.vae_adapter import VideoAutoencoder

_SIZE_OF_FILES, _SIZE_OF_READERS = (256, 256), (96, 96)
_FPS_OF_SHOWN = 8
_PIXELS_PER_CHANNEL = 10


class Split(Enum):
    """What `--split` takes."""

    all = "all"
    train = "train"
    held_out = "held-out"


class LPIPSNetwork(Enum):
    """What `--lpips` takes."""

    auto = "auto"
    off = "off"
    alex = "alex"
    vgg = "vgg"
    squeeze = "squeeze"


_Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A pipeline's or autoencoder's folder or repository (any video VAE of Diffusers), embedded, or a training "
        "run's checkpoint.",
    ),
]
_Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A picture, a video, a folder, list or tar of them, or a data reader: moving-shapes.",
    ),
]
_Clips = Annotated[int, typer.Option("--clips", min=1, help="At most so many clips.")]
_Size = Annotated[
    str | None,
    typer.Option(metavar="WxH", help="Size of the clips. \\[default: 256x256; 96x96 without files]"),
]
_Frames = Annotated[int, typer.Option("--frames", min=1, help="Frames of a clip; 1 for pictures.")]
_Split = Annotated[
    Split,
    typer.Option(
        help="all takes every file (without files, the held-out clips); the others as training does."
    ),
]
_Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the data, as stride=2.")
]
_Seed = Annotated[int, typer.Option(min=0, help="Of the noise, and of clips without files.")]
_LPIPS = Annotated[
    LPIPSNetwork,
    typer.Option(help="auto measures LPIPS (alex) if its weights are there; a network's name fetches them."),
]


def reconstruction(
    model: _Model,
    data: _Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path(
        "reconstruction-evaluation"
    ),
    clips: _Clips = 16,
    size: _Size = None,
    frames: _Frames = 17,
    split: _Split = Split.all,
    options: _Set = None,
    levels: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Decode noise levels to try with a denoising decoder. \\[default: 0,0.025,0.05,0.1,0.2]",
        ),
    ] = None,
    lpips: _LPIPS = LPIPSNetwork.auto,
    show: Annotated[int, typer.Option(min=0, help="Of so many clips, the worst, a video is written.")] = 4,
    seed: _Seed = 0,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Measure how well an autoencoder reconstructs clips: PSNR, SSIM, flicker, LPIPS, speed and memory.

    Writes reconstruction.json, plots, and the worst clips beside their originals as worst.mp4.
    """
    from rich.console import Console

    given_levels = _parse_levels(levels)
    check_folder(output)
    reader = _open_data(data, size, frames, split, seed, options or [])
    extra, notes = _lpips(lpips)
    with Stages() as stages:
        stages.begin("load")
        autoencoder = _load(model, device, dtype)
        _check_sizes([autoencoder], reader)
        from ..evaluation.clip_sets import count_clips, distinct_clips, left_out
        from ..evaluation.reconstruction_report import measure_reconstruction

        stages.begin("measure", count_clips(reader, clips))
        report, shown = measure_reconstruction(
            autoencoder,
            distinct_clips(reader, clips),
            levels=given_levels,
            extra=extra,
            seed=seed,
            num_shown=show,
            on_clip=stages.advance,
        )
        report = {"data": _described(data, split, reader), **report, "left_out": left_out(reader)}
        stages.begin("write")
        output.mkdir(parents=True, exist_ok=True)
        written = [write_json(output / "reconstruction.json", report)]
        if shown:
            written += _write_shown(output, shown)
        if _may_plot(notes):
            from ..evaluation.vae_plots import plot_reconstruction

            written.append(plot_reconstruction(report, output / "reconstruction.png"))
    console = Console()
    print_reconstruction(console, report)
    _finish(console, written, [*notes, *_left_out_notes(report["left_out"])])


def latents(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="As for reconstruction; the folder of a training run means all its checkpoints.",
        ),
    ],
    data: _Data,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path(
        "latents-evaluation"
    ),
    clips: _Clips = 64,
    size: _Size = None,
    frames: _Frames = 17,
    split: _Split = Split.all,
    options: _Set = None,
    noise: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Noise to add to the latents, in deviations of each channel; empty leaves that out.",
        ),
    ] = "0,0.1,0.2,0.4",
    seed: _Seed = 0,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Look into an autoencoder's latents: principal components, spectrum, local correlation, sensitivity to noise.

    Writes latents.json and plots with the axes of the figures in the papers of LTX-Video and SSVAE.
    """
    from rich.console import Console

    noise_levels = _parse_levels(noise) or ()
    check_folder(output)
    reader = _open_data(data, size, frames, split, seed, options or [])
    from ..evaluation.clip_sets import clips_of, distinct_clips, left_out
    from ..evaluation.latent_report import measure_latent_space

    names = _expanded(model)
    notes: list[str] = []
    reports = []
    with Stages() as stages:
        stages.begin("read")
        read = clips_of(distinct_clips(reader, clips))
        for name in names:
            stages.begin("load")
            autoencoder = _load(name, device, dtype)
            _check_sizes([autoencoder], reader)
            stages.begin("measure", len(read) * (1 + bool(noise_levels)))
            reports.append(
                measure_latent_space(
                    autoencoder, read, noise_levels=noise_levels, seed=seed, on_clip=stages.advance
                )
            )
        report = {
            "data": _described(data, split, reader),
            "clips": len(read),
            "seed": seed,
            "models": reports,
            "left_out": left_out(reader),
        }
        stages.begin("write")
        output.mkdir(parents=True, exist_ok=True)
        written = [write_json(output / "latents.json", report, indent=None)]
        if _may_plot(notes):
            written += _plot_latents(output, reports)
            if len(reports) > 1:
                written.append(_plot_steps(output, names, reports))
    console = Console()
    print_latents(console, reports)
    _finish(console, written, [*notes, *_few_pixels(reports), *_left_out_notes(report["left_out"])])


def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL... DATA", help="As for reconstruction; the data come last.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path(
        "vae-comparison"
    ),
    clips: _Clips = 16,
    size: _Size = None,
    frames: _Frames = 17,
    split: _Split = Split.all,
    options: _Set = None,
    lpips: _LPIPS = LPIPSNetwork.auto,
    seed: _Seed = 0,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Put autoencoders side by side on the same clips: what they lose, cost, and what their latents are like.

    Writes compare.json and plots.
    """
    from rich.console import Console

    from ..errors import InputError

    if len(models) < 2:
        raise InputError("compare needs models and then data", got=" ".join(models), expected="MODEL... DATA")
    *models, data = models
    check_folder(output)
    reader = _open_data(data, size, frames, split, seed, options or [])
    extra, notes = _lpips(lpips)
    from ..evaluation.clip_sets import clips_of, distinct_clips, left_out
    from ..evaluation.latent_report import measure_latent_space
    from ..evaluation.reconstruction_report import measure_reconstruction

    names = [name for model in models for name in _expanded(model)]
    results = []
    with Stages() as stages:
        stages.begin("read")
        read = list(distinct_clips(reader, clips))
        for name in names:
            stages.begin("load")
            autoencoder = _load(name, device, dtype)
            _check_sizes([autoencoder], reader)
            stages.begin(f"measure {name}", 3 * len(read))
            latent = measure_latent_space(autoencoder, clips_of(read), seed=seed, on_clip=stages.advance)
            whole, _ = measure_reconstruction(
                autoencoder, read, levels=(), extra=extra, seed=seed, num_shown=0, on_clip=stages.advance
            )
            results.append({**whole, "latents": latent["latents"], "noise": latent["noise"]})
            del autoencoder
        report = {
            "data": _described(data, split, reader),
            "clips": len(read),
            "models": results,
            "left_out": left_out(reader),
        }
        stages.begin("write")
        output.mkdir(parents=True, exist_ok=True)
        written = [write_json(output / "compare.json", report, indent=None)]
        if _may_plot(notes):
            written += _plot_latents(output, results)
    console = Console()
    print_comparison(console, results)
    _finish(console, written, [*notes, *_few_pixels(results), *_left_out_notes(report["left_out"])])


def _open_data(
    data: str, size: str | None, frames: int, split: Split, seed: int, options: list[str]
) -> ClipReader:
    from ..evaluation.clip_sets import open_clip_set
    from ..plugins import load_plugins
    from ..training.config import override_values
    from .settings import parse_size

    load_plugins()
    default = _SIZE_OF_FILES if Path(data).exists() else _SIZE_OF_READERS
    width, height = default if size is None else parse_size(size)
    return open_clip_set(data, frames, height, width, split.value, seed, override_values({}, options))


def _expanded(model: str) -> list[str]:
    """A run's checkpoints for its folder, else the model itself."""
    from ..evaluation.run_checkpoints import checkpoints_of, is_run

    folder = Path(model).expanduser()
    return [str(path) for path in checkpoints_of(folder)] if is_run(folder) else [model]


def _load(model: str, device: str, dtype: str | None) -> VideoAutoencoder:
    """An autoencoder on its device.

    Raises:
        InputError: If there is no such model, device or dtype, or it can't be loaded.
    """
    from .loading import check_device_name, fetch, find_vae, hush, pick_device, pick_dtype
    from .settings import DTYPES, check_dtype
    from .setup import set_up

    check_device_name(device)
    check_dtype(dtype)
    set_up()
    hush()
    from ..evaluation.run_checkpoints import is_checkpoint, load_checkpoint, step_of
    from ..evaluation.vae_adapter import VideoAutoencoder, load_autoencoder

    where = pick_device(device)
    kind = pick_dtype(DTYPES.get(dtype), where)
    folder = Path(model).expanduser()
    if is_checkpoint(folder):
        return VideoAutoencoder(load_checkpoint(folder).to(where, kind), f"step {step_of(folder)}")
    source, subfolder = find_vae(model)
    inside = f"{subfolder}/config.json" if subfolder else "config.json"
    config = fetch(source, inside) if isinstance(source, str) else source / inside
    loaded = load_autoencoder(source, subfolder, config, dtype=kind)
    return VideoAutoencoder(loaded.to(where), model if isinstance(source, str) else _short(folder))


def _short(folder: Path) -> str:
    """A folder's name, with that of the folder around it where it says little."""
    return "/".join(folder.parts[-2:]) if folder.name in ("model", "vae") else folder.name


def _check_sizes(autoencoders: list[VideoAutoencoder], reader: ClipReader) -> None:
    for autoencoder in autoencoders:
        autoencoder.check_size(reader.num_frames, reader.height, reader.width)


def _lpips(choice: LPIPSNetwork) -> tuple[dict[str, Any], list[str]]:
    """LPIPS as a further measure, and what to tell the user if it is left out."""
    if choice is LPIPSNetwork.off:
        return {}, []
    from ..evaluation.lpips_measure import lpips_at_hand, lpips_measure

    if choice is LPIPSNetwork.auto:
        missing = lpips_at_hand()
        if missing is not None:
            return {}, [f"LPIPS is left out: {missing}"]
        return {"lpips": lpips_measure()}, []
    return {"lpips": lpips_measure(choice.value)}, []


def _parse_levels(text: str | None) -> tuple[float, ...] | None:
    from ..errors import InputError

    if text is None:
        return None
    try:
        levels = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(
            "the levels can't be read", got=repr(text), expected="numbers, as 0,0.1,0.2"
        ) from None
    if any(not 0 <= level < float("inf") for level in levels):
        raise InputError("a noise level can't be negative", got=repr(text))
    return levels


def _described(data: str, split: Split, reader: ClipReader) -> dict[str, Any]:
    size = {"frames": reader.num_frames, "height": reader.height, "width": reader.width}
    return {"source": Path(data).name, "split": split.value, "size": size}


def _may_plot(notes: list[str]) -> bool:
    from ..evaluation.vae_plots import can_plot

    if not can_plot():
        notes.append('no plots were drawn: they need matplotlib, pip install "ltx-diffusers[plot]"')
    return can_plot()


def _plot_latents(output: Path, reports: list[dict[str, Any]]) -> list[Path]:
    from ..evaluation.vae_plots import plot_channels, plot_noise, plot_spectrum

    names = [report["model"]["name"] for report in reports]
    measured = [report["latents"] for report in reports]
    written = [
        plot_channels(measured, names, output / "channels.png"),
        plot_spectrum(measured, names, output / "spectrum.png"),
    ]
    if all("noise" in report for report in reports):
        written.append(plot_noise([report["noise"] for report in reports], names, output / "noise.png"))
    return written


def _plot_steps(output: Path, names: list[str], reports: list[dict[str, Any]]) -> Path:
    from ..evaluation.run_checkpoints import step_of
    from ..evaluation.vae_plots import plot_training

    steps = [step_of(Path(name)) for name in names]
    return plot_training(steps, [report["latents"] for report in reports], output / "training.png")


def _write_shown(output: Path, shown: list[Any]) -> list[Path]:
    """The worst clips, originals left, one after the other; as a video, and as a sheet."""
    import numpy as np

    from ..data.pictures import contact_sheet, side_by_side
    from ..data.video import write_image, write_video

    pairs = np.concatenate([side_by_side(clip.original, clip.copy) for clip in shown])
    rows = [frames for clip in shown for frames in (clip.original, clip.copy)]
    titles = [
        title
        for clip in shown
        for title in (clip.name, f"reconstruction, {-clip.error:.1f} dB" if clip.error else "")
    ]
    return [
        write_video(output / "worst.mp4", pairs, _FPS_OF_SHOWN),
        write_image(output / "worst.png", np.asarray(contact_sheet(rows, titles))),
    ]


def _few_pixels(reports: list[dict[str, Any]]) -> list[str]:
    """A note where the covariance rests on too few latent pixels."""
    measured = [
        (report["latents"]["latent_pixels"], report["model"]["latent_channels"]) for report in reports
    ]
    pixels, channels = min(measured, key=lambda entry: entry[0] / entry[1])
    if pixels >= _PIXELS_PER_CHANNEL * channels:
        return []
    return [
        f"{pixels} latent pixels for {channels} channels: ranks come out too low and correlations too high, give more "
        "or larger clips"
    ]


def _left_out_notes(problems: list[str]) -> list[str]:
    if not problems:
        return []
    return [f"left out: {len(problems)}, see the report; the first is {problems[0]}"]


def _finish(console: Any, written: list[Path], notes: list[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"written: {', '.join(map(str, written))}", soft_wrap=True, highlight=False, markup=False)
