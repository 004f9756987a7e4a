"""`python -m cards build RUN`, `python -m cards verify DIR`, `python -m cards zoo --output DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cards import CardError, build, certificate, is_current, verify, zoo
from cards.verify import lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cards", description="Model cards from finished runs.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("build", help="write model/README.md of a run from its result.json")
    verb.add_argument("run", type=Path, help="run folder")
    verb = verbs.add_parser("verify", help="write model/verify.json: other libraries load the model with equal outputs")
    verb.add_argument("folder", type=Path, help="run folder, or its model/")
    verb = verbs.add_parser("zoo", help="write a card for every released ResNeSt checkpoint")
    verb.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    arguments = parser.parse_args(argv)
    try:
        if arguments.verb == "verify":
            _verify(arguments.folder)
        elif arguments.verb == "zoo":
            print(f"{len(zoo.build(arguments.output))} cards in {arguments.output}")
        else:
            print(build(arguments.run))
    except CardError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _verify(folder: Path) -> None:
    model = folder if (folder / "config.json").is_file() else folder / "model"
    run = model.resolve().parent
    renew = is_current(run)  # the card tells what the certificate says
    for line in lines(verify(folder)):
        print(line)
    if renew:
        build(run)
    certificate.check(model)


if __name__ == "__main__":
    sys.exit(main())
