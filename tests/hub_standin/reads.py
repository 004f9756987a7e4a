"""Calls that change nothing: facts, trees and files."""

import re
from collections.abc import Mapping
from urllib.parse import parse_qs

import yaml

from tests.hub_standin.repositories import DATE, Call, HubError, Reply, answer


def info(call: Call) -> Reply:
    repo, with_blobs = call.repo, _is_true(call.query, "blobs")
    siblings: list[dict[str, object]] = []
    for path, blob in sorted(call.commit.files.items()):
        details = {"blobId": blob.oid, **blob.sizes("sha256")} if with_blobs else {}
        siblings.append({"rfilename": path, **details})
    access = {"private": repo.private, "gated": "auto" if repo.gated else False, "disabled": False}
    facts = {"id": repo.id, "author": repo.namespace, "sha": call.commit.sha, "lastModified": DATE}
    card = call.commit.files.get("README.md")
    card_data = {"cardData": _card_data(card.data)} if card else {}
    return answer({**facts, **access, **card_data, "createdAt": DATE, "tags": [], "siblings": siblings})


def refs(call: Call) -> Reply:
    names = sorted(call.repo.branches)
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": call.repo.branches[name].sha} for name in names
    ]
    return answer({"branches": branches, "converts": [], "tags": []})


def tree(call: Call) -> Reply:
    folder = f"{call.path}/" if call.path else ""
    found = sorted(path for path in call.commit.paths() if path.startswith(folder))
    if folder and not found:
        raise HubError(404, "EntryNotFound", f"{call.path} does not exist on {call.revision}")
    if not _is_true(call.query, "recursive"):
        found = [path for path in found if "/" not in path[len(folder) :]]
    return answer([call.commit.entry(path, _is_true(call.query, "expand")) for path in found])


def paths_info(call: Call) -> Reply:
    form, known = parse_qs(call.body.decode()), call.commit.paths()
    paths = [path for path in form.get("paths", []) if path in known]
    return answer([call.commit.entry(path, _is_true(form, "expand")) for path in paths])


def file(call: Call) -> Reply:
    blob = call.commit.files.get(call.path)
    headers = {"X-Repo-Commit": call.commit.sha, "Accept-Ranges": "bytes"}
    if blob is None:
        raise HubError(404, "EntryNotFound", "Entry not found", headers)
    headers |= {"ETag": f'"{blob.etag}"', "Content-Type": "application/octet-stream"}
    span = _span(call.request.headers.get("range", ""), len(blob.data))
    if span is None:
        return Reply(200, blob.data, headers)
    headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{len(blob.data)}"
    return Reply(206, blob.data[slice(*span)], headers)


def _is_true(query: Mapping[str, list[str]], name: str) -> bool:
    return query.get(name, [""])[0].lower() in ("true", "1")


def _span(wanted: str, size: int) -> tuple[int, int] | None:
    match = re.fullmatch(r"bytes=(?:(\d+)-(\d*)|-(\d+))", wanted)
    if match is None:
        return None
    start = int(match[1]) if match[1] else max(size - int(match[3]), 0)
    stop = min(int(match[2]) + 1, size) if match[2] else size
    if start >= stop:
        raise HubError(416, None, "Range Not Satisfiable", {"Content-Range": f"bytes */{size}"})
    return start, stop


def _card_data(readme: bytes) -> object:
    """The YAML between the first two `---` lines, as the Hub gives it with a repository's facts."""
    head = readme.decode().split("---\n")
    return yaml.safe_load(head[1]) if len(head) > 2 and not head[0] else None
