"""Calls that change something: branches, large files and commits."""

import base64
import hashlib
import json
from collections.abc import Mapping

from tests.hub_standin.repositories import Blob, Call, HubError, Reply, answer, is_large


def branch(call: Call) -> Reply:
    """Make a branch, or delete one."""
    repo, name = call.repo, call.revision
    if call.request.method == "DELETE":
        if repo.branches.pop(name, None) is None:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {name}")
        return answer({})
    if name in repo.branches:
        raise HubError(409, None, f"Reference already exists: {name}")
    repo.branches[name] = repo.at(json.loads(call.body).get("startingPoint", "main"))
    return answer({})


def preupload(call: Call) -> Reply:
    answers: list[dict[str, object]] = []
    ignored = call.commit.files.get(".gitignore", Blob(b"")).data.decode().split()
    for file in json.loads(call.body)["files"]:
        path = file["path"]
        mode = "lfs" if is_large(path, base64.b64decode(file["sample"])) else "regular"
        # The client leaves out of its commit what has the id here that it has there.
        oid = call.commit.files[path].etag if path in call.commit.files else None
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": path in ignored, "oid": oid})
    return answer({"files": answers})


def lfs_batch(endpoint: str, stored: Mapping[str, bytes], body: bytes) -> Reply:
    """Say where to put large files; those that are here already need no upload."""
    objects: list[dict[str, object]] = []
    for wanted in json.loads(body)["objects"]:
        actions = {
            "upload": {"href": f"{endpoint}/lfs-storage/{wanted['oid']}", "header": {}},
            "verify": {"href": f"{endpoint}/lfs-verify", "header": {}},
        }
        objects.append({**wanted, **({} if wanted["oid"] in stored else {"actions": actions})})
    return answer({"transfer": "basic", "objects": objects})


def lfs_store(stored: dict[str, bytes], oid: str, body: bytes) -> Reply:
    if hashlib.sha256(body).hexdigest() != oid:
        raise HubError(400, None, "The content does not have the SHA-256 that was announced")
    stored[oid] = body
    return answer({})


def lfs_verify(stored: Mapping[str, bytes], body: bytes) -> Reply:
    wanted = json.loads(body)
    if len(stored.get(wanted["oid"], b"")) != wanted["size"]:
        raise HubError(404, None, "Object not found")
    return answer({})


def commit(call: Call, stored: Mapping[str, bytes], endpoint: str) -> Reply:
    if "create_pr" in call.query or call.revision not in call.repo.branches:
        raise HubError(400, None, "The stand-in commits to existing branches only")
    header, *changes = [json.loads(line) for line in call.body.splitlines()]
    if not call.commit.sha.startswith(header["value"].get("parentCommit", "")):
        raise HubError(412, None, "A commit has happened since. Please refresh and try again.")
    files = dict(call.commit.files)
    for change in changes:
        _apply(files, stored, change["key"], change["value"])
    made = call.repo.push(call.revision, files, header["value"]["summary"])
    url = f"{endpoint}{call.repo.url}/commit/{made.sha}"
    return answer({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})


def _apply(files: dict[str, Blob], stored: Mapping[str, bytes], key: str, value: Mapping[str, str]) -> None:
    """Make one change of a commit, as a line of its NDJSON body states it."""
    path = value["path"]
    if key == "file":
        files[path] = Blob(base64.b64decode(value["content"]))
        return
    if key == "lfsFile":
        if value["oid"] not in stored:
            raise HubError(400, None, f"{path} was not uploaded")
        files[path] = Blob(stored[value["oid"]], large=True)
        return
    folder = path.rstrip("/") + "/"
    gone = [name for name in files if (name.startswith(folder) if key == "deletedFolder" else name == path)]
    if key not in ("deletedFile", "deletedFolder"):
        raise HubError(400, None, f"The stand-in does not commit {key} lines")
    if not gone:
        raise HubError(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
    for name in gone:
        del files[name]
