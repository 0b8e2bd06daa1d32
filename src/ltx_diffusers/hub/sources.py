"""What the user means by a model: the embedded one, a folder, or a repository on the Hub.

Light: nothing here imports torch, and the Hub's client only when a repository is asked for.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from ..embedded import embedded_model_path
from ..errors import InputError, UnknownNameError

EMBEDDED = "embedded"
PIPELINE_FILE = "model_index.json"
COMPONENT_FILE = "config.json"

# Repositories in Diffusers' layout, for near-name hints only.
KNOWN_REPOSITORIES = (
    "Lightricks/LTX-Video",
    "Lightricks/LTX-Video-0.9.5",
    "Lightricks/LTX-Video-0.9.7-dev",
    "Lightricks/LTX-Video-0.9.7-distilled",
    "Lightricks/LTX-Video-0.9.8-13B-distilled",
    "a-r-r-o-w/LTX-Video-0.9.1-diffusers",
)
_FILE_ENDINGS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def find_model(model: str) -> Path | str:
    """Where a model is, without looking further than the disk.

    Args:
        model: "embedded", a folder in Diffusers' layout (a pipeline, or one component), or a repository `owner/name`.

    Returns:
        The folder, or the repository's id if `model` is no folder but has the form of an id.

    Raises:
        UnknownNameError: If it is neither, or a file that isn't there; the message lists near names.
        InputError: If it is a file, or a folder without a model.
    """
    if model == EMBEDDED:
        return embedded_model_path()
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / PIPELINE_FILE).is_file() and not (path / COMPONENT_FILE).is_file():
            raise InputError(
                f"the folder {model} has no model",
                expected=f"a {PIPELINE_FILE} or a {COMPONENT_FILE} in it",
                fix=_hint(model, _models_in(path)),
            )
        return path
    if path.is_file():
        raise InputError(
            "a model is a folder in Diffusers' layout or a repository",
            got=f"the file {model}",
            fix="make a folder of it with `ltx-diffusers convert`, or use from_single_file in Python",
        )
    if _REPOSITORY.fullmatch(model) and not path.parent.is_dir():
        return model
    if path.suffix.lower() in _FILE_ENDINGS:
        raise UnknownNameError(f"there is no file {model}")
    raise UnknownNameError(
        f"unknown model {model!r}",
        expected=f"{EMBEDDED!r}, a folder or a repository owner/name",
        fix=_hint(model, _models_in(path.parent)),
    )


def unknown_repository(repository: str) -> UnknownNameError:
    """The error for a repository that the Hub doesn't have, with near names."""
    return UnknownNameError(
        f"the Hub has no repository {repository!r} that you may read",
        expected=f"{EMBEDDED!r}, a folder or a repository owner/name",
        fix=_hint(repository, []),
    )


def unreachable_repository(repository: str, problem: Exception) -> InputError:
    """The error for a repository that is neither in the local cache nor to be had now, with near names."""
    hint = _hint(repository, [])
    return InputError(
        f"the Hub can't be reached and {repository} is not in the local cache",
        got=type(problem).__name__,
        fix=hint if hint and repository not in KNOWN_REPOSITORIES else "check the network, or give a folder",
    )


def _models_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(str(index.parent) for index in folder.glob(f"*/{PIPELINE_FILE}"))


def _hint(model: str, folders: list[str]) -> str | None:
    choices = [EMBEDDED, *folders, *KNOWN_REPOSITORIES]
    by_lower_case = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(model.lower(), by_lower_case, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(by_lower_case[name] for name in near)}?" if near else None
