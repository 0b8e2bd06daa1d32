"""The Hub's client with this library's errors, and without a word of the token.

Whatever the client raises is turned into one line that says what to do; a token that might stand in its text is
taken out, and the client's exception isn't chained, so that a traceback doesn't show it either.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HubError, InputError, LTXError
from .contents import Contents, describe_files
from .inspection import FolderFiles
from .sources import unknown_repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HIDDEN = "<token>"
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"

_LIKE_A_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}")
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_MAX_JSON_BYTES = 2**24
_WRITING_ROLES = ("admin", "write", "contributor")


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository.

    Attributes:
        size: In bytes.
        sha256: Of its content if it is stored as a large file.
        blob: Git's SHA-1 of its content otherwise.
    """

    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class Repository:
    """A model repository as it was at one commit.

    Attributes:
        name: `owner/name`.
        commit: The commit; None if there is no such repository yet.
        private: Whether only its owner may read it.
        files: Its files by path.
    """

    name: str
    commit: str | None
    private: bool
    files: dict[str, RemoteFile]

    @property
    def exists(self) -> bool:
        """Whether the Hub has it."""
        return self.commit is not None


class Hub:
    """What push and pull ask of the Hub.

    Args:
        token: A user token. None: that of `hf auth login`, or HF_TOKEN.

    Raises:
        InputError: If the token has characters that no token has; the message doesn't show them.
    """

    def __init__(self, token: str | None = None) -> None:
        from huggingface_hub import HfApi, get_token

        from .. import __version__

        token = token.strip() if token is not None else get_token()
        if token is not None and re.fullmatch(r"[!-~]+", token) is None:
            raise InputError("the token has spaces or characters that no token has", fix=LOG_IN)
        self._token = token
        self._user: dict[str, Any] | None = None
        # False: a client without a token must not go and look for one itself.
        self.api: HfApi = HfApi(
            token=token or False, library_name="ltx-diffusers", library_version=__version__
        )

    def full_name(self, repository: str) -> str:
        """`owner/name`; a bare name is one of the user's own.

        Raises:
            InputError: If it can't be a repository's name, or lacks the owner and nobody is logged in.
            HubError: If the user isn't known.
        """
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise InputError(
                "this can't be a repository's name",
                got=repr(repository),
                expected="owner/name",
                fix=f"({error})",
            ) from None
        if "/" in repository:
            return repository
        if self._token is None:
            raise InputError(
                "a name without an owner is one of your own, and nobody is logged in",
                got=repr(repository),
                expected="owner/name",
                fix=f"or {LOG_IN}",
            )
        return f"{self.user(repository)['name']}/{repository}"

    def user(self, repository: str) -> dict[str, Any]:
        """Who the token's user is, as the Hub tells it.

        Raises:
            HubError: If there is no token, or the Hub doesn't know it.
        """
        if self._user is None:
            with self.errors(repository):
                self._user = self.api.whoami()
        return self._user

    def look(self, repository: str, revision: str | None = None) -> Repository:
        """A repository's newest commit, or the revision's, with its files.

        Raises:
            HubError: If the Hub can't be reached, or has no such revision.
        """
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        with self.errors(repository):
            try:
                info = self.api.model_info(repository, revision=revision)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return Repository(repository, None, False, {})
            entries = self.api.list_repo_tree(repository, recursive=True, revision=info.sha)
            return Repository(
                repository,
                info.sha,
                bool(info.private),
                {entry.path: _remote_file(entry) for entry in entries if isinstance(entry, RepoFile)},
            )

    def license_of(self, repository: str) -> dict[str, str]:
        """What a repository's card says of its licence: license, license_name, license_link; {} if it can't be read."""
        try:
            with self.errors(repository):
                data = self.api.model_info(repository).card_data
        except LTXError:
            return {}
        card = data.to_dict() if data else {}
        return {key: card[key] for key in ("license", "license_name", "license_link") if card.get(key)}

    def other_kind(self, repository: str) -> str | None:
        """What else the Hub has under this name, a dataset or a Space, if anything."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with self.errors(repository):
            for kind in ("dataset", "space"):
                try:
                    self.api.repo_info(repository, repo_type=kind)
                    return kind
                except RepositoryNotFoundError:
                    continue
        return None

    def check_rights(self, repository: Repository) -> None:
        """Find out before any work whether the user may write here.

        Raises:
            HubError: If not.
        """
        user = self.user(repository.name)
        role = ((user.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise HubError(
                f"the token may only read, so nothing can be uploaded to {repository.name}",
                fix="make a token with write permission at the Hub's settings, and log in with it",
            )
        if repository.exists:
            with self.errors(repository.name):
                self.api.auth_check(repository.name, write=True)
            return
        owner = repository.name.partition("/")[0]
        organisations = {
            organisation["name"]
            for organisation in user.get("orgs") or ()
            if organisation.get("roleInOrg") in (None, *_WRITING_ROLES)
        }
        if owner not in {user["name"], *organisations}:
            raise HubError(
                f"you may not make a repository for {owner!r}",
                got=f"the user {user['name']}",
                expected=f"one of {', '.join(sorted({user['name'], *organisations}))} as owner",
            )

    def without_token(self, text: object) -> str:
        """A text with this token, and whatever else looks like one, taken out."""
        shown = str(text)
        if self._token:
            shown = shown.replace(self._token, HIDDEN)
        return _LIKE_A_TOKEN.sub(HIDDEN, shown)

    @contextmanager
    def errors(self, repository: str, again: str | None = None) -> Iterator[None]:
        """Turn what the client raises inside into this library's errors.

        Args:
            repository: What is being spoken to.
            again: What to do after a failure that may pass; "try again" if None.
        """
        try:
            yield
        except LTXError:
            raise
        except Exception as problem:  # the client's errors have no common base
            raise self._translated(repository, problem, again or "try again") from None

    def _translated(self, repository: str, problem: Exception, again: str) -> LTXError:
        from huggingface_hub import errors

        cause = root_cause(problem)
        status = status_of(cause)
        said = self.without_token(getattr(cause, "server_message", None) or cause).strip().partition("\n")[0]
        known = f"HTTP {status}: {said[:300]}" if status else f"{type(cause).__name__}: {said[:300]}"
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return HubError(f"{repository} needs the Hub, and HF_HUB_OFFLINE is set", fix="unset it")
        if isinstance(cause, errors.LocalTokenNotFoundError) or status == 401:
            return HubError("the Hub doesn't know who you are", got=known, fix=LOG_IN)
        if isinstance(cause, errors.GatedRepoError):
            return HubError(f"{repository} is gated", fix="ask for access on its page, and log in")
        if isinstance(cause, errors.RepositoryNotFoundError):
            return unknown_repository(repository)
        if isinstance(cause, errors.RevisionNotFoundError):
            return HubError(f"{repository} has no such revision", got=known)
        if status == 403:
            return HubError(
                f"you have no right to this on {repository}", got=known, fix=f"use your own name, or {LOG_IN}"
            )
        if status in (409, 412):
            return HubError(f"{repository} was changed by someone else meanwhile", got=known, fix=again)
        if isinstance(cause, ValueError) and not is_transient(cause):
            return InputError(f"the Hub won't take this for {repository}", got=known)
        return HubError(f"the Hub failed while {repository} was worked on", got=known, fix=again)


def describe_repository(
    hub: Hub, repository: Repository, names: Collection[str], prefix: str = ""
) -> Contents:
    """What a repository holds, told from its JSON files and the heads of its weight files.

    Args:
        hub: The Hub.
        repository: The repository.
        names: Its files, without `prefix`.
        prefix: The folder that they lie in, with a slash.

    Raises:
        InputError: If a JSON file is none, or absurdly long.
        HubError: If the Hub fails.
    """

    def read_json(name: str) -> dict[str, Any]:
        size = repository.files[prefix + name].size
        if size > _MAX_JSON_BYTES:
            raise InputError(
                f"{name} of {repository.name} is too long for what it should be", got=f"{size} bytes"
            )
        with hub.errors(repository.name):
            path = hub.api.hf_hub_download(repository.name, prefix + name, revision=repository.commit)
        return FolderFiles(Path(path).parent).read_json(Path(path).name)

    def read_tensor_names(name: str) -> list[str]:
        with hub.errors(repository.name):
            found = hub.api.parse_safetensors_file_metadata(
                repository.name, prefix + name, revision=repository.commit
            )
        return list(found.tensors)

    return describe_files(names, read_json, read_tensor_names)


def root_cause(problem: BaseException) -> BaseException:
    """The error below those that only say where it happened (`raise RuntimeError(...) from cause`)."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    wrappers = (RuntimeError, ValueError, LocalEntryNotFoundError)
    while type(problem) in wrappers and problem.__cause__ is not None:
        problem = problem.__cause__
    return problem


def status_of(problem: BaseException) -> int | None:
    """The HTTP status in an error of the client, if it is about one."""
    return getattr(getattr(problem, "response", None), "status_code", None)


def is_transient(problem: BaseException) -> bool:
    """Whether the same request may succeed later: the network, or the server's own trouble."""
    from huggingface_hub.utils._http import _DEFAULT_RETRY_ON_EXCEPTIONS

    cause = root_cause(problem)
    return isinstance(cause, _DEFAULT_RETRY_ON_EXCEPTIONS) or status_of(cause) in _TRANSIENT


def _remote_file(entry: Any) -> RemoteFile:
    if entry.lfs is not None:
        return RemoteFile(entry.lfs.size, entry.lfs.sha256, None)
    return RemoteFile(entry.size, None, entry.blob_id)
