"""One commit with many files: what differs is sent, and shows up all at once.

The client brings large files to the Hub's storage first, found again by their hashes, and then commits. A commit is
tried again only after looking whether the first try arrived after all.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .client import Hub, RemoteFile, Repository, is_transient

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

AGAIN = "run the same again: what has arrived isn't sent twice"

_ATTEMPTS = 3
_WAIT_SECONDS = 1.0

# base, variant and shard of a weight file or an index, as Diffusers and Transformers name them
_WEIGHTS = re.compile(
    r"(?P<base>(?:.*/)?[^/]+?)(?:\.(?P<variant>[^./-]+))?(?:-\d{5}-of-\d{5})?"
    r"\.safetensors(?:\.index(?:\.(?P<index_variant>[^./]+))?\.json)?"
)


@dataclass(frozen=True)
class Plan:
    """What a commit changes in a repository.

    Attributes:
        additions: Files that it hasn't got, or has otherwise.
        unchanged: Files that it has got.
        deletions: Weights of an earlier upload that would be mixed up with these.
    """

    additions: tuple[CommitOperationAdd, ...]
    unchanged: tuple[str, ...]
    deletions: tuple[str, ...]


class Sender:
    """Sends files to a repository.

    Args:
        hub: The Hub.
        files: The files, by their path in the repository: on disk, or their content.
        private: Whether a new repository is private; None is the account's default.
        message: Of the commit.
        create_pr: Whether to open a pull request instead of committing.
    """

    def __init__(
        self,
        hub: Hub,
        files: Mapping[str, Path | bytes],
        *,
        private: bool | None,
        message: str,
        create_pr: bool,
    ) -> None:
        from huggingface_hub import CommitOperationAdd

        self._hub, self._private, self._message, self._create_pr = hub, private, message, create_pr
        self._operations = [CommitOperationAdd(name, source) for name, source in sorted(files.items())]

    def plan(self, target: Repository) -> Plan:
        """What has to be done. Hashes files of which the repository has one of the same name and size."""
        same = [each for each in self._operations if _is_there(each, target.files.get(each.path_in_repo))]
        unchanged = tuple(each.path_in_repo for each in same)
        names = {each.path_in_repo for each in self._operations}
        return Plan(
            tuple(each for each in self._operations if each.path_in_repo not in unchanged),
            unchanged,
            mixed_up(target.files, names),
        )

    def send(self, target: Repository, plan: Plan) -> str | None:
        """Commit.

        Args:
            target: The repository, made if it doesn't exist.
            plan: As `plan(target)` gave it.

        Returns:
            Address of the commit, None if there was nothing to change.

        Raises:
            HubError: If it fails; the repository then is as it was.
        """
        name = target.name
        if not target.exists:
            with self._hub.errors(name):
                self._hub.api.create_repo(name, private=self._private, exist_ok=True)
            target = self._hub.look(name)
            plan = self.plan(target)
        for attempt in range(_ATTEMPTS):
            if not plan.additions and not plan.deletions:
                # Arrived with a try whose answer was lost, or there was nothing to do.
                return f"{self._hub.api.endpoint}/{name}/commit/{target.commit}" if attempt else None
            try:
                return self._commit(target, plan)
            except Exception as problem:  # the client's errors have no common base
                if attempt + 1 == _ATTEMPTS or not is_transient(problem):
                    with self._hub.errors(name, AGAIN):
                        raise
            time.sleep(_WAIT_SECONDS * 2**attempt)
            target = self._hub.look(name)
            plan = self.plan(target)
        raise AssertionError("the last attempt returns or raises")

    def _commit(self, target: Repository, plan: Plan) -> str:
        from huggingface_hub import CommitOperationDelete

        first = _first_of_each_content(plan.additions)
        if len(first) < len(plan.additions):
            # Only so does the Hub know the content of the others before it is asked about them.
            self._hub.api.preupload_lfs_files(target.name, first, create_pr=self._create_pr)
        commit = self._hub.api.create_commit(
            target.name,
            [*plan.additions, *map(CommitOperationDelete, plan.deletions)],
            commit_message=self._message,
            create_pr=self._create_pr,
            parent_commit=target.commit,
        )
        return commit.pr_url or commit.commit_url


def mixed_up(there: Collection[str], new: Collection[str]) -> tuple[str, ...]:
    """Weights in a repository that a loader would take together with, or instead of, new ones.

    They are of the same model and variant but split otherwise: shards beside a whole file, or another number of
    shards, or an index without its shards.

    Args:
        there: Files of the repository.
        new: Files that are being uploaded.
    """
    models = {key for name in new if (key := _model_of(name)) is not None}
    return tuple(sorted(name for name in there if name not in new and _model_of(name) in models))


def _model_of(name: str) -> tuple[str, str | None] | None:
    match = _WEIGHTS.fullmatch(name)
    return None if match is None else (match["base"], match["variant"] or match["index_variant"])


def _is_there(operation: CommitOperationAdd, remote: RemoteFile | None) -> bool:
    """Whether a repository's file has the same content."""
    if remote is None or remote.size != operation.upload_info.size:
        return False
    if remote.sha256 is not None:
        return operation.upload_info.sha256.hex() == remote.sha256
    with operation.as_file() as file:
        content = file.read()
    return git_blob(content) == remote.blob


def git_blob(content: bytes) -> str:
    """The SHA-1 that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _first_of_each_content(operations: Collection[CommitOperationAdd]) -> list[CommitOperationAdd]:
    """The operations without those whose content an earlier one has. Only files of equal size are hashed."""
    sizes: dict[int, set[bytes]] = {}
    counts: dict[int, int] = {}
    for each in operations:
        counts[each.upload_info.size] = counts.get(each.upload_info.size, 0) + 1
    first = []
    for each in operations:
        size = each.upload_info.size
        if counts[size] > 1:
            known = sizes.setdefault(size, set())
            if each.upload_info.sha256 in known:
                continue
            known.add(each.upload_info.sha256)
        first.append(each)
    return first
