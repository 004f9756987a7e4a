"""A finished run's model/ -> a repository on the Hub, in one commit."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants

from cards.certificate import files as certificate
from cards.errors import CardError
from cards.files import model_folder
from cards.hub.access import PublishError, check_permission, reader
from cards.hub.addressed import addressed
from cards.hub.push import push
from cards.hub.redaction import leaks, redact
from cards.hub.remote import Plan, Target, plan
from cards.page.text import visible

log = logging.getLogger("cards")

REQUIRED = ("config.json", "model.safetensors", "README.md")
OURS = re.compile(r"model\.(onnx|xml|bin)|(verify|evaluation)\.json|figures/.+")
"""What a publication may make besides `REQUIRED`, and so may delete when a later one does not have it."""
KNOWN = re.compile(
    r"config\.json|model\.safetensors|README\.md|verify\.json|evaluation\.json|finetune\.json|preprocessor_config\.json"
    r"|model\.(onnx|xml|bin)|figures/[a-z0-9_]+\.(png|csv)"
)
"""The files that a model consists of; others in its folder are nobody's business unless somebody names them."""

_MOST_TEXT = 64 * 2**20  # bytes of a file that is searched for tokens; no text of a model is as long
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Published:
    """What publishing did, or with `dry_run` would do.

    Attributes:
        url: The repository's page.
        commit: The new commit; None where nothing was written.
        load: The line of Python that loads the model.
    """

    url: str
    commit: str | None
    load: str


def publish(
    run: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    add: Sequence[str] = (),
    say: Callable[[str], object] = log.info,
) -> Published:
    """Publish a run's model: its files in model/, in one commit on top of what is there, or nothing at all.

    A file of the repository that an earlier publication made and this run does not have (`model.onnx`, `model.xml`,
    `model.bin`, `verify.json`, what is in `figures/`) is deleted in the same commit; an earlier publication is known
    by its `verify.json`. All other files stay. The card goes with snippets that load the model from the repository; the
    run's own stays as it is.

    Args:
        run: Run folder, or its model/, with a certificate that is valid for these very files.
        repo_id: OWNER/NAME; the repository is made where it is missing.
        private: Visibility of a repository that is made; one that exists keeps its own.
        revision: Branch, made where it is missing; `main` when not given.
        dry_run: Say what would change, and write nothing; that needs no token.
        add: Further files, by their path in model/; what else lies there is named and left out, and so are links.
        say: Takes what is done, line by line.

    Raises:
        CardError: The folder is not complete, has no valid certificate, or has a token in it.
        PublishError: The Hub cannot be asked or refuses; it is as it was before.
    """
    files = complete_files(run, add, say)
    target = _target(repo_id, private, revision)
    api = reader(repo_id) if dry_run else check_permission(repo_id)
    if dry_run and not api.token:
        say("no token: a private repository looks as if there were none")
    with tempfile.TemporaryDirectory() as folder:
        card = Path(folder, "README.md")
        card.write_text(
            addressed(files["README.md"].read_text(encoding="utf-8"), repo_id, revision, onnx="model.onnx" in files),
            encoding="utf-8",
        )
        return _publish(api, target, files | {"README.md": card}, dry_run, say)


def _publish(
    api: HfApi, target: Target, files: Mapping[str, Path], dry_run: bool, say: Callable[[str], object]
) -> Published:
    """Say what would change, and change it; files as the repository will have them."""
    wanted = plan(api, target, files, _stale)
    at = "" if target.revision == constants.DEFAULT_REVISION else f"@{target.revision}"
    load = f'timm.create_model("hf-hub:{target.repo_id}{at}", pretrained=True)'
    for line in _lines(target, wanted):
        say(line)
    if wanted.empty:
        say(f"already published: {redact(target.url)} holds these very files; nothing to do")
        return Published(target.url, None, load)
    if dry_run:
        say("dry run: nothing was written")
        return Published(target.url, None, load)
    commit = push(api, target, wanted, f"Publish {_name(files)}")
    say(f"published: {redact(target.url)} at commit {commit[:12]}")
    say(f"load it:   {load}")
    return Published(target.url, commit, load)


def check_publishing(repo_id: str, *, revision: str | None = None) -> HfApi:
    """Raise for whatever would keep a run from being published to a repository, before there is one.

    Args:
        repo_id: OWNER/NAME.
        revision: Branch.

    Returns:
        A client of the Hub.

    Raises:
        PublishError: Name, token or permission is missing, or the Hub cannot be asked.
    """
    _target(repo_id, False, revision)
    return check_permission(repo_id)


