"""What the values in masks mean: indices or colours, what they are called, and which of them are no class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from finetune.data.beside import pixels
from finetune.data.beside.counts import MaskCounts
from finetune.data.beside.names import Names
from finetune.data.beside.pixels import VOID
from finetune.errors import SchemaError, listing, suggest

Kind = Literal["index", "red", "colour"]

MOST = 254
"""Classes that fit beside `VOID` into 8 bits."""

_VOIDS = (255, 65535)  # that are no class where nothing names them, and all below 0
_BINARY = {0: "background", 255: "foreground"}
_NO_CLASS = {"unlabeled", "unlabelled", "unlabel", "void", "ignore", "ignored"}
_SHADES = 16  # more values than these, between black and white, are no classes
_SHOWN = 8  # colours or values in a message


@dataclass(frozen=True)
class Meaning:
    """How a mask becomes a map of class indices.

    Attributes:
        kind: `index`: greys and indices themselves; `red`: the class is in the red channel, another holds instances;
            `colour`: each class has a colour.
        values: That mean something, ascending; colours are packed, see `finetune.data.beside.pixels.of`.
        indices: Class index of each, or `VOID`.
        stored: Whether masks lie as their images are stored, where size does not tell whether they were turned upright.
    """

    kind: Kind
    values: tuple[int, ...]
    indices: tuple[int, ...]
    stored: bool = False

    def of(self, values: np.ndarray, colours: bool) -> np.ndarray:
        """Class indices of what stands in a mask.

        Args:
            values: Integers of any shape, and
            colours: whether they are packed colours: what `finetune.data.beside.pixels.of` gives.

        Returns:
            uint8 of that shape; `VOID` for what has no meaning.
        """
        values = self.reduced(values, colours)
        known, table = np.array(self.values, dtype=np.int64), np.array(self.indices, dtype=np.uint8)
        if values.dtype == np.uint8:  # once for each value, and not for each pixel
            found: np.ndarray = self._look_up(known, table, np.arange(256))[values]
            return found
        return self._look_up(known, table, values)

    def _look_up(self, known: np.ndarray, table: np.ndarray, values: np.ndarray) -> np.ndarray:
        places = np.searchsorted(known, values).clip(max=len(known) - 1)
        found: np.ndarray = np.where(known[places] == values, table[places], np.uint8(VOID))
        return found

    def reduced(self, values: np.ndarray, colours: bool) -> np.ndarray:
        """What of a value means something: of an index that is stored as a colour one channel."""
        if colours and self.kind != "colour":
            return (values & 255).astype(np.uint8)
        return values


@dataclass(frozen=True)
class Understood:
    """A meaning, and what is said of it.

    Attributes:
        meaning: Of the values.
        classes: Names, in the order of the class indices.
        lines: To print.
        unnamed: Values that occur and have no name, though there are names: their masks cannot be used.
        where: What names the values.
    """

    meaning: Meaning
    classes: tuple[str, ...]
    lines: tuple[str, ...]
    unnamed: frozenset[int] = frozenset()
    where: str = ""


def understand(
    masks: Sequence[MaskCounts],
    names: Names | None = None,
    palette: Mapping[int, str] | None = None,
    ignore: str | None = None,
) -> Understood:
    """Tell from all values of a dataset's masks what they mean.

    Args:
        masks: As `finetune.data.beside.counts.count` found them.
        names: Of the values, where something says them.
        palette: Name of each packed colour, where something says it.
        ignore: What `--ignore-classes` says.

    Raises:
        SchemaError: They can mean several things, or nothing.
    """
    kind, occurring = _kind(masks, names, palette)
    if kind == "colour":
        names = Names(dict(palette or {}), "the palette")
    elif palette and names is None and all(map(bool, pixels.is_grey(np.array(list(palette))))):
        names = Names({colour & 255: name for colour, name in palette.items()}, "the palette")
    lossy = any(mask.lossy for mask in masks)
    named = _with_names(names, occurring) if names else _without_names(masks, occurring, lossy)
    void = _ignored(named, ignore, kind)
    unnamed = occurring - named.keys() - void
    if kind != "colour" and ignore != "none":
        beside = {value for value in unnamed if value < 0 or value in _VOIDS}
        void, unnamed = void | beside, unnamed - beside
    if unnamed and names is None:
        named |= {value: f"class {value}" for value in unnamed}
        unnamed = set()
    classes, indices = _classes(named, void)
    _check(classes, occurring, lossy)
    ordered = tuple(sorted(named.keys() | void))
    meaning = Meaning(kind, ordered, tuple(indices.get(value, VOID) for value in ordered), _are_stored(masks))
    where = names.where if names else ""
    lines = tuple(_said(masks, meaning, named, void & (occurring | named.keys()), where))
    return Understood(meaning, classes, lines, frozenset(unnamed), where)


def _kind(masks: Sequence[MaskCounts], names: Names | None, palette: Mapping[int, str] | None) -> tuple[Kind, set[int]]:
    """How the masks are to be read, and the values that then occur in them."""
    plain = {value for mask in masks if not mask.colours for value in mask.values}
    colours = {value for mask in masks if mask.colours for value in mask.values}
    packed = np.array(sorted(colours), dtype=np.int64)
    grey = bool(pixels.is_grey(packed).all())
    if not colours or (grey and (plain or not palette or not colours <= set(palette))):
        return "index", plain | {colour & 255 for colour in colours}
    if plain:
        rows = [next(mask.row for mask in masks if mask.colours is kind) for kind in (False, True)]
        raise SchemaError(
            f"some masks hold indices (row {rows[0]}) and some colours (row {rows[1]}): expected one of both in all; "
            "write them anew"
        )
    if palette and colours & palette.keys():
        return "colour", colours
    reds = {colour & 255 for colour in colours}
    if names is not None and reds <= names.of.keys() | {VOID}:
        return "red", reds
    raise _no_palette(masks, bool(palette))


def _no_palette(masks: Sequence[MaskCounts], given: bool) -> SchemaError:
    totals: dict[int, int] = {}
    for mask in masks:
        for value, count in zip(mask.values, mask.counts, strict=True):
            totals[value] = totals.get(value, 0) + count
    most = sorted(totals, key=lambda value: -totals[value])
    shown = listing((",".join(map(str, pixels.channels(colour))) for colour in most), _SHOWN)
    example = ";".join(f"NAME={','.join(map(str, pixels.channels(colour)))}" for colour in most[:2])
    compressed = " (they are JPEGs, whose compression changes colours: save them as PNG)"
    lossy = compressed if any(mask.lossy for mask in masks) else ""
    none = "none of them is in the palette" if given else "nothing says which class each is"
    return SchemaError(
        f"the masks are coloured, and {none}: {len(totals)} colours{lossy}, by pixels {shown}; name them by "
        f"--mask-colors '{example};...' or a file of them (csv: name,r,g,b)"
    )


def _with_names(names: Names, occurring: set[int]) -> dict[int, str]:
    """Names of the values; of two that are named as 0 and 1 and drawn in black and white, of the drawing."""
    if occurring <= _BINARY.keys() and 255 in occurring and names.of.keys() == {0, 1}:
        return {0: names.of[0], 255: names.of[1]}
    return dict(names.of)


def _without_names(masks: Sequence[MaskCounts], occurring: set[int], lossy: bool) -> dict[int, str]:
    """Names by the values alone.

    Raises:
        SchemaError: They are shades, and no classes.
    """
    if occurring <= _BINARY.keys() and 255 in occurring:
        return dict(_BINARY)
    if len(occurring) > _SHADES and occurring >= _BINARY.keys() and _black_and_white(masks) > 0.5:
        raise SchemaError(
            f"the masks are mostly 0 and 255, with {len(occurring) - 2} shades between: they were resized or smoothed; "
            "expected one value for each class. Round them, as by mask.point(lambda value: 255 * (value > 127))"
        )
    if lossy and len(occurring) > 2:
        raise SchemaError(
            f"the masks are JPEGs, whose compression changes values: {len(occurring)} occur "
            f"({listing(sorted(occurring), _SHOWN)}); expected one for each class. Round them to those, and save PNG"
        )
    return {value: f"class {value}" for value in sorted(occurring) if value >= 0 and value not in _VOIDS}


def _black_and_white(masks: Sequence[MaskCounts]) -> float:
    """Share of the pixels that are 0 or 255."""
    pairs = [pair for mask in masks for pair in zip(mask.values, mask.counts, strict=True)]
    every = sum(count for _, count in pairs)
    return sum(count for value, count in pairs if value in (0, 255, 0xFFFFFF)) / max(every, 1)


def is_no_class(name: str) -> bool:
    """Whether a name says that its pixels are not labelled: unlabeled, void, ignore, N/A.

    Args:
        name: Of a value.
    """
    return name.strip().casefold() == "n/a" or bool(set(re.findall(r"[a-z]+", name.casefold())) & _NO_CLASS)


def _ignored(named: Mapping[int, str], ignore: str | None, kind: Kind) -> set[int]:
    """Values that are no class: what the user says, else what is called so."""
    if ignore is None:
        return {value for value, name in named.items() if is_no_class(name)}
    if ignore.strip().casefold() == "none":
        return set()
    by_name: dict[str, set[int]] = {}
    for value, name in named.items():
        by_name.setdefault(name.casefold(), set()).add(value)
    found: set[int] = set()
    for word in (part.strip() for part in ignore.split(",")):
        if word.casefold() in by_name:
            found |= by_name[word.casefold()]
        elif word.isdigit() and kind != "colour":
            found.add(int(word))
        elif word:
            hint = suggest(word, named.values()) or "."
            raise SchemaError(
                f"--ignore-classes: no class {word!r}{hint} Expected names or values of the masks with commas between, "
                f"or none; classes are {listing(named.values(), 20)}"
            )
    return found


def _classes(named: Mapping[int, str], void: set[int]) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names of the classes in the order of their values, and the index of each value; values of one name are one."""
    classes: dict[str, int] = {}
    indices = {}
    for value in sorted(named.keys() - void):
        indices[value] = classes.setdefault(named[value], len(classes))
    return tuple(classes), indices


