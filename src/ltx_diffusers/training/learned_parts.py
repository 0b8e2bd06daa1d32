"""What objectives learn besides the model: discriminators, tokens, scales. Written beside it, to go on from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import InputError
from ..objectives.adversarial import Adversarial
from ..objectives.composition import Composition

_PARAMETERS = "objectives.safetensors"


def has_learned_parts(composition: Composition) -> bool:
    """Whether objectives learn anything besides the model."""
    return bool(composition.state_dict()) or any(True for _ in _discriminators(composition))


def save_learned_parts(composition: Composition, folder: Path) -> None:
    """Write the learned parts of objectives into an empty folder.

    Discriminators are saved as Diffusers models in `OBJECTIVE/N`, everything else in one file.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in composition.state_dict().items()}
    if state:
        save_file(state, folder / _PARAMETERS)
    for name, index, discriminator in _discriminators(composition):
        discriminator.save_pretrained(folder / name / str(index))


def load_learned_parts(composition: Composition, folder: Path) -> None:
    """Read what `save_learned_parts` wrote; parts of objectives that only one of the two runs has are passed over.

    Raises:
        InputError: If there is nothing there, or a part doesn't fit.
    """
    if not folder.is_dir():
        raise InputError("config key 'initial_objectives': no such folder", got=folder)
    found = False
    try:
        if (folder / _PARAMETERS).is_file():
            stored = load_file(folder / _PARAMETERS)
            known = composition.state_dict()
            composition.load_state_dict(
                {name: value for name, value in stored.items() if name in known}, strict=False
            )
            found = True
        for name, index, discriminator in _discriminators(composition):
            path = folder / name / str(index)
            if path.is_dir():
                discriminator.load_state_dict(type(discriminator).from_pretrained(path).state_dict())
                found = True
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"config key 'initial_objectives': {folder} doesn't fit the objectives",
            got=str(error).strip().partition("\n")[0][:300],
        ) from error
    if not found:
        raise InputError("config key 'initial_objectives': nothing of an objective is there", got=folder)


def _discriminators(composition: Composition) -> Iterator[tuple[str, int, torch.nn.Module]]:
    for name, term in composition.terms.items():
        if isinstance(term, Adversarial):
            for index, discriminator in enumerate(term.discriminators):
                yield name, index, discriminator
