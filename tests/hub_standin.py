"""A loopback stand-in for the Hugging Face Hub, for tests that use the real clients.

The calls that ``huggingface_hub``, ``datasets.load_dataset`` and ``timm.create_model`` make are answered from memory,
so the clients run unchanged with ``HF_ENDPOINT`` pointing here. The answers follow the clients' code, not the live Hub.

Not imitated: LFS and Xet transfers (every download comes from here, and every upload is a regular file, which
``Dataset.push_to_hub`` cannot do), pages in ``/api/...`` answers, making branches, tags and pull
requests, search, Spaces, and the dataset viewer, which is a second host. A call not served gets a 404 that says so.
An unknown repository is a 404 to everyone, where the Hub gives a caller without a token a 401.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

Files: TypeAlias = Mapping[str, bytes]
TOKEN: Final = "hf_standin_owner"  # may read and write everything
STRANGER_TOKEN: Final = "hf_standin_stranger"  # a real account that no gated or private repository lets in

_DATE: Final = "2024-01-01T00:00:00.000Z"
_LFS_SUFFIXES: Final = (".arrow", ".bin", ".ckpt", ".parquet", ".pt", ".pth", ".safetensors", ".tar", ".zip")
_RESOLVE: Final = re.compile(r"/(datasets/)?((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)")
_API: Final = re.compile(
    r"/api/(model|dataset)s/((?:[^/]+/)?[^/]+?)"
    r"(?:/(revision|tree|paths-info|auth-check|preupload|commit)(?:/([^/]+))?(?:/(.+))?)?"
)


@dataclass(frozen=True)
class Request:
    """One request as it arrived: header names are lower case, the path keeps its query."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Fault:
    """A failure to play back; ``left`` counts down, and may be set to 0 to end it early."""

    pattern: re.Pattern[str]
    method: str | None
    left: int
    status: int
    headers: dict[str, str]
    cut_after: int | None

    def _takes(self, request: Request) -> bool:
        # A HEAD answer has no body to cut, so it must not use up a cut that is meant for the GET after it.
        if self.left < 1 or (self.cut_after is not None and request.method == "HEAD"):
            return False
        return self.method in (None, request.method) and self.pattern.search(unquote(request.path)) is not None


@dataclass(frozen=True)
class _Blob:
    data: bytes

    @cached_property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def sizes(self, path: str, sha_name: str) -> dict[str, object]:
        size = len(self.data)
        lfs = {"lfs": {sha_name: self.sha256, "size": size, "pointerSize": 134}} if path.endswith(_LFS_SUFFIXES) else {}
        return {"size": size, **lfs}


@dataclass(frozen=True)
class _Commit:
    sha: str
    title: str
    files: dict[str, _Blob]

    def paths(self) -> set[str]:
        folders = {folder.as_posix() for path in self.files for folder in Path(path).parents} - {"."}
        return folders | self.files.keys()

    def entry(self, path: str, expand: bool) -> dict[str, object]:
        entry: dict[str, object] = {"path": path, "type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest()}
        if path in self.files:
            entry |= {"type": "file", "oid": self.files[path].oid, **self.files[path].sizes(path, "oid")}
        return entry | ({"lastCommit": {"id": self.sha, "title": self.title, "date": _DATE}} if expand else {})


@dataclass
class _Repo:
    kind: str
    id: str
    gated: bool = False
    private: bool = False
    branches: dict[str, _Commit] = field(default_factory=dict)
    commits: dict[str, _Commit] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"/datasets/{self.id}" if self.kind == "dataset" else f"/{self.id}"

    def push(self, branch: str, files: Mapping[str, _Blob], title: str) -> _Commit:
        # Only the content enters the hash, so that a test sees the same commit ids on every run.
        parent = self.branches[branch].sha if branch in self.branches else ""
        content = [f"{path} {blob.oid}" for path, blob in sorted(files.items())]
        sha = hashlib.sha1("\n".join([self.url, branch, title, parent, *content]).encode()).hexdigest()
        self.branches[branch] = self.commits[sha] = _Commit(sha, title, dict(files))
        return self.commits[sha]

    def at(self, revision: str) -> _Commit:
        found = self.branches.get(revision) or self.commits.get(revision)
        if found is None:
            raise _HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found


@dataclass(frozen=True)
class _Reply:
    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class _Call:
    repo: _Repo
    revision: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    request: Request

    @property
    def commit(self) -> _Commit:
        return self.repo.at(self.revision)


class _HubError(Exception):
    """An error answer; the clients choose their exception by ``X-Error-Code`` before they look at the status."""

    def __init__(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        codes = {"X-Error-Code": code} if code else {}
        self.reply = _json({"error": message}, status, {"X-Error-Message": message, **codes, **(headers or {})})


def _json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> _Reply:
    return _Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})


