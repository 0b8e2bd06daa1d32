"""Getting a model from the Hub into a folder: every file checked against its hash, the folder there when it is whole.

Files are collected in a folder of their own beside the target, which keeps what has arrived if the download fails.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import HubError, InputError
from .client import Hub, RemoteFile, Repository, describe_repository, is_transient
from .contents import EMPTY, OTHER, SINGLE_FILE, check_file_name
from .layouts import read_folder
from .sources import unknown_repository

AGAIN = "run the same again: what has arrived is kept"

_ATTEMPTS = 3
_WAIT_SECONDS = 1.0
_BLOCK = 2**20


@dataclass(frozen=True)
class Download:
    """What a download has brought.

    Attributes:
        folder: Where it lies.
        repository: `owner/name`.
        commit: The commit that it is of.
        files: Its files, with their sizes in bytes.
        left_out: Files of the repository that don't belong to the model.
        was_there: Whether the folder had all of it before.
    """

    folder: Path
    repository: str
    commit: str
    files: dict[str, int]
    left_out: tuple[str, ...]
    was_there: bool


def pull(
    repository: str,
    folder: str | Path | None = None,
    *,
    revision: str | None = None,
    files: Sequence[str] = (),
    token: str | None = None,
) -> Download:
    """Download a model or a LoRA into a folder.

    Args:
        repository: `owner/name`, or a name of one's own.
        folder: The folder to make; the repository's name if None.
        revision: Branch, tag or commit; the newest commit of the main branch if None.
        files: Names of files, or patterns such as "vae/*", to get just these. Empty: the files of the model, with card,
            licence and samples.
        token: A user token; None is that of `hf auth login`, or HF_TOKEN.

    Raises:
        UnknownNameError: If there is no such repository, or the user may not read it.
        InputError: If it has no model, names files that lead out of the folder, or the folder holds other files.
        CheckpointError: If the repository's weights are damaged or not whole.
        HubError: If the Hub fails, or files arrive changed; running it again goes on.
    """
    hub = Hub(token)
    source = hub.look(hub.full_name(repository), revision)
    if not source.exists:
        raise unknown_repository(source.name)
    wanted = _wanted(hub, source, files)
    target = Path(folder if folder is not None else source.name.partition("/")[2]).expanduser()
    was_there = _check_target(target, wanted)
    if not was_there:
        staging = target.absolute().with_name(f".{target.name}.pull")
        staging.mkdir(parents=True, exist_ok=True)
        _check_room(staging, wanted)
        for name, expected in wanted.items():
            _fetch(hub, source, name, expected, staging)
        _finish(staging, set(wanted), target, check=not files)
    left_out = tuple(sorted(name for name in source.files if name not in wanted))
    sizes = {name: expected.size for name, expected in wanted.items()}
    return Download(target, source.name, source.commit, sizes, left_out, was_there)


def has_content(path: Path, expected: RemoteFile) -> bool:
    """Whether a file has the size and the hash that a repository states."""
    if not path.is_file() or path.stat().st_size != expected.size:
        return False
    if expected.sha256 is not None:
        digest, stated = hashlib.sha256(), expected.sha256
    else:
        digest, stated = hashlib.sha1(b"blob %d\0" % expected.size, usedforsecurity=False), expected.blob
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == stated


def _wanted(hub: Hub, source: Repository, patterns: Sequence[str]) -> dict[str, RemoteFile]:
    """The files to get, checked for names that a folder can't hold."""
    if patterns:
        names = [name for name in source.files if any(fnmatchcase(name, pattern) for pattern in patterns)]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InputError(
                    f"{source.name} has no file {pattern!r}",
                    expected=f"one of {', '.join(sorted(source.files)[:20])}",
                )
    else:
        contents = describe_repository(hub, source, list(source.files))
        if contents.kind in (EMPTY, OTHER):
            raise InputError(
                f"{source.name} has no model of LTX-Video", got=contents.seen, fix="name files with --file"
            )
        if contents.kind == SINGLE_FILE and len(contents.weights) > 1:
            raise InputError(
                f"{source.name} has several checkpoints",
                got=", ".join(contents.weights),
                fix="choose with --file",
            )
        names = [name for name in source.files if contents.has(name)]
    spelled: dict[str, str] = {}
    for name in names:
        check_file_name(name)
        other = spelled.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(f"{source.name} has files that differ in case only", got=f"{other} and {name}")
    return {name: source.files[name] for name in sorted(names)}


def _check_target(target: Path, wanted: Mapping[str, RemoteFile]) -> bool:
    """Whether a folder has everything already. One with other content is never touched."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    different = [name for name, expected in wanted.items() if not has_content(target / name, expected)]
    if different:
        raise InputError(
            f"{target} exists and differs from the repository",
            got=f"{len(different)} of {len(wanted)} files missing or other, such as {different[0]}",
            fix="choose another folder, or remove this one first",
        )
    return True


def _check_room(staging: Path, wanted: Mapping[str, RemoteFile]) -> None:
    missing = sum(
        expected.size
        for name, expected in wanted.items()
        if not (staging / name).is_file() or (staging / name).stat().st_size != expected.size
    )
    free = shutil.disk_usage(staging).free
    if missing > free:
        raise InputError(
            f"there is no room for the files in {staging.parent}",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{missing / 1e9:.1f} GB",
        )


def _fetch(hub: Hub, source: Repository, name: str, expected: RemoteFile, staging: Path) -> None:
    """Get one file, unless it is there; a file that arrives changed is thrown away and asked for again."""
    path = staging / name
    for attempt in range(_ATTEMPTS):
        if has_content(path, expected):
            return
        path.unlink(missing_ok=True)
        if attempt:
            time.sleep(_WAIT_SECONDS * 2 ** (attempt - 1))
        try:
            hub.api.hf_hub_download(
                source.name, name, revision=source.commit, local_dir=staging, force_download=True
            )
        except Exception as problem:  # the client's errors have no common base
            if attempt + 1 == _ATTEMPTS or not (is_transient(problem) or _is_short(problem)):
                with hub.errors(source.name, AGAIN):
                    raise
    if not has_content(path, expected):
        path.unlink(missing_ok=True)
        raise HubError(
            f"{name} of {source.name} arrived with another content than the repository states",
            got=f"{_ATTEMPTS} times a wrong size or hash",
            fix=AGAIN,
        )


def _is_short(problem: BaseException) -> bool:
    """Whether the client got fewer bytes than were announced."""
    return type(problem) is OSError and "Consistency check failed" in str(problem)


def _finish(staging: Path, wanted: set[str], target: Path, *, check: bool) -> None:
    """Give the collected files their place, once nothing is missing."""
    shutil.rmtree(staging / ".cache", ignore_errors=True)
    for path in staging.rglob("*"):
        if path.is_file() and path.relative_to(staging).as_posix() not in wanted:
            path.unlink()  # of an earlier try at another revision
    if check:
        read_folder(staging)
    if target.is_dir():
        target.rmdir()  # empty
    staging.rename(target)
