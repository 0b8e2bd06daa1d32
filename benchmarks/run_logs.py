"""Figures of a finished training run, from its TensorBoard log."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

LOSSES = {"training_loss": "train/loss", "held_out_loss": "validation/held_out_loss"}


def loss_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of a run's losses, on training clips and, where it had some, on held-out ones."""
    events = EventAccumulator(str(run / "logs"))
    events.Reload()
    logged = events.Tags()["scalars"]
    return {
        name: [(event.step, round(event.value, 5)) for event in events.Scalars(tag)]
        for name, tag in LOSSES.items()
        if tag in logged
    }