def _is_true(query: Mapping[str, list[str]], name: str) -> bool:
    return query.get(name, [""])[0].lower() in ("true", "1")


def _span(wanted: str, size: int) -> tuple[int, int] | None:
    match = re.fullmatch(r"bytes=(?:(\d+)-(\d*)|-(\d+))", wanted)
    if match is None:
        return None
    start = int(match[1]) if match[1] else max(size - int(match[3]), 0)
    stop = min(int(match[2]) + 1, size) if match[2] else size
    if start >= stop:
        raise _HubError(416, None, "Range Not Satisfiable", {"Content-Range": f"bytes */{size}"})
    return start, stop


def _card_data(readme: bytes) -> object:
    """The YAML between the first two `---` lines, as the Hub gives it with a repository's facts."""
    head = readme.decode().split("---\n")
    return yaml.safe_load(head[1]) if len(head) > 2 and not head[0] else None


class HubStandIn:
    """A Hugging Face Hub on 127.0.0.1, served by a daemon thread between ``__enter__`` and ``__exit__``.

    Attributes:
        endpoint: Base address, for ``HF_ENDPOINT``; set once entered.
        requests: Every request so far, oldest first.
    """

    endpoint: str

    def __init__(self) -> None:
        """Create an empty Hub; repositories may be added before or after it is entered."""
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._repos: dict[tuple[str, str], _Repo] = {}
        self._lock = threading.RLock()
        reads = {None: self._info, "revision": self._info, "tree": self._tree, "paths-info": self._paths_info}
        self._reads = reads | {"auth-check": self._auth_check}
        self._writes = {"preupload": self._preupload, "commit": self._commit}

    def __enter__(self) -> Self:
        """Start serving on a free port."""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def add_model(self, repo_id: str, files: Files | Path, *, gated: bool = False, private: bool = False) -> str:
        """Publish a model repository; see :meth:`add_dataset`."""
        return self._add(_Repo("model", repo_id, gated, private), {"main": files})

    def add_dataset(
        self,
        repo_id: str,
        files: Files | Path,
        *,
        gated: bool = False,
        private: bool = False,
        revisions: Mapping[str, Files] | None = None,
    ) -> str:
        """Publish a dataset repository, or a new commit on the main branch of one that exists.

        Args:
            repo_id: Name with its namespace.
            files: Content by path in the repository, or a folder to read whole.
            gated: Only :data:`TOKEN` may download; the listing stays open, as on the Hub.
            private: Only :data:`TOKEN` sees the repository; to others it does not exist.
            revisions: Content of further branches by name.

        Returns:
            The commit id of the main branch.
        """
        return self._add(_Repo("dataset", repo_id, gated, private), {**(revisions or {}), "main": files})

    def files(self, repo_id: str, *, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Return what a ``"model"`` or ``"dataset"`` repository holds, for instance after an upload."""
        with self._lock:
            return {path: blob.data for path, blob in self._repos[kind, repo_id].at(revision).files.items()}

    def environment(self, home: Path) -> dict[str, str]:
        """Return this process's environment, changed so that the Hub clients of a child talk to this server only."""
        foreign = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        for proxy in [name for name in environment if name.lower().endswith("_proxy")]:
            del environment[proxy]
        switched_off = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK")
        environment |= dict.fromkeys(switched_off, "1") | dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
        # `datasets` counts each load by a request to a storage bucket, wherever HF_ENDPOINT points.
        environment |= {"HF_UPDATE_DOWNLOAD_COUNTS": "0", "TORCH_HOME": str(home / "torch")}
        return environment | {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home)}

    def fault(
        self,
        pattern: str,
        *,
        status: int = 503,
        times: int = 1,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        cut_after: int | None = None,
    ) -> Fault:
        """Make the next matching requests fail; several faults are tried in the order they were added.

        Args:
            pattern: Regular expression searched for in the unquoted path and query.
            status: Status to answer with.
            times: Number of requests that fail.
            method: Fail only requests with this method, for instance ``"HEAD"``.
            headers: Headers to answer with: ``Retry-After``, or ``X-Error-Code`` (``GatedRepo``, ``RepoNotFound``).
                Without a code, ``huggingface_hub`` takes a 401 for a missing repository on https only, so not here.
            cut_after: Answer as usual, but close the connection after this many bytes of the body. HEAD requests,
                which get no body, do not match.

        Returns:
            The fault; its ``left`` tells how many failures are outstanding.
        """
        fault = Fault(re.compile(pattern), method, times, status, dict(headers or {}), cut_after)
        with self._lock:
            self._faults.append(fault)
        return fault

    def _add(self, new: _Repo, branches: Mapping[str, Files | Path]) -> str:
        with self._lock:
            repo = self._repos.setdefault((new.kind, new.id), new)
            repo.gated, repo.private = new.gated, new.private
            for branch, files in branches.items():
                if isinstance(files, Path):
                    found = [path for path in files.rglob("*") if path.is_file()]
                    files = {path.relative_to(files).as_posix(): path.read_bytes() for path in found}
                repo.push(branch, {path: _Blob(data) for path, data in files.items()}, "Add files")
            return repo.branches["main"].sha

    def _answer(self, request: Request, body: bytes) -> tuple[_Reply, int | None]:
        """Return the answer, and after how many bytes of its body the connection is to be cut."""
        with self._lock:
            self.requests.append(request)
            fault = next((fault for fault in self._faults if fault._takes(request)), None)
            try:
                if fault is not None:
                    fault.left -= 1
                    if fault.cut_after is None:
                        raise _HubError(fault.status, None, "A fault that the test asked for", fault.headers)
                return self._route(request, body), fault.cut_after if fault else None
            except _HubError as error:
                return error.reply, None

    def _route(self, request: Request, body: bytes) -> _Reply:
        url = urlsplit(request.path)
        account = self._account(request)
        if url.path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        api, resolve = _API.fullmatch(url.path), _RESOLVE.fullmatch(url.path)
        writes = url.path == "/api/repos/create" or (api is not None and api[3] in self._writes)
        if account is None and (writes or url.path == "/api/whoami-v2"):
            raise _HubError(401, None, "Invalid username or password.")
        if writes and account != "owner":
            raise _HubError(403, None, "You don't have the rights to write here")
        if url.path == "/api/whoami-v2":
            return _json({"type": "user", "name": account, "orgs": [], "auth": {"type": "access_token"}})
        if url.path == "/api/repos/create":
            return self._create(json.loads(body))
        match = api or resolve
        if match is None:
            raise _HubError(404, None, f"The stand-in does not serve {request.method} {url.path}")
        kind = "dataset" if match[1] in ("dataset", "datasets/") else "model"
        repo = self._repos.get((kind, unquote(match[2])))
        if repo is None or (repo.private and account != "owner"):
            raise _HubError(404, "RepoNotFound", "Repository not found")
        revision, path = (api[4], api[5]) if api else (match[3], match[4])
        call = _Call(repo, unquote(revision or "main"), unquote(path or ""), parse_qs(url.query), body, request)
        return (self._reads | self._writes)[api[3]](call) if api else self._file(call)

    def _account(self, request: Request) -> str | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN, STRANGER_TOKEN):
            raise _HubError(401, None, "Invalid credentials in Authorization header")
        return {TOKEN: "owner", STRANGER_TOKEN: "stranger"}.get(token)

    def _auth_check(self, call: _Call) -> _Reply:
        account = self._account(call.request)
        if call.repo.gated and account != "owner":
            why = "you are not in the authorized list" if account else "you must be authenticated to access it"
            status, subject = 403 if account else 401, f"{call.repo.kind} {call.repo.id}"
            raise _HubError(status, "GatedRepo", f"Access to {subject} is restricted and {why}.")
        return _json({})

    def _file(self, call: _Call) -> _Reply:
        self._auth_check(call)
        blob = call.commit.files.get(call.path)
        headers = {"X-Repo-Commit": call.commit.sha, "Accept-Ranges": "bytes"}
        if blob is None:
            raise _HubError(404, "EntryNotFound", "Entry not found", headers)
        is_lfs = call.path.endswith(_LFS_SUFFIXES)
        headers |= {"ETag": f'"{blob.sha256 if is_lfs else blob.oid}"', "Content-Type": "application/octet-stream"}
        span = _span(call.request.headers.get("range", ""), len(blob.data))
        if span is None:
            return _Reply(200, blob.data, headers)
        headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{len(blob.data)}"
        return _Reply(206, blob.data[slice(*span)], headers)

    def _info(self, call: _Call) -> _Reply:
        repo, with_blobs = call.repo, _is_true(call.query, "blobs")
        siblings: list[dict[str, object]] = []
        for path, blob in sorted(call.commit.files.items()):
            details = {"blobId": blob.oid, **blob.sizes(path, "sha256")} if with_blobs else {}
            siblings.append({"rfilename": path, **details})
        access = {"private": repo.private, "gated": "auto" if repo.gated else False, "disabled": False}
        info = {"id": repo.id, "author": repo.id.rpartition("/")[0], "sha": call.commit.sha, "lastModified": _DATE}
        card = call.commit.files.get("README.md")
        card_data = {"cardData": _card_data(card.data)} if card else {}
        return _json({**info, **access, **card_data, "createdAt": _DATE, "tags": [], "siblings": siblings})

    def _tree(self, call: _Call) -> _Reply:
        folder = f"{call.path}/" if call.path else ""
        found = sorted(path for path in call.commit.paths() if path.startswith(folder))
        if folder and not found:
            raise _HubError(404, "EntryNotFound", f"{call.path} does not exist on {call.revision}")
        if not _is_true(call.query, "recursive"):
            found = [path for path in found if "/" not in path[len(folder) :]]
        return _json([call.commit.entry(path, _is_true(call.query, "expand")) for path in found])

    def _paths_info(self, call: _Call) -> _Reply:
        form, known = parse_qs(call.body.decode()), call.commit.paths()
        paths = [path for path in form.get("paths", []) if path in known]
        return _json([call.commit.entry(path, _is_true(form, "expand")) for path in paths])

    def _create(self, wanted: Mapping[str, str | None]) -> _Reply:
        new = _Repo(wanted.get("type") or "model", f"{wanted.get('organization') or 'owner'}/{wanted['name']}")
        content = {"url": self.endpoint + new.url, "name": new.id}
        if (new.kind, new.id) in self._repos:
            # `create_repo(exist_ok=True)` reads the address out of this answer too.
            return _json({**content, "error": f"You already created this {new.kind} repo"}, 409)
        new.private = wanted.get("visibility") == "private"
        new.push("main", {".gitattributes": _Blob(b"")}, "initial commit")
        self._repos[new.kind, new.id] = new
        return _json(content)

    def _preupload(self, call: _Call) -> _Reply:
        answers: list[dict[str, object]] = []
        for path in (file["path"] for file in json.loads(call.body)["files"]):
            # The client leaves out of its commit what has the id here that it has there.
            oid = call.commit.files[path].oid if path in call.commit.files else None
            answers.append({"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": oid})
        return _json({"files": answers})

    def _commit(self, call: _Call) -> _Reply:
        if "create_pr" in call.query or call.revision not in call.repo.branches:
            raise _HubError(400, None, "The stand-in commits to existing branches only")
        header, *changes = [json.loads(line) for line in call.body.splitlines()]
        if not call.commit.sha.startswith(header["value"].get("parentCommit", "")):
            raise _HubError(412, None, "A commit has happened since. Please refresh and try again.")
        files = dict(call.commit.files)
        for change in changes:
            _apply(files, change["key"], change["value"])
        commit = call.repo.push(call.revision, files, header["value"]["summary"])
        url = f"{self.endpoint}{call.repo.url}/commit/{commit.sha}"
        return _json({"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""})


def _apply(files: dict[str, _Blob], key: str, value: Mapping[str, str]) -> None:
    """Make one change of a commit, as a line of its NDJSON body states it."""
    path = value["path"]
    if key == "file":
        files[path] = _Blob(base64.b64decode(value["content"]))
        return
    folder = path.rstrip("/") + "/"
    gone = [name for name in files if (name.startswith(folder) if key == "deletedFolder" else name == path)]
    if key not in ("deletedFile", "deletedFolder"):
        raise _HubError(400, None, f"The stand-in does not commit {key} lines")
    if not gone:
        raise _HubError(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
    for name in gone:
        del files[name]


class _Server(ThreadingHTTPServer):
    hub: HubStandIn
    request_queue_size = 64  # with the default of 5, some of a client's parallel downloads wait for a retransmission


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes, which Nagle's algorithm would space 40 ms apart
    server: _Server

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        # The body has to be read even where it is not used: what is left would be taken for the next request.
        body = self.rfile.read(int(headers.get("content-length", 0)))
        reply, cut_after = self.server.hub._answer(Request(self.command, self.path, headers), body)
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[:cut_after])
        if cut_after is not None:
            self.close_connection = True

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        # `HubStandIn.requests` has it all.
        pass
