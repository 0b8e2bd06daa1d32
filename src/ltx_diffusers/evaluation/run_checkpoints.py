"""The autoencoders that a training run left on its way, for seeing how its latent space came about."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from ..training.config import build, load_part, read_values

_CONFIG, _CHECKPOINTS, _WEIGHTS = "config.yaml", "checkpoints", "model.safetensors"
_PREFIX = "vae."


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run with checkpoints."""
    return (folder / _CONFIG).is_file() and bool(checkpoints_of(folder))


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is a checkpoint `RUN/checkpoints/step-N`."""
    return folder.parent.name == _CHECKPOINTS and (folder / _WEIGHTS).is_file()


def checkpoints_of(run: Path) -> list[Path]:
    """A run's whole checkpoints, oldest first."""
    found = [
        path.parent for path in (run / _CHECKPOINTS).glob(f"step-*/{_WEIGHTS}") if step_of(path.parent) >= 0
    ]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was written at; -1 if it isn't whole, or none."""
    found = re.fullmatch(r"step-(\d+)", checkpoint.name)
    return int(found[1]) if found else -1


def load_checkpoint(checkpoint: Path) -> AutoencoderKLLTX:
    """The autoencoder of a checkpoint of `ltx-diffusers train vae`: the weights as trained, without their average.

    Raises:
        InputError: If the run's config is missing or isn't that of an autoencoder, or the weights don't fit it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    values = read_values(checkpoint.parent.parent / _CONFIG)
    model = _build(values, checkpoint)
    try:
        weights = load_file(checkpoint / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{checkpoint / _WEIGHTS} can't be read", got=error) from error
    own = {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(
            f"the weights of {checkpoint} don't fit the model of its config",
            got=str(error).strip().splitlines()[-1].strip()[:200],
        ) from error
    return model.eval()


def _build(values: dict[str, Any], checkpoint: Path) -> AutoencoderKLLTX:
    if values.get("initial_weights"):
        return load_part(AutoencoderKLLTX, values["initial_weights"], "initial_weights")
    if not isinstance(values.get("model"), dict):
        raise InputError(f"{checkpoint} isn't a checkpoint of a video autoencoder")
    try:
        return build(AutoencoderKLLTX, values["model"], "model")
    except TypeError as error:
        raise InputError(f"{checkpoint} isn't a checkpoint of a video autoencoder", got=error) from error
