"""Are these the tars that image-net.org gives out? Their MD5 sums say so."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from finetune.console import interactive, log
from finetune.errors import DatasetError, listing
from finetune.imagenet.tars import DEVKIT, TRAIN, VALIDATION

# As image-net.org's download page of ILSVRC2012 lists them; torchvision's `ImageNet` checks the same.
OFFICIAL = {
    TRAIN: "1d675b47d978889d74fa0da5fadfb00e",
    VALIDATION: "29b22e2961454d5413ddabcf34fc5622",
    DEVKIT: "fa75699e90414af021442c21a62c3abf",
}
_CHUNK = 1 << 20  # bytes


def read(path: Path) -> dict[str, str]:
    """MD5 sums of the three tars from a file as `md5sum` writes it: `HASH  NAME`.

    Raises:
        DatasetError: It cannot be read, a line is of another form, or a tar is not in it.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"--checksums: cannot read {path}: {error}") from error
    sums = {}
    for line in filter(str.strip, lines):
        match = re.fullmatch(r"([0-9a-fA-F]{32}) [ *](.+)", line.strip())
        if match is None:
            raise DatasetError(f"--checksums: {path}: expected md5sum's lines, `HASH  NAME`, got {line[:80]!r}")
        sums[Path(match[2]).name] = match[1].lower()
    missing = [name for name in OFFICIAL if name not in sums]
    if missing:
        raise DatasetError(f"--checksums: {path} has no line for {listing(missing)}: add it by md5sum")
    return {name: sums[name] for name in OFFICIAL}


def verify(paths: Mapping[str, Path], expected: Mapping[str, str]) -> None:
    """Compare files with their MD5 sums.

    Args:
        paths: By name, those to look at; there may be none.
        expected: By name, 32 hexadecimal digits.

    Raises:
        DatasetError: A file cannot be read, or is another; the smallest is looked at first.
    """
    if not paths:
        return
    total = sum(path.stat().st_size for path in paths.values())
    quiet = not interactive()
    with tqdm(desc="checksums", unit="B", unit_scale=True, total=total, disable=quiet) as bar:
        for name in sorted(paths, key=lambda name: paths[name].stat().st_size):
            found = _md5(paths[name], bar)
            if found != expected[name]:
                raise DatasetError(
                    f"{name} is not the expected file: its MD5 sum is {found}, expected {expected[name]}. Fetch it "
                    "again; for tars that were packed anew give --checksums FILE or --no-verify"
                )
    log.info(f"checksums: {listing(paths)} as expected")


def _md5(path: Path, bar: tqdm) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                bar.update(len(chunk))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}): fetch it again") from error
    return digest.hexdigest()