def _check(classes: Sequence[str], occurring: set[int], lossy: bool) -> None:
    if len(classes) > MOST:
        compressed = "; they are JPEGs, whose compression changes values" if lossy else ""
        raise SchemaError(
            f"the masks have {len(classes)} classes, more than the {MOST} that fit into 8 bits{compressed}: maps of "
            "int16 are not supported; leave classes out by --ignore-classes, or merge them"
        )
    if len(classes) < 2:
        raise SchemaError(
            f"the masks have {len(classes)} class{'' if len(classes) == 1 else 'es'} ({listing(classes)}); expected at "
            f"least 2; values in them are {listing(sorted(occurring), _SHOWN)}. If one was taken for unlabelled, say "
            "--ignore-classes none"
        )


def _are_stored(masks: Sequence[MaskCounts]) -> bool:
    """Where the sizes of some tell, whether masks lie as their images are stored, and not as they are looked at."""
    told = [frame for mask in masks if (frame := frame_of(mask)) in ("stored", "upright")]
    return told.count("stored") > told.count("upright")


def frame_of(mask: MaskCounts) -> Literal["same", "stored", "upright", "either", "neither"]:
    """Whether a mask lies as its image is stored or as it is looked at, by their sizes.

    Returns:
        `same` of an image that is not turned; `either` where both have one size; `neither` where they do not fit.
    """
    upright = turned_size(mask.image_size, mask.turn)
    if mask.size not in (mask.image_size, upright):
        return "neither"
    if mask.turn is None:
        return "same"
    if upright == mask.image_size:
        return "either"
    return "upright" if mask.size == upright else "stored"


