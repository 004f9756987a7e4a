"""`python -m cards build | verify | publish | zoo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # public, by its documentation

from cards import CardError, build, guard, is_current, publish, redact, verify
from cards.certificate import files
from cards.certificate.verify import lines
from cards.files import model_folder
from cards.page import zoo
from cards.space import folder as space


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.verb == "verify":
            _verify(arguments.folder)
        elif arguments.verb == "publish":
            _publish(arguments)
        elif arguments.verb == "zoo":
            print(f"{len(zoo.build(arguments.output))} cards in {arguments.output}")
        else:
            print(build(arguments.run))
    except CardError as error:
        print(f"error: {redact(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; nothing was published", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cards", description="Model cards from finished runs.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("build", help="write model/README.md of a run from its result.json")
    verb.add_argument("run", type=Path, help="run folder")
    verb = verbs.add_parser("verify", help="write model/verify.json: other libraries load the model with equal outputs")
    verb.add_argument("folder", type=Path, help="run folder, or its model/")
    _add_publish(verbs)
    verb = verbs.add_parser("zoo", help="write a card for every released ResNeSt checkpoint")
    verb.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    return parser


def _add_publish(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser(
        "publish",
        help="put a run's model/ on the Hugging Face Hub, in one commit",
        description="Put a run's model/ on the Hugging Face Hub, in one commit. The token is that of HF_TOKEN or of "
        "`hf auth login`; the certificate (model/verify.json) must be one of these very files.",
    )
    verb.add_argument("run", type=Path, metavar="RUN", help="run folder, or its model/")
    verb.add_argument("--repo-id", required=True, metavar="OWNER/NAME", help="repository; made where it is missing")
    verb.add_argument("--private", action="store_true", help="make the repository private; one that exists stays as is")
    verb.add_argument("--revision", metavar="BRANCH", help="branch, made where it is missing (default: main)")
    verb.add_argument(
        "--add", action="append", default=[], metavar="NAME", help="also publish this file of model/; may be repeated"
    )
    verb.add_argument("--space", action="store_true", help="also write RUN/space/, a Gradio Space for the model")
    verb.add_argument("--dry-run", action="store_true", help="say what would change, and write nothing; needs no token")


def _verify(folder: Path) -> None:
    model = model_folder(folder)
    run = model.resolve().parent
    renew = is_current(run)  # the card tells what the certificate says
    for line in lines(verify(folder)):
        print(line)
    if renew:
        build(run)
    files.check(model)


def _publish(arguments: argparse.Namespace) -> None:
    guard()
    if not sys.stderr.isatty():
        disable_progress_bars()
    publish(
        arguments.run,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        dry_run=arguments.dry_run,
        add=arguments.add,
        say=print,
    )
    if arguments.space:
        _make_space(arguments)


def _make_space(arguments: argparse.Namespace) -> None:
    model = model_folder(arguments.run)
    folder = model.parent / "space"
    if arguments.dry_run:
        print(f"dry run: a Space would be in {folder}")
        return
    space.build(model, arguments.repo_id, folder)
    print(f"a Space for the model is in {folder}; try it by `python app.py` there, and put it on the Hub by")
    print(space.instructions(folder, arguments.repo_id))


if __name__ == "__main__":
    sys.exit(main())