def complete_files(run: Path, add: Sequence[str] = (), say: Callable[[str], object] = log.info) -> dict[str, Path]:
    """The files of a model that is ready for the Hub, by their path there.

    Args:
        run: Run folder, or its model/.
        add: Further files, by their path in model/.
        say: Takes a line on what is left out.

    Raises:
        CardError: A file is missing or a link, the certificate is missing or not valid, or a text file has a token in
            it.
    """
    model = model_folder(run)
    missing = [name for name in REQUIRED if not (model / name).is_file()]
    if missing:
        advice = f"`python -m cards build {run}` writes it" if missing == ["README.md"] else "give a finished run"
        raise CardError(f"{model} is not ready to be published: it has no {', '.join(missing)}; {advice}")
    found = dict(_files(model))
    gone = [name for name in (*REQUIRED, *add) if name not in found]
    if gone:
        raise CardError(
            f"{model / gone[0]} is a link, or no file of the model's folder: only what lies in it is published"
        )
    certificate.check(model)
    files = {path: local for path, local in found.items() if KNOWN.fullmatch(path) or path in add}
    others = sorted(set(_names(model)) - set(files))
    if others:
        shown = ", ".join(visible(name) for name in others[:10])
        shown += f", ... ({len(others)} in all)" if len(others) > 10 else ""
        say(f"left out: {shown}: no files of a model, or links; --add NAME publishes a file all the same")
    for path, local in files.items():
        if _is_text(local) and leaks(local.read_bytes()):
            raise CardError(
                f"{local} has a token in it (or a word that looks like one): nothing was published. Take it out of "
                f"{path}, and revoke the token"
            )
    return files


def _names(model: Path) -> Iterator[str]:
    """All that lies in the folder, but what is hidden or half written."""
    for path in sorted(model.rglob("*")):
        parts = path.relative_to(model).parts
        hidden = path.suffix == ".part" or any(part.startswith((".", "__")) for part in parts)
        if not hidden and (path.is_symlink() or not path.is_dir()):
            yield "/".join(parts)


def _files(model: Path) -> Iterator[tuple[str, Path]]:
    """Regular files, and none that a link leads to."""
    for name in _names(model):
        path = model / name
        chain = (path, *(part for part in path.parents if part.is_relative_to(model) and part != model))
        if path.is_file() and not any(part.is_symlink() for part in chain):
            yield name, path


def _is_text(path: Path) -> bool:
    """Whether a file can be read as text, whatever its name says."""
    if path.stat().st_size > _MOST_TEXT:
        return False
    with path.open("rb") as stream:
        return b"\0" not in stream.read(8192)


def _target(repo_id: str, private: bool, revision: str | None) -> Target:
    if revision is not None and (not revision.strip() or _COMMIT.fullmatch(revision)):
        raise PublishError(f"--revision must be a branch, got {revision!r}: a commit cannot be added to")
    return Target(repo_id, private=private, revision=revision or constants.DEFAULT_REVISION)


def _stale(remote: set[str]) -> set[str]:
    """Paths that an earlier publication made; none where there was none."""
    if certificate.NAME not in remote:
        return set()
    return {path for path in remote if OURS.fullmatch(path)}


def _name(files: Mapping[str, Path]) -> str:
    """What to call the model in the commit."""
    try:
        config = json.loads(files["config.json"].read_text(encoding="utf-8"))
        return str(config["architecture"])
    except (ValueError, KeyError, TypeError):
        return "a model"


def _lines(target: Target, wanted: Plan) -> Iterator[str]:
    """The plan in words: one line for each file."""
    visible = "private" if (wanted.private if wanted.exists else target.private) else "public"
    state = "exists" if wanted.exists else "new"
    branch = "" if wanted.branch_exists or target.revision == constants.DEFAULT_REVISION else ", new"
    yield f"{redact(target.url)} ({visible}, {state}; branch {target.revision}{branch})"
    if target.private and wanted.exists and not wanted.private:
        yield "warning: --private applies to a repository that is made; this one exists and stays public"
    same = [path for path in wanted.files if path not in (*wanted.new, *wanted.changed)]
    for word, paths in (("new", wanted.new), ("changed", wanted.changed), ("unchanged", same)):
        for path in paths:
            yield f"  {word:<10}{_size(wanted.files[path].stat().st_size):>10}  {path}"
    for word, paths in (("deleted", wanted.deleted), ("kept", wanted.kept)):
        note = " (of an earlier publication)" if word == "deleted" else " (not of this run)"
        for path in paths:
            if path != ".gitattributes":
                yield f"  {word:<10}{'':>10}  {redact(path)}{note}"


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
