"""What goes wrong on the way to the Hub and back: nothing is lost, nothing is half visible, no token is shown."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.hub_server import TOKEN, HubServer

from ltx_diffusers.errors import HubError, InputError, LTXError
from ltx_diffusers.hub.pull import pull
from ltx_diffusers.hub.push import push_folder

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
ALWAYS = 1000


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """All that any library has logged, down to debugging."""
    names = (None, "huggingface_hub", "httpx2", "httpcore2", "ltx_diffusers")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.propagate = True
    yield lambda: "\n".join(f"{record.getMessage()} {record.exc_text or ''}" for record in caplog.records)
    for logger, (level, propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate


def is_empty(hub: HubServer) -> bool:
    """Whether nothing of an upload is visible."""
    repo = hub.repos.get(("model", "ada/tiny"))
    return repo is None or list(repo.files) == [".gitattributes"]


def is_whole(hub: HubServer, model: Path) -> bool:
    files = hub.repos["model", "ada/tiny"].files
    local = {path.relative_to(model).as_posix(): path for path in model.rglob("*") if path.is_file()}
    return all(files.get(name) == path.read_bytes() for name, path in local.items() if path.suffix != ".json")


PASSING = [
    ("POST", "/preupload/", 500),
    ("POST", "/objects/batch", 503),
    ("PUT", "/storage/", 500),
    ("PUT", "/storage/", "cut"),
    ("POST", "/verify", 502),
    ("POST", "/commit/", 500),
    ("POST", "/commit/", "cut"),
    ("POST", "/commit/", "lost"),
    ("POST", "/commit/", 429),
]


@pytest.mark.parametrize(("method", "path", "action"), PASSING)
def test_an_upload_survives_what_passes(
    hub: HubServer, model: Path, method: str, path: str, action: int | str
) -> None:
    fault = hub.fail(method, path, action)
    upload = push_folder(model, "tiny")
    assert fault.times == 0
    repo = hub.repos["model", "ada/tiny"]
    assert is_whole(hub, model)
    assert len(repo.commits) == 2, "one commit, even if the answer to the first try was lost"
    assert upload.url.endswith(repo.head)
    assert len(hub.uploads) == len(set(hub.uploads)) == 3


LASTING = [
    ("POST", "/preupload/", 500, 0),
    ("POST", "/objects/batch", 500, 0),
    ("PUT", "/storage/", 500, 0),
    ("PUT", "/storage/", "cut", 0),
    ("PUT", "/storage/", "corrupt", 0),
    ("POST", "/commit/", 500, 3),
    ("POST", "/commit/", "cut", 3),
    ("POST", "/commit/", 413, 3),
]


@pytest.mark.parametrize(("method", "path", "action", "arrived"), LASTING)
def test_a_failed_upload_shows_nothing_and_goes_on(
    hub: HubServer, model: Path, method: str, path: str, action: int | str, arrived: int
) -> None:
    fault = hub.fail(method, path, action, times=ALWAYS)
    with pytest.raises((HubError, InputError)) as caught:
        push_folder(model, "tiny")
    assert is_empty(hub)
    assert fault.times < ALWAYS
    assert "ada/tiny" in str(caught.value)
    if isinstance(caught.value, HubError):
        assert "what has arrived isn't sent twice" in str(caught.value)
    assert len(hub.storage) == arrived

    fault.times = 0
    push_folder(model, "tiny")
    assert is_whole(hub, model)
    assert len(hub.storage) == 3
    assert len(hub.uploads) == len(set(hub.uploads)) == 3, "nothing was sent twice"


def test_an_upload_that_stops_between_files_goes_on_with_the_rest(hub: HubServer, model: Path) -> None:
    hub.part_bytes = 500_000
    fault = hub.fail("PUT", "/part/.*/2", 500, times=ALWAYS)
    with pytest.raises(HubError):
        push_folder(model, "tiny")
    assert is_empty(hub)
    arrived = set(hub.storage)
    fault.times = 0
    push_folder(model, "tiny")
    assert is_whole(hub, model)
    assert all(hub.uploads.count(oid) == 1 for oid in arrived)


def test_an_interrupted_upload(hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr("huggingface_hub.hf_api.HfApi.create_commit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            push_folder(model, "tiny")
    assert is_empty(hub)
    push_folder(model, "tiny")
    assert is_whole(hub, model)


def test_someone_else_commits_meanwhile(hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    hub.make_repo("ada/tiny")
    commit = HfApi.create_commit

    def after_another(self: HfApi, *args: object, **kwargs: object) -> object:
        repo = hub.repos["model", "ada/tiny"]
        repo.commit("theirs", repo.files | {"theirs.txt": b"."})
        return commit(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", after_another)
    with pytest.raises(HubError, match="changed by someone else meanwhile"):
        push_folder(model, "ada/tiny")
    assert set(hub.repos["model", "ada/tiny"].files) == {".gitattributes", "theirs.txt"}


def test_an_earlier_version_stays_until_the_new_one_is_whole(hub: HubServer, model: Path) -> None:
    push_folder(model, "tiny")
    before = dict(hub.repos["model", "ada/tiny"].files)
    config = model / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"clamp_shift": false', '"clamp_shift": true'))
    hub.fail("POST", "/commit/", 500, times=ALWAYS)
    with pytest.raises(HubError):
        push_folder(model, "tiny")
    assert hub.repos["model", "ada/tiny"].files == before


# --- downloads --------------------------------------------------------------------------------------------------


@pytest.fixture
def pushed(hub: HubServer, model: Path) -> HubServer:
    push_folder(model, "tiny")
    return hub


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("GET", "/storage/", "cut"),
        ("GET", "/storage/", "corrupt"),
        ("GET", "/storage/", 500),
        ("HEAD", "/resolve/", 503),
        ("GET", "/resolve/.*/vae/config.json", "corrupt"),
        ("GET", "/resolve/.*/vae/config.json", "cut"),
    ],
)
def test_a_download_survives_what_passes(
    pushed: HubServer, model: Path, tmp_path: Path, method: str, path: str, action: int | str
) -> None:
    fault = pushed.fail(method, path, action)
    pull("ada/tiny", tmp_path / "got")
    assert fault.times == 0
    assert (tmp_path / "got" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if "got" in path.name) == ["got"]


def test_a_cut_download_goes_on_where_it_stopped(
    pushed: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    pushed.fail("GET", "/storage/", "cut")
    pull("ada/tiny", tmp_path / "got", files=[WEIGHTS])
    ranges = [
        headers["range"]
        for (method, path), headers in zip(pushed.requests, pushed.headers, strict=True)
        if method == "GET" and path.startswith("/storage/") and "range" in headers
    ]
    assert len(ranges) == 1
    assert int(ranges[0].removeprefix("bytes=").rstrip("-")) > 0


@pytest.mark.parametrize("action", ["corrupt", "cut", 500])
def test_a_failed_download_leaves_no_folder_and_goes_on(
    pushed: HubServer, model: Path, tmp_path: Path, action: int | str
) -> None:
    fault = pushed.fail("GET", "/storage/", action, times=ALWAYS)
    with pytest.raises(HubError, match="what has arrived is kept"):
        pull("ada/tiny", tmp_path / "got")
    assert not (tmp_path / "got").exists()

    fault.times = 0
    before = len(pushed.requests)
    pull("ada/tiny", tmp_path / "got")
    assert (tmp_path / "got" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    again = {path.split("/", 5)[-1] for method, path in pushed.requests[before:] if "/resolve/" in path}
    assert "README.md" not in again, "what had arrived was asked for again"
    assert not (tmp_path / ".got.pull").exists()


def test_a_file_that_was_damaged_between_two_tries_is_fetched_again(
    pushed: HubServer, model: Path, tmp_path: Path
) -> None:
    fault = pushed.fail("GET", "/storage/", 500, times=ALWAYS)
    with pytest.raises(HubError):
        pull("ada/tiny", tmp_path / "got")
    kept = tmp_path / ".got.pull" / "README.md"
    kept.write_bytes(b"x" * kept.stat().st_size)
    fault.times = 0
    pull("ada/tiny", tmp_path / "got")
    assert (tmp_path / "got" / "README.md").read_bytes() == pushed.repos["model", "ada/tiny"].files[
        "README.md"
    ]


# --- the token --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "action", "_"), LASTING)
def test_no_fault_shows_the_token(
    hub: HubServer,
    model: Path,
    logged: Callable[[], str],
    capfd: pytest.CaptureFixture[str],
    method: str,
    path: str,
    action: int | str,
    _: int,
) -> None:
    hub.fail(method, path, action, times=ALWAYS)
    with pytest.raises(LTXError) as caught:
        push_folder(model, "tiny", token=TOKEN)
    shown = "".join(traceback.format_exception(caught.value))
    output = capfd.readouterr()
    assert "huggingface_hub" in logged() or "HTTP" in logged(), "nothing was logged, so nothing was tested"
    for text in (shown, logged(), output.out, output.err):
        assert TOKEN not in text
        assert TOKEN[-10:] not in text


def test_a_token_in_the_servers_answer_is_taken_out(hub: HubServer, model: Path) -> None:
    """A proxy may give back what it was sent."""

    def spill(handler: object, **_: object) -> None:
        handler._answer(500, {"error": f"no route for {handler.headers['Authorization']}"})

    from helpers import hub_server

    patched = [
        (pattern, spill if "auth-check" in pattern.pattern else handle) for pattern, handle in hub_server._GET
    ]
    hub.make_repo("ada/tiny")
    original, hub_server._GET[:] = list(hub_server._GET), patched
    try:
        with pytest.raises(HubError) as caught:
            push_folder(model, "ada/tiny")
    finally:
        hub_server._GET[:] = original
    assert "no route for Bearer <token>" in str(caught.value)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_the_token_goes_to_the_hub_only(hub: HubServer, model: Path, tmp_path: Path) -> None:
    push_folder(model, "tiny", private=True)
    pull("ada/tiny", tmp_path / "got")
    seen = {True: 0, False: 0}
    for (_, path), headers in zip(hub.requests, hub.headers, strict=True):
        elsewhere = path.startswith(("/storage/", "/part/"))
        seen[elsewhere] += 1
        assert ("authorization" in headers) is (not elsewhere and path != "/api/agent-harnesses")
    assert min(seen.values()) > 5
    assert all(TOKEN.encode() not in data for data in hub.repos["model", "ada/tiny"].files.values())
