"""What a file is that Pillow does not know as an image, by its first bytes, and what to do about it."""

from __future__ import annotations

import re

HEAD = 512
"""Bytes of a file that `describe` looks at."""

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MAGIC = (
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the images by git lfs pull"),
    (b"\x00\x05\x16\x07", "an AppleDouble file (._NAME, written by macOS beside the image)"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript drawing (EPS), which a program would have to draw: convert it to PNG"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript drawing (EPS), which a program would have to draw: convert it to PNG"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x1aE\xdf\xa3", "a video (Matroska)"),
    (b"\xff\x0a", "a JPEG XL image: convert it to JPEG or PNG"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image: convert it to JPEG or PNG"),
)


def describe(head: bytes) -> str | None:
    """Name what is no image, or none that Pillow reads.

    Args:
        head: The first `HEAD` bytes of the file, or all of a shorter one.

    Returns:
        For instance `"a HEIC photo: convert it ..."`; None where the bytes say nothing.
    """
    if not head:
        return "an empty file"
    if not any(head):
        return "nothing but zero bytes"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "a video (AVI)"
    return _text(head)


def _iso_media(head: bytes) -> str:
    """The container that HEIC, AVIF, camera raw and most videos share: major brand, version, compatible brands."""
    brands = head[8 : int.from_bytes(head[:4], "big")]
    if b"avif" in brands or b"avis" in brands:
        return "an AVIF image, which this Pillow cannot read: convert it to JPEG or PNG"
    if head[8:12] in _HEIC:
        return "a HEIC photo: convert it to JPEG, or pip install pillow-heif"
    if head[8:12] == b"crx ":
        return "a camera's raw image: convert it to JPEG or PNG"
    return "a video (QuickTime or MP4)"


def _text(head: bytes) -> str | None:
    try:
        text = head.decode("utf-8-sig", "ignore" if len(head) >= HEAD else "strict").strip()
    except UnicodeDecodeError:
        return None
    if len(text) < 8 or re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text):
        return None
    if re.search(r"<svg\b", text, re.IGNORECASE):
        return "an SVG drawing: convert it to PNG"
    if re.match(r"<!doctype html|<html", text, re.IGNORECASE):
        return "an HTML page, perhaps of a failed download"
    return "text, not an image"  # none of it is shown: a row may name any file
