"""`python -m cards build RUN`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cards import CardError, build


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cards", description="Model cards from finished runs.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("build", help="write model/README.md of a run from its result.json")
    verb.add_argument("run", type=Path, help="run folder")
    arguments = parser.parse_args(argv)
    try:
        print(build(arguments.run))
    except CardError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
