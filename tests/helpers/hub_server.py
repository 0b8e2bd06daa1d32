"""A Hub on loopback: as much of the protocol as `huggingface_hub` speaks, with faults to inject.

Repositories with commits, the LFS storage with single and multipart uploads and its hash check, downloads with range
requests and redirects. Xet isn't spoken: clients must run with HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_" + "SecretSecretSecret0123456789"
READER = "hf_" + "ReadOnlyReadOnlyReadOnly0"
STRANGER = "hf_" + "StrangerStrangerStranger0"
"""Tokens of ada, of ada for reading only, and of eve. None of them may ever be seen in any output."""

LFS_FROM_BYTES = 4096
"""Files at least this long, and weights and videos of any length, go to the LFS storage."""

_LFS_SUFFIXES = (".safetensors", ".mp4", ".gif")


@dataclass
class User:
    """An account: its token, its role, and its organisations with its role in each."""

    name: str
    token: str
    role: str = "write"
    orgs: dict[str, str] = field(default_factory=dict)


@dataclass
class Repo:
    """A repository: its commits, each with all of its files by path."""

    id: str
    kind: str
    private: bool
    writers: set[str]
    commits: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)
    lfs: set[str] = field(default_factory=set)

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][2]

    def at(self, revision: str) -> dict[str, bytes] | None:
        if revision == "main":
            return self.files
        return next((files for commit, _, files in self.commits if commit == revision), None)

    def commit(self, message: str, files: dict[str, bytes]) -> str:
        text = f"{self.id} {len(self.commits)} {message} {sorted(files)}"
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), message, files))
        return self.head


@dataclass
class Fault:
    """What goes wrong, for the next requests of a kind.

    Attributes:
        method: Of the requests.
        path: Pattern that their path must hold.
        action: A status code to answer with; "cut" (the connection ends inside the body, sent or received);
            "lost" (the request is served, and the connection ends before the answer); "corrupt" (a byte of the content,
            sent or received, is changed).
        times: For how many requests.
    """

    method: str
    path: str
    action: int | str
    times: int = 1


class HubServer:
    """The server. Use as a context manager; `url` is what HF_ENDPOINT must be.

    Attributes:
        repos: Repositories by (kind, id).
        storage: LFS objects by their SHA-256.
        requests: Method and path of every request so far.
        uploads: SHA-256 (or the URL's path for a part) of every upload that was received whole.
        headers: Headers of every request, in the same order, their names in lower case.
        storage_url: Where the content of large files is sent and fetched.
        part_bytes: LFS objects longer than this are uploaded in parts.
    """

    def __init__(self, *users: User, part_bytes: int = 1 << 30) -> None:
        self.users = {user.token: user for user in users}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.storage: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.uploads: list[str] = []
        self.faults: list[Fault] = []
        self.part_bytes = part_bytes
        self.lock = threading.Lock()
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        # Content comes from another host than the rest, as at the Hub: clients must not take the token there.
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> HubServer:
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def make_repo(
        self, id: str, files: dict[str, bytes] | None = None, *, kind: str = "model", private: bool = False
    ) -> Repo:
        """A repository with one commit; large files and weights in the LFS storage."""
        repo = Repo(id, kind, private, {id.partition("/")[0]})
        content = {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})}
        repo.commit("initial commit", content)
        for name, data in content.items():
            if is_lfs(name, len(data)):
                oid = hashlib.sha256(data).hexdigest()
                self.storage[oid] = data
                repo.lfs.add(oid)
        self.repos[kind, id] = repo
        return repo

    def fail(self, method: str, path: str, action: int | str, times: int = 1) -> Fault:
        """Let the next requests of a kind go wrong."""
        self.faults.append(Fault(method, path, action, times))
        return self.faults[-1]

    def count(self, method: str, path: str) -> int:
        """How many requests of a kind there were."""
        return sum(each == method and re.search(path, where) is not None for each, where in self.requests)


def is_lfs(name: str, size: int) -> bool:
    """Whether a file goes to the LFS storage."""
    return size > 0 and (size >= LFS_FROM_BYTES or name.endswith(_LFS_SUFFIXES))


def git_blob(data: bytes) -> str:
    """Git's hash of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Failed(Exception):
    """An answer that isn't success."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    # --- requests -----------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        self._serve(_GET)

    def do_HEAD(self) -> None:
        self._serve(_GET)

    def do_POST(self) -> None:
        self._serve(_POST)

    def do_PUT(self) -> None:
        self._serve(_PUT)

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self, routes: list[tuple[re.Pattern, Callable]]) -> None:
        split = urlsplit(self.path)
        self.where, self.query = unquote(split.path), parse_qs(split.query)
        with self.hub.lock:
            self.hub.requests.append((self.command, self.where))
            self.hub.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.fault = self._next_fault()
        self.body = self._read_body()
        if self.body is None:
            return
        try:
            if isinstance(self.fault, int):
                raise _Failed(self.fault, "injected fault")
            for pattern, handle in routes:
                if match := pattern.fullmatch(self.where):
                    handle(self, **match.groupdict())
                    return
            raise _Failed(404, f"no such endpoint: {self.command} {self.where}")
        except _Failed as failed:
            headers = {"X-Error-Message": failed.message} | (
                {"X-Error-Code": failed.code} if failed.code else {}
            )
            self._answer(failed.status, {"error": failed.message}, headers)

    def _next_fault(self) -> int | str | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times and fault.method == self.command and re.search(fault.path, self.where):
                    fault.times -= 1
                    return fault.action
        return None

    def _read_body(self) -> bytes | None:
        """The request's body; None if the connection was cut in it."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length // 2 if self.fault == "cut" else length)
        if self.fault == "cut" and self.command != "GET":
            self._hang_up()
            return None
        if self.fault == "corrupt" and self.command == "PUT":
            body = bytes([body[0] ^ 1]) + body[1:]
        return body

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    # --- answers ------------------------------------------------------------------------------------------------

    def _answer(self, status: int, content: object = None, headers: dict[str, str] | None = None) -> None:
        if self.fault == "lost":
            self._hang_up()
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault == "cut":
            self.wfile.write(data[: len(data) // 2])
            self._hang_up()
        else:
            self.wfile.write(data)

    def _user(self) -> User | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise _Failed(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def _repo(self, kind: str, id: str, *, write: bool = False) -> Repo:
        user = self._user()
        repo = self.hub.repos.get((kind.removesuffix("s"), id))
        owners = {user.name, *user.orgs} if user else set()
        if repo is None or (repo.private and not repo.writers & owners):
            if user is None:
                raise _Failed(401, "Repository not found")
            raise _Failed(404, "Repository not found", "RepoNotFound")
        if write:
            if user is None:
                raise _Failed(401, "Invalid username or password.")
            if not repo.writers & owners or user.role == "read":
                raise _Failed(403, f"You don't have the rights to write to {id}")
        return repo

    def _files(self, repo: Repo, revision: str) -> dict[str, bytes]:
        files = repo.at(revision)
        if files is None:
            raise _Failed(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return files

    # --- endpoints ----------------------------------------------------------------------------------------------

    def whoami(self) -> None:
        user = self._user()
        if user is None:
            raise _Failed(401, "Invalid username or password.")
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in user.orgs.items()]
        token = {"accessToken": {"displayName": "test", "role": user.role}}
        self._answer(
            200, {"type": "user", "name": user.name, "orgs": orgs, "auth": {"type": "access_token", **token}}
        )

    def create(self) -> None:
        user, wanted = self._user(), json.loads(self.body)
        if user is None:
            raise _Failed(401, "Invalid username or password.")
        owner = wanted.get("organization") or user.name
        if owner not in {user.name, *user.orgs} or user.role == "read":
            raise _Failed(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        id, kind = f"{owner}/{wanted['name']}", wanted.get("type", "model")
        url = f"{self.hub.url}/{id}"
        if (kind, id) in self.hub.repos:
            self._answer(409, {"error": f"You already created this {kind} repo", "url": url})
            return
        self.hub.make_repo(id, kind=kind, private=wanted.get("visibility") == "private")
        self._answer(200, {"url": url, "name": id, "id": id})

    def validate_yaml(self) -> None:
        text = json.loads(self.body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        try:
            found = yaml.safe_load(match[1]) if match else {}
            problems = [] if isinstance(found, dict) else ["metadata must be a mapping"]
        except yaml.YAMLError as error:
            problems = [str(error)]
        errors = [{"message": problem} for problem in problems]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def info(self, kind: str, id: str, revision: str = "main") -> None:
        repo = self._repo(kind, id)
        files = self._files(repo, revision)
        card = re.match(rb"---\n(.*?)\n---\n", files.get("README.md", b""), re.DOTALL)
        self._answer(
            200,
            {
                "_id": "0",
                "id": id,
                "modelId": id,
                "sha": repo.head if revision == "main" else revision,
                "private": repo.private,
                "tags": [],
                "siblings": [{"rfilename": name} for name in files],
                "cardData": yaml.safe_load(card[1]) if card else None,
            },
        )

    def auth_check(self, kind: str, id: str, write: str | None) -> None:
        self._repo(kind, id, write=write is not None)
        self._answer(200, {})

    def tree(self, kind: str, id: str, revision: str) -> None:
        repo = self._repo(kind, id)
        entries = []
        for name, data in self._files(repo, revision).items():
            entry = {"type": "file", "path": name, "size": len(data), "oid": git_blob(data)}
            oid = hashlib.sha256(data).hexdigest()
            if oid in repo.lfs:
                entry |= {
                    "oid": git_blob(oid.encode()),
                    "lfs": {"oid": oid, "size": len(data), "pointerSize": 130},
                }
            entries.append(entry)
        self._answer(200, entries)

    def preupload(self, kind: str, id: str, revision: str) -> None:
        repo = self._repo(kind, id, write="create_pr" not in self.query)
        answers = []
        for file in json.loads(self.body)["files"]:
            known = self._files(repo, revision).get(file["path"])
            mode = "lfs" if is_lfs(file["path"], file["size"]) else "regular"
            hashed = {"lfs": lambda data: hashlib.sha256(data).hexdigest(), "regular": git_blob}[mode]
            oid = None if known is None else hashed(known)
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer(200, {"files": answers})

    def lfs_batch(self, id: str) -> None:
        self._repo("model", id, write=True)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer = {"oid": oid, "size": size}
            if oid not in self.hub.storage:
                upload: dict = {"href": f"{self.hub.storage_url}/storage/{oid}"}
                if size > self.hub.part_bytes:
                    count = -(-size // self.hub.part_bytes)
                    upload["href"] = f"{self.hub.url}/complete/{oid}"
                    upload["header"] = {"chunk_size": str(self.hub.part_bytes)} | {
                        str(n): f"{self.hub.storage_url}/part/{oid}/{n}" for n in range(1, count + 1)
                    }
                verify = {"href": f"{self.hub.url}/{id}.git/info/lfs/verify"}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        self._store(oid, self.body)
        with self.hub.lock:
            self.hub.uploads.append(oid)
        self._answer(200)

    def lfs_put_part(self, oid: str, number: str) -> None:
        self.hub.parts[oid, int(number)] = self.body
        with self.hub.lock:
            self.hub.uploads.append(f"{oid}/{number}")
        self._answer(200, headers={"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def lfs_complete(self, oid: str) -> None:
        parts = json.loads(self.body)["parts"]
        stored = [self.hub.parts.get((oid, part["partNumber"]), b"") for part in parts]
        for part, data in zip(parts, stored, strict=True):
            if part["etag"].strip('"') != hashlib.md5(data).hexdigest():
                raise _Failed(400, "InvalidPart")
        self._store(oid, b"".join(stored))
        self._answer(200, {})

    def _store(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise _Failed(400, "BadDigest: the SHA-256 you specified did not match what we received")
        self.hub.storage[oid] = data

    def lfs_verify(self, id: str) -> None:
        wanted = json.loads(self.body)
        if len(self.hub.storage.get(wanted["oid"], b"")) != wanted["size"]:
            raise _Failed(404, "Object does not exist")
        self._answer(200, {})

    def commit(self, kind: str, id: str, revision: str) -> None:
        is_pr = "create_pr" in self.query
        repo = self._repo(kind, id, write=not is_pr)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, repo.head):
            raise _Failed(412, "A commit has happened since. Please refresh and try again.")
        files, lfs = dict(repo.files), set()
        for line in lines[1:]:
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.storage:
                    raise _Failed(
                        400, f"Your push was rejected because the LFS object {value['oid']} is missing"
                    )
                files[value["path"]] = self.hub.storage[value["oid"]]
                lfs.add(value["oid"])
            elif key == "deletedFile" and files.pop(value["path"], None) is None:
                raise _Failed(404, "A file with this name doesn't exist", "EntryNotFound")
        answer = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.hub.url}/{id}/commit/0"}
        if is_pr:
            answer["pullRequestUrl"] = f"{self.hub.url}/{id}/discussions/1"
        else:
            repo.lfs |= lfs
            sha = repo.commit(header["summary"], files)
            answer |= {"commitOid": sha, "commitUrl": f"{self.hub.url}/{id}/commit/{sha}"}
        self._answer(200, answer)

    def resolve(self, id: str, revision: str, name: str) -> None:
        repo = self._repo("model", id)
        files = self._files(repo, revision)
        if name not in files:
            raise _Failed(404, "Entry not found", "EntryNotFound")
        data, oid = files[name], hashlib.sha256(files[name]).hexdigest()
        headers = {"X-Repo-Commit": repo.head if revision == "main" else revision, "Accept-Ranges": "bytes"}
        if oid not in repo.lfs:
            self._content(data, headers | {"ETag": f'"{git_blob(data)}"'})
            return
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        self._answer(302, b"", headers | {"Location": f"{self.hub.storage_url}/storage/{oid}"})

    def lfs_get(self, oid: str) -> None:
        if oid not in self.hub.storage:
            raise _Failed(404, "no such object")
        self._content(self.hub.storage[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _content(self, data: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if self.fault == "corrupt":
            data = bytes([data[0] ^ 1]) + data[1:]
        if wanted is None:
            self._answer(200, data, headers)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first >= len(data):
            raise _Failed(416, "range not satisfiable")
        headers |= {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        self._answer(206, data[first : last + 1], headers)


_ID = r"(?P<id>[^/]+/[^/]+?)"
_KIND = r"/api/(?P<kind>models|datasets|spaces)/"


def _routes(table: dict[str, Callable]) -> list[tuple[re.Pattern, Callable]]:
    return [(re.compile(pattern), handle) for pattern, handle in table.items()]


_GET = _routes(
    {
        r"/api/whoami-v2": _Handler.whoami,
        _KIND + _ID + r"/auth-check(?P<write>/write)?": _Handler.auth_check,
        _KIND + _ID + r"/tree/(?P<revision>[^/]+)": _Handler.tree,
        _KIND + _ID + r"/revision/(?P<revision>[^/]+)": _Handler.info,
        _KIND + _ID: _Handler.info,
        r"/storage/(?P<oid>\w+)": _Handler.lfs_get,
        r"/" + _ID + r"/resolve/(?P<revision>[^/]+)/(?P<name>.+)": _Handler.resolve,
    }
)
_POST = _routes(
    {
        r"/api/repos/create": _Handler.create,
        r"/api/validate-yaml": _Handler.validate_yaml,
        _KIND + _ID + r"/preupload/(?P<revision>[^/]+)": _Handler.preupload,
        _KIND + _ID + r"/commit/(?P<revision>[^/]+)": _Handler.commit,
        r"/" + _ID + r"\.git/info/lfs/objects/batch": _Handler.lfs_batch,
        r"/" + _ID + r"\.git/info/lfs/verify": _Handler.lfs_verify,
        r"/complete/(?P<oid>\w+)": _Handler.lfs_complete,
    }
)
_PUT = _routes(
    {
        r"/storage/(?P<oid>\w+)": _Handler.lfs_put,
        r"/part/(?P<oid>\w+)/(?P<number>\d+)": _Handler.lfs_put_part,
    }
)