def turned_size(size: tuple[int, int], turn: int | None) -> tuple[int, int]:
    """Width and height of an image after it was turned, by `PIL.Image.Transpose`."""
    return (size[1], size[0]) if turn in (2, 4, 5, 6) else size


def _said(
    masks: Sequence[MaskCounts], meaning: Meaning, named: Mapping[int, str], void: set[int], where: str
) -> Iterator[str]:
    how = {"index": "indices", "red": "the red channel, another one tells instances", "colour": "colours"}
    source = f", named by {where}" if where else ", without names"
    if not where and set(named.values()) == set(_BINARY.values()):
        source = ", 0 and 255: background and foreground"
    yield f"masks: classes are {how[meaning.kind]}{source}"
    if void:
        words = [_value(meaning, value) + (f" ({named[value]})" if value in named else "") for value in sorted(void)]
        yield f"neither learnt nor counted: {listing(words, _SHOWN)}; --ignore-classes says otherwise"
    frames = [frame_of(mask) for mask in masks if mask.turn is not None]
    if frames:
        way = "as their images are stored" if meaning.stored else "as their images are looked at"
        turned = f"masks of {len(frames)} images that EXIF turns"
        unclear = frames.count("either")
        yield f"{turned}: {unclear} by size either way, taken {way}" if unclear else f"{turned}: by their sizes"


def _value(meaning: Meaning, value: int) -> str:
    return ",".join(map(str, pixels.channels(value))) if meaning.kind == "colour" else str(value)
