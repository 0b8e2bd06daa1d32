"""What is compared: one change of `base.yaml` an arm, arms in groups that answer one question each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BASE = HERE / "base.yaml"

_WAVELET = {"l2": 1.0, "wavelet": 0.25, "kl": 0.0003}


def _adversary() -> dict[str, Any]:
    """The same for both games, so that only what the discriminator is shown differs."""
    return {
        "weight": 0.5,
        "start_step": 450,
        "balance": {"kind": "adaptive"},
        "options": {
            "loss": "hinge",
            "discriminators": [{"name": "patch-3d", "options": {"channels": 16, "num_layers": 3}}],
        },
    }


_MASKING = {"ratios": [0.0, 0.25, 0.5, 0.75], "probabilities": [0.7, 0.1, 0.1, 0.1], "block": [1, 1, 1]}

ARMS: dict[str, dict[str, Any]] = {
    "l2": {"objectives": {"l2": 1.0, "kl": 0.0003}},
    "base": {},  # L2 and the wavelet
    "gan": {"objectives": {**_WAVELET, "gan": _adversary()}},
    "reconstruction-gan": {"objectives": {**_WAVELET, "reconstruction-gan": _adversary()}},
    # With four times the channels, so that there are some to spare, and a KL term that has a say.
    "shared-variance": {"objectives": {**_WAVELET, "kl": 0.01}, "model": {"latent_channels": 64}},
    "own-variances": {
        "objectives": {**_WAVELET, "kl": 0.01},
        "model": {"latent_channels": 64, "shared_log_variance": False},
    },
    "denoising": {"model": {"timestep_conditioning": True}},
    # SSVAE's published weight of the correlation, 0.002, hardly moves anything in a short run.
    "lcr": {"objectives": {**_WAVELET, "local-correlation": 0.05}},
    "lmr": {"objectives": {**_WAVELET, "latent-masking": {"options": _MASKING}}},
    "lcr-lmr": {
        "objectives": {**_WAVELET, "local-correlation": 0.05, "latent-masking": {"options": _MASKING}}
    },
}
"""Changes of the base's sections. A section `objectives` replaces the base's, others are merged into it."""

GROUPS: dict[str, tuple[str, ...]] = {
    "losses": ("l2", "base", "gan", "reconstruction-gan"),
    "log-variance": ("shared-variance", "own-variances"),
    "denoising-decoder": ("base", "denoising"),
    "ssvae": ("base", "lcr", "lmr", "lcr-lmr"),
}
"""Questions, and the arms that answer them."""

WORLDS = ("shapes", "real")
"""Textured moving-shapes; crops of real clips and photographs."""


def overrides(arm: str, world: str, real: Path) -> list[str]:
    """An arm's settings as `key=value` overrides of the base.

    Args:
        arm: One of `ARMS`.
        world: One of `WORLDS`.
        real: The list that `real_clips.make_real_clips` wrote.
    """
    values = [f"{section}={_flow(change)}" for section, change in _sections(arm).items()]
    if world == "shapes":
        return [*values, "data.reader=moving-shapes", "data.options.texture=0.1"]
    # Real clips have no single object before a plain ground.
    even = [f"stages.{number}.foreground_weight=0.0" for number in range(2)]
    return [
        *values,
        *even,
        "data.reader=list",
        f"data.options={_flow({'path': str(real), 'resize': 'none'})}",
    ]


def _sections(arm: str) -> dict[str, Any]:
    found = {}
    for section, change in ARMS[arm].items():
        if section == "objectives":
            found[section] = change
        else:
            found |= {f"{section}.{key}": value for key, value in change.items()}
    return found


def _flow(value: Any) -> str:
    return json.dumps(value)  # JSON is YAML
