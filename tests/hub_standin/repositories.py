"""What the stand-in holds: repositories, branches, commits and files; and the answers made of them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from tests.hub_standin.faults import Request

DATE: Final = "2024-01-01T00:00:00.000Z"
PREFIXES: Final = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_LFS_SUFFIXES: Final = (".arrow", ".bin", ".ckpt", ".onnx", ".parquet", ".pt", ".pth", ".safetensors", ".tar", ".zip")


def is_large(path: str, sample: bytes) -> bool:
    """Whether a file goes to large file storage: by its name, or because it is not text."""
    return path.endswith(_LFS_SUFFIXES) or b"\0" in sample


@dataclass(frozen=True)
class Blob:
    """A file's content; a large one is in git as a pointer to it."""

    data: bytes
    large: bool = False

    @cached_property
    def oid(self) -> str:
        content = self.data
        if self.large:
            lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(content)}")
            content = "".join(f"{line}\n" for line in lines).encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid

    def sizes(self, sha_name: str) -> dict[str, object]:
        size = len(self.data)
        lfs = {"lfs": {sha_name: self.sha256, "size": size, "pointerSize": 134}} if self.large else {}
        return {"size": size, **lfs}


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    files: dict[str, Blob]

    def paths(self) -> set[str]:
        folders = {folder.as_posix() for path in self.files for folder in Path(path).parents} - {"."}
        return folders | self.files.keys()

    def entry(self, path: str, expand: bool) -> dict[str, object]:
        entry: dict[str, object] = {"path": path, "type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest()}
        if path in self.files:
            entry |= {"type": "file", "oid": self.files[path].oid, **self.files[path].sizes("oid")}
        if expand:
            entry |= {"lastCommit": {"id": self.sha, "title": self.title, "date": DATE}}
        return entry


@dataclass
class Repo:
    kind: str
    id: str
    gated: bool = False
    private: bool = False
    branches: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"/{PREFIXES[self.kind]}{self.id}"

    @property
    def namespace(self) -> str:
        return self.id.rpartition("/")[0]

    def push(self, branch: str, files: Mapping[str, Blob], title: str) -> Commit:
        # Only the content enters the hash, so that a test sees the same commit ids on every run.
        parent = self.branches[branch].sha if branch in self.branches else ""
        content = [f"{path} {blob.oid}" for path, blob in sorted(files.items())]
        sha = hashlib.sha1("\n".join([self.url, branch, title, parent, *content]).encode()).hexdigest()
        self.branches[branch] = self.commits[sha] = Commit(sha, title, dict(files))
        return self.commits[sha]

    def at(self, revision: str) -> Commit:
        found = self.branches.get(revision) or self.commits.get(revision)
        if found is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Call:
    repo: Repo
    revision: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    request: Request

    @property
    def commit(self) -> Commit:
        return self.repo.at(self.revision)


class HubError(Exception):
    """An error answer; the clients choose their exception by ``X-Error-Code`` before they look at the status."""

    def __init__(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        codes = {"X-Error-Code": code} if code else {}
        self.reply = answer({"error": message}, status, {"X-Error-Message": message, **codes, **(headers or {})})


def answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})
