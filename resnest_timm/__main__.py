"""`python -m resnest_timm list | convert`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from resnest_timm.errors import UsageError, ZooError


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line, as an exception."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` when not given.

    Returns:
        Exit code: 0 done, 2 the user's mistake. Anything else is a bug of ours and raises.
    """
    try:
        options = _parser().parse_args(argv)
        options.run(options)
    except ZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m resnest_timm", description="Every released ResNeSt: list the weights, convert them."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list | convert")
    listed = verbs.add_parser("list", help="list the released weights")
    listed.add_argument("pattern", nargs="?", metavar="PATTERN", help="of model names, for instance 'resnest50*'")
    listed.add_argument("--json", action="store_true", help="print every field as JSON")
    listed.set_defaults(run=_list)
    converted = verbs.add_parser("convert", help="convert a checkpoint to a folder that stock timm loads")
    converted.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="the authors' .pth, Gluon .params or .zip, a detectron2 or OpenMMLab checkpoint, or timm safetensors",
    )
    converted.add_argument("--model", required=True, metavar="NAME", help="timm's or the authors' name")
    converted.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to make")
    converted.add_argument("--sha256", metavar="PREFIX", help="first digits that the file's SHA-256 must have")
    converted.set_defaults(run=_convert)
    return parser


def _list(options: argparse.Namespace) -> None:
    from resnest_timm import listing  # torch and timm are imported only once the flags are right

    rows = listing.select(options.pattern)
    print(listing.as_json(rows) if options.json else listing.as_table(rows))
    if options.pattern is None and not options.json:
        print(f"\nNo weights were ever released for {', '.join(listing.unreleased())}.")


def _convert(options: argparse.Namespace) -> None:
    from resnest_timm.convert import hub_folder

    done = hub_folder.convert_file(options.source, options.model, options.output, options.sha256)
    print(hub_folder.report(done))


if __name__ == "__main__":
    sys.exit(main())
