"""Plots of the reports on autoencoders, with the axes of the papers' figures. They need matplotlib (extra `plot`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 3.6  # inches of a panel
_DPI = 90


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_channels(latents: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> Path:
    """The axes of LTX-Video's Figure 3: cumulative explained variance, and the correlation matrix of the last entry.

    Args:
        latents: Of `measure_latents`, one for each model or checkpoint.
        names: Of them.
        path: The PNG file.
    """
    figure, (left, right) = _panels(2)
    for entry, name, color in zip(latents, names, _colors(len(latents)), strict=True):
        _curve(left, entry["explained_variance"], name, color, entry["effective_rank"])
    count = len(latents[-1]["explained_variance"])
    left.plot([0, count], [0, 1], color="0.6", linewidth=1, linestyle=":", label="equal channels")
    left.set(
        xlabel="principal components",
        ylabel="cumulative explained variance",
        ylim=(0, 1.02),
        title="PCA over latent pixels",
    )
    left.legend(frameon=False, fontsize=8, loc="lower right")
    image = right.imshow(latents[-1]["correlation"], vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    right.grid(visible=False)
    right.set(xlabel="channel", ylabel="channel", title=f"channel autocorrelation: {names[-1]}")
    figure.colorbar(image, ax=right, shrink=0.85)
    return _save(figure, path)


def plot_spectrum(latents: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> Path:
    """The axes of SSVAE's Figure 1: amplitude against the zigzag frequency index, and the channels' eigenspectrum."""
    figure, (left, right) = _panels(2)
    for entry, name, color in zip(latents, names, _colors(len(latents)), strict=True):
        spectrum = entry["spectrum"]
        share = f"{100 * spectrum['low_frequency_share']:.0f} % low"
        left.plot(
            spectrum["index"],
            spectrum["amplitude"],
            marker=".",
            color=color,
            linewidth=1.5,
            label=f"{name} ({share})",
        )
        _curve(right, entry["explained_variance"], name, color, None)
    left.set(
        xlabel="zigzag frequency index",
        ylabel="normalised amplitude",
        yscale="log",
        title="3D-DCT of the latents",
    )
    right.set(
        xlabel="principal components",
        ylabel="cumulative explained variance",
        ylim=(0, 1.02),
        title="channel eigenspectrum",
    )
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def plot_noise(noises: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> Path:
    """PSNR of the decoded clips against noise in the latents, of `noise_sensitivity`."""
    figure, (axis,) = _panels(1)
    for entry, name, color in zip(noises, names, _colors(len(noises)), strict=True):
        axis.plot(entry["levels"], entry["psnr"], marker="o", markersize=4, color=color, label=name)
    axis.set(xlabel="noise, in deviations of each channel", ylabel="PSNR (dB)", title="noise in the latents")
    axis.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def plot_training(steps: Sequence[int], latents: Sequence[dict[str, Any]], path: Path) -> Path:
    """How the latent space changes over the checkpoints of a run: effective rank, correlation and low frequencies."""
    figure, axes = _panels(3)
    series = (
        ("effective rank", [entry["effective_rank"] for entry in latents]),
        ("mean |correlation| of channels", [entry["mean_absolute_correlation"] for entry in latents]),
        ("share of low frequencies", [entry["spectrum"]["low_frequency_share"] for entry in latents]),
    )
    for axis, (label, values) in zip(axes, series, strict=True):
        axis.plot(steps, values, marker="o", markersize=4)
        axis.set(xlabel="step", ylabel=label)
    return _save(figure, path)


def plot_reconstruction(report: dict[str, Any], path: Path) -> Path:
    """PSNR by frame, flicker by step, and PSNR by decode noise level if the decoder takes one."""
    levels = [label for label in report["figures"] if label != "default"]
    figure, axes = _panels(3 if levels else 2)
    by_frame = report["by_frame"]["default"]
    frames = report["size"]["frames"]
    axes[0].plot(range(frames), by_frame["psnr"], marker=".")
    axes[0].set(xlabel="frame", ylabel="PSNR (dB)", title="by frame")
    if "flicker" in by_frame:
        axes[1].plot(range(1, frames), by_frame["flicker"], marker=".")
    axes[1].set(xlabel="frame", ylabel="flicker (grey levels)", title="step into each frame")
    for axis in axes[:2]:
        axis.xaxis.get_major_locator().set_params(integer=True)
    if levels:
        values = [report["figures"][label]["psnr"]["mean"] for label in levels]
        axes[2].plot([float(label) for label in levels], values, marker="o", markersize=4)
        own = report["figures"]["default"]["psnr"]["mean"]
        axes[2].axhline(own, color="0.5", linestyle=":", linewidth=1, label="the model's own settings")
        axes[2].set(xlabel="decode noise level", ylabel="PSNR (dB)", title="denoising decoder")
        axes[2].legend(frameon=False, fontsize=8)
    return _save(figure, path)


def _curve(axis: Axes, shares: list[float], name: str, color: Any, rank: float | None) -> None:
    label = name if rank is None else f"{name} (rank {rank:.1f})"
    axis.plot(range(1, len(shares) + 1), shares, color=color, linewidth=1.6, label=label)


def _colors(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * index / max(1, count - 1)) for index in range(count)]


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    # Not pyplot: it would choose a window system, and keep every figure in memory.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 * _HEIGHT * count, _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, count, index + 1) for index in range(count)]
    for axis in axes:
        axis.grid(alpha=0.25)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    temporary = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(temporary, format="png", dpi=_DPI)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
