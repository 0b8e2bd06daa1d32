"""Where a checkpoint file is: on the disk, or on the Hub, from where it is fetched into the cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InputError

HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_LINK = re.compile(r"https?://([^/]+)/(.+)")
_IN_REPOSITORY = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+)/(?:(?:blob|resolve)/(?P<revision>[^/]+)/)?(?P<name>.+)"
)
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def find_file(path: str | Path, **hub: Any) -> Path:
    """The local path of a checkpoint.

    Args:
        path: A file or folder; a link to a file on the Hub; or "owner/repository/file".
        **hub: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, as the Hub's client takes them.

    Raises:
        CheckpointError: If there is no such file.
        InputError: If an argument is unknown.
    """
    unknown = sorted(set(hub) - set(_HUB_ARGUMENTS))
    if unknown:
        raise InputError(
            "unknown argument", got=", ".join(unknown), expected=f"one of {', '.join(_HUB_ARGUMENTS)}"
        )
    local = Path(path).expanduser()
    link = _LINK.fullmatch(str(path))
    if local.exists() or (link is None and _is_local(str(path))):
        if not local.exists():
            raise CheckpointError(f"there is no file {path}")
        return local
    if link is not None and link[1] not in HOSTS:
        raise InputError("a link must lead to the Hub", got=str(path), expected=f"https://{HOSTS[0]}/...")
    match = _IN_REPOSITORY.fullmatch((link[2] if link else str(path)).partition("?")[0])
    if match is None or ".." in match["name"].split("/"):
        raise InputError("not a file on the Hub", got=str(path), expected="owner/repository/file.safetensors")
    if match["revision"]:
        hub.setdefault("revision", match["revision"])
    return _download(match["repository"], match["name"], hub)


def _is_local(path: str) -> bool:
    """Whether a path can only mean a file on the disk: it doesn't have the form owner/repository/file."""
    return (
        path.startswith(("/", ".", "~")) or path.count("/") < 2 or "\\" in path or Path(path).parent.is_dir()
    )


def _download(repository: str, name: str, hub: dict[str, Any]) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, **hub))
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise CheckpointError(
            f"the Hub can't be reached and {name} of {repository} is not in the local cache",
            got=type(error).__name__,
            fix="check the network, or give a local file",
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(
            f"the Hub has no file {name} in {repository} that you may read", got=type(error).__name__
        ) from None
