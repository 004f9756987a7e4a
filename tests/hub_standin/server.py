"""The server: who may do what, which call goes where, and the failures that a test asked for."""

import json
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_standin import accounts, reads, writes
from tests.hub_standin.accounts import Account
from tests.hub_standin.faults import Fault, Request
from tests.hub_standin.repositories import Blob, Call, Commit, HubError, Reply, Repo, answer, is_large
from tests.hub_standin.serving import Server

Files: TypeAlias = Mapping[str, bytes]

_NAME: Final = r"((?:[^/]+/)?[^/]+?)"
_RESOLVE: Final = re.compile(rf"/(datasets/|spaces/)?{_NAME}/resolve/([^/]+)/(.+)")
_BATCH: Final = re.compile(rf"/(datasets/|spaces/)?{_NAME}\.git/info/lfs/objects/batch")
_API: Final = re.compile(
    rf"/api/(model|dataset|space)s/{_NAME}"
    r"(?:/(revision|tree|paths-info|auth-check|preupload|commit|branch|refs)(?:/([^/]+))?(?:/(.+))?)?"
)
_READS: Final = {
    None: reads.info,
    "revision": reads.info,
    "tree": reads.tree,
    "paths-info": reads.paths_info,
    "refs": reads.refs,
}
_WRITES: Final = ("preupload", "commit", "branch")


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
        self._repos: dict[tuple[str, str], Repo] = {}
        self._accounts: dict[str, Account] = dict(accounts.DEFAULT)
        self._stored: dict[str, bytes] = {}  # large files by their SHA-256
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        """Start serving on a free port."""
        self._server = Server(("127.0.0.1", 0), self._answer)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def add_account(self, token: str, account: Account) -> None:
        """Let a token in."""
        self._accounts[token] = account

    def add_model(self, repo_id: str, files: Files | Path, *, gated: bool = False, private: bool = False) -> str:
        """Publish a model repository; see :meth:`add_dataset`."""
        return self._add(Repo("model", repo_id, gated, private), {"main": files})

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
        return self._add(Repo("dataset", repo_id, gated, private), {**(revisions or {}), "main": files})

    def files(self, repo_id: str, *, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Return what a repository holds, for instance after an upload."""
        return {path: blob.data for path, blob in self.head(repo_id, kind=kind, revision=revision).files.items()}

    def head(self, repo_id: str, *, kind: str = "model", revision: str = "main") -> Commit:
        """Return the last commit of a branch."""
        with self._lock:
            return self._repos[kind, repo_id].at(revision)

    def repositories(self) -> dict[str, Repo]:
        """Return the repositories by name."""
        with self._lock:
            return {name: repo for (_, name), repo in self._repos.items()}

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
        corrupt: bool = False,
        after: bool = False,
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
            corrupt: Answer as usual, but with another byte in the middle of the body. HEAD requests do not match.
            after: Do what was asked, and answer with the status all the same.

        Returns:
            The fault; its ``left`` tells how many failures are outstanding.
        """
        fault = Fault(re.compile(pattern), method, times, status, dict(headers or {}), cut_after, corrupt, after)
        with self._lock:
            self._faults.append(fault)
        return fault

    def _add(self, new: Repo, branches: Mapping[str, Files | Path]) -> str:
        with self._lock:
            repo = self._repos.setdefault((new.kind, new.id), new)
            repo.gated, repo.private = new.gated, new.private
            for branch, files in branches.items():
                if isinstance(files, Path):
                    found = [path for path in files.rglob("*") if path.is_file()]
                    files = {path.relative_to(files).as_posix(): path.read_bytes() for path in found}
                blobs = {path: Blob(data, is_large(path, data[:512])) for path, data in files.items()}
                self._stored |= {blob.sha256: blob.data for blob in blobs.values() if blob.large}
                repo.push(branch, blobs, "Add files")
            return repo.branches["main"].sha

    def _answer(self, request: Request, body: bytes) -> tuple[Reply, int | None]:
        """Return the answer, and after how many bytes of its body the connection is to be cut."""
        with self._lock:
            self.requests.append(request)
            fault = next((fault for fault in self._faults if fault.takes(request)), None)
            try:
                if fault is None:
                    return self._route(request, body), None
                fault.left -= 1
                if fault.cut_after is None and not fault.corrupt:
                    if fault.after:
                        self._route(request, body)
                    raise HubError(fault.status, None, "A fault that the test asked for", fault.headers)
                reply = self._route(request, body)
                return _spoilt(reply) if fault.corrupt else reply, fault.cut_after
            except HubError as error:
                return error.reply, None

    def _route(self, request: Request, body: bytes) -> Reply:
        url = urlsplit(request.path)
        account = self._account(request)
        if url.path == "/api/validate-yaml":
            return answer({"errors": [], "warnings": []})
        if (stored := self._storage(request, url.path, body)) is not None:
            return stored
        api, resolve = _API.fullmatch(url.path), _RESOLVE.fullmatch(url.path)
        writes_to = url.path in ("/api/repos/create", "/api/repos/delete") or (api is not None and api[3] in _WRITES)
        if account is None and (writes_to or url.path == "/api/whoami-v2"):
            raise HubError(401, None, "Invalid username or password.")
        if account is not None and url.path == "/api/whoami-v2":
            return answer(account.whoami())
        if account is not None and url.path.startswith("/api/repos/"):
            return self._repositories_call(account, url.path, json.loads(body))
        match = api or resolve
        if match is None:
            raise HubError(404, None, f"The stand-in does not serve {request.method} {url.path}")
        repo = self._visible(account, match[1].rstrip("s/") if match[1] else "model", unquote(match[2]))
        revision, path = (api[4], api[5]) if api else (match[3], match[4])
        call = Call(repo, unquote(revision or "main"), unquote(path or ""), parse_qs(url.query), body, request)
        if (writes_to or call.revision == "write") and not (account and account.writes(repo.namespace)):
            raise HubError(403, None, "You don't have the rights to write here")
        return self._call(api[3] if api else "resolve", call, account)

    def _call(self, verb: str | None, call: Call, account: Account | None) -> Reply:
        if verb in ("auth-check", "resolve") and call.repo.gated and not (account and account.all):
            why = "you are not in the authorized list" if account else "you must be authenticated to access it"
            status, subject = 403 if account else 401, f"{call.repo.kind} {call.repo.id}"
            raise HubError(status, "GatedRepo", f"Access to {subject} is restricted and {why}.")
        if verb in _READS:
            return _READS[verb](call)
        if verb == "resolve":
            return reads.file(call)
        if verb == "commit":
            return writes.commit(call, self._stored, self.endpoint)
        changes = {"branch": writes.branch, "preupload": writes.preupload}
        return changes[verb](call) if verb in changes else answer({})

    def _storage(self, request: Request, path: str, body: bytes) -> Reply | None:
        """Calls of the LFS protocol; None for others."""
        if batch := _BATCH.fullmatch(path):
            repo = self._visible(self._account(request), (batch[1] or "model").rstrip("s/"), unquote(batch[2]))
            account = self._account(request)
            if not (account and account.writes(repo.namespace)):
                raise HubError(403, None, "You don't have the rights to write here")
            return writes.lfs_batch(self.endpoint, self._stored, body)
        if path.startswith("/lfs-storage/"):
            return writes.lfs_store(self._stored, path.rpartition("/")[2], body)
        return writes.lfs_verify(self._stored, body) if path == "/lfs-verify" else None

    def _visible(self, account: Account | None, kind: str, name: str) -> Repo:
        repo = self._repos.get((kind, name))
        if repo is None or (repo.private and not (account and account.writes(repo.namespace))):
            raise HubError(404, "RepoNotFound", "Repository not found")
        return repo

    def _account(self, request: Request) -> Account | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self._accounts:
            raise HubError(401, None, "Invalid credentials in Authorization header")
        return self._accounts.get(token)

    def _repositories_call(self, account: Account, path: str, wanted: Mapping[str, str | None]) -> Reply:
        """Make a repository, or delete one."""
        kind, namespace = wanted.get("type") or "model", wanted.get("organization") or account.name
        new = Repo(kind, f"{namespace}/{wanted['name']}", private=wanted.get("visibility") == "private")
        if not account.writes(namespace):
            raise HubError(403, None, f"You don't have the rights to create a {kind} under the namespace {namespace!r}")
        if path == "/api/repos/delete":
            if self._repos.pop((new.kind, new.id), None) is None:
                raise HubError(404, "RepoNotFound", "Repository not found")
            return answer({})
        content = {"url": self.endpoint + new.url, "name": new.id}
        if (new.kind, new.id) in self._repos:
            # `create_repo(exist_ok=True)` reads the address out of this answer too.
            return answer({**content, "error": f"You already created this {new.kind} repo"}, 409)
        new.push("main", {".gitattributes": Blob(b"")}, "initial commit")
        self._repos[new.kind, new.id] = new
        return answer(content)


def _spoilt(reply: Reply) -> Reply:
    middle = len(reply.body) // 2
    body = reply.body[:middle] + bytes([reply.body[middle] ^ 1]) + reply.body[middle + 1 :]
    return Reply(reply.status, body, reply.headers)
