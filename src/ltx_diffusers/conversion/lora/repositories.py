"""LoRAs on the Hub: the file in a repository, downloaded through the Hub's own client."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ...errors import InputError
from .files import DIFFUSERS_FILE, PEFT_CONFIG, PEFT_FILE, choose_lora_file


def fetch_lora(
    repository: str,
    weight_name: str | None = None,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """A LoRA's file in the local cache, and beside it PEFT's description where there is one.

    Args:
        repository: `owner/name`.
        weight_name: The file; None for the one that is named as Diffusers or PEFT do, or the only one.
        subfolder: Folder in the repository.
        revision: Branch, tag or commit.
        token: As the Hub's client takes it.
        cache_dir: The Hub's cache.
        force_download: Whether to download what is in the cache.
        local_files_only: Whether to look into the cache only.

    Raises:
        InputError: If there is no such repository or file, or the Hub can't be reached and it isn't in the cache.
    """
    options = {
        "subfolder": subfolder,
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "force_download": force_download,
        "local_files_only": local_files_only,
    }
    names = [weight_name] if weight_name else [DIFFUSERS_FILE, PEFT_FILE]
    try:
        if weight_name is None and not local_files_only:
            names = _listed(repository, subfolder, revision, token) or names
        path = _first(repository, names, options)
        if path.stem == Path(PEFT_FILE).stem:
            _first(repository, [PEFT_CONFIG], options, required=False)
        return path
    except InputError:
        raise
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(f"there is no folder and no repository {repository!r} that you may read") from None
    except RevisionNotFoundError:
        raise InputError(f"the repository {repository} has no revision {revision!r}") from None
    except LocalEntryNotFoundError:
        raise _unreachable(repository) from None
    except EntryNotFoundError:
        raise InputError(f"the repository {repository} has no file {' or '.join(names)}") from None
    except Exception as problem:  # the client's network errors have no common base
        raise _unreachable(repository, problem) from problem


def _listed(
    repository: str, subfolder: str | None, revision: str | None, token: str | bool | None
) -> list[str] | None:
    """The file of a repository that is the LoRA; None if the Hub can't be asked."""
    try:
        files = HfApi(token=token).list_repo_files(repository, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        raise
    except Exception:  # as above; what is in the cache may still do
        return None
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    here = [name.removeprefix(prefix) for name in files if name.startswith(prefix)]
    return [choose_lora_file([name for name in here if "/" not in name], f"the repository {repository}")]


def _unreachable(repository: str, problem: Exception | None = None) -> InputError:
    return InputError(
        f"the Hub can't be reached and {repository} is not in the local cache",
        got=None if problem is None else type(problem).__name__,
        fix="check the network, or give the file's name (weight_name) if it was downloaded before",
    )


def _first(repository: str, names: list[str], options: dict, required: bool = True) -> Path | None:
    """The first of these files that there is."""
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, **options))
        except (EntryNotFoundError, LocalEntryNotFoundError):
            if required and name == names[-1]:
                raise
    return None
