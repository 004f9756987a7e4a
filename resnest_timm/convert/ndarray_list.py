"""The file format of MXNet's `.params`: a list of arrays and their names, read with numpy alone.

Layout, little-endian, as MXNet 1.x writes it (`NDArray::Save` and `NDArray::Load` in `src/ndarray/ndarray.cc`):

    uint64 0x112, uint64 0
    uint64 number of arrays, then each array:
        uint32 magic   0xF993FAC9 (V2) or 0xF993FACA (V3): then int32 storage type, 0 for dense
                       0xF993FAC8 (V1): no storage type
                       anything else: the number of dimensions of the oldest form, whose sides are uint32
        int32 number of dimensions, int64 each side
        int32 device type, int32 device id
        int32 element type, then the elements in C order
    uint64 number of names, then each: uint64 length, UTF-8 bytes

An array of no dimensions (V3: of -1) stands for "none" and ends after its shape.
"""

from __future__ import annotations

import math
import struct

import numpy as np
import numpy.typing as npt

from resnest_timm.errors import ConversionError

MAGIC = struct.pack("<QQ", 0x112, 0)

_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DENSE = 0
_MAX_DIMENSIONS = 32
_TYPES = dict(enumerate(("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8", "?")))

Array = npt.NDArray[np.generic]


class _Reader:
    """Takes values off the front of a buffer, and never reads past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._position = 0

    def take(self, count: int, what: str) -> memoryview:
        left = len(self._data) - self._position
        if count > left:
            raise ConversionError(
                f"the parameter file is truncated or damaged: {what} at byte {self._position} needs {count} bytes, "
                f"{left} are left"
            )
        self._position += count
        return self._data[self._position - count : self._position]

    def numbers(self, code: str, count: int, what: str) -> tuple[int, ...]:
        layout = f"<{count}{code}"
        values: tuple[int, ...] = struct.unpack(layout, self.take(struct.calcsize(layout), what))
        return values

    def number(self, code: str, what: str) -> int:
        return self.numbers(code, 1, what)[0]

    def finish(self) -> None:
        left = len(self._data) - self._position
        if left:
            raise ConversionError(f"the parameter file is damaged: {left} bytes follow its end")


def parse(data: bytes) -> dict[str, Array]:
    """Read a whole file.

    Args:
        data: Its bytes.

    Returns:
        Arrays by name, in the file's order; the prefixes `arg:` and `aux:` are taken off.

    Raises:
        ConversionError: The bytes are not such a file, are cut short or hold sparse or unnamed arrays.
    """
    reader = _Reader(data)
    if bytes(reader.take(len(MAGIC), "the header")) != MAGIC:
        raise ConversionError("not an MXNet parameter file: it does not begin with 0x112")
    count = reader.number("Q", "the number of arrays")
    # Every array takes 4 bytes at least: a damaged count must not become a long loop.
    if count > len(data) // 4:
        raise ConversionError(f"the parameter file is damaged: it claims {count} arrays in {len(data)} bytes")
    arrays = [_array(reader, f"array {index}") for index in range(count)]
    names = [_name(reader) for _ in range(reader.number("Q", "the number of names"))]
    reader.finish()
    if len(names) != count:
        raise ConversionError(f"the parameter file holds {count} arrays and {len(names)} names: expected one for each")
    if len(set(names)) != count:
        repeated = next(name for name in names if names.count(name) > 1)
        raise ConversionError(f"the parameter file is damaged: it holds {repeated!r} twice")
    return {name: array for name, array in zip(names, arrays, strict=True) if array is not None}


def _array(reader: _Reader, what: str) -> Array | None:
    shape = _shape(reader, what)
    if shape is None:
        return None
    reader.numbers("i", 2, f"the device of {what}")
    code = reader.number("i", f"the type of {what}")
    if code not in _TYPES:
        raise ConversionError(f"{what} has element type {code}; known are 0 to {max(_TYPES)} (float32 to bool)")
    dtype = np.dtype(_TYPES[code])
    elements = reader.take(math.prod(shape) * dtype.itemsize, what)
    return np.frombuffer(elements, dtype).reshape(shape)


def _shape(reader: _Reader, what: str) -> tuple[int, ...] | None:
    magic = reader.number("I", what)
    if magic not in (_V1, _V2, _V3):  # the oldest form: the magic is the number of dimensions
        return _sides(reader, "I", magic, what) if magic else None
    if magic != _V1:
        storage = reader.number("i", f"the storage type of {what}")
        if storage != _DENSE:
            raise ConversionError(f"{what} is sparse (storage type {storage}): expected dense arrays")
    dimensions = reader.number("i", f"the shape of {what}")
    none = -1 if magic == _V3 else 0
    return None if dimensions == none else _sides(reader, "q", dimensions, what)


def _sides(reader: _Reader, code: str, dimensions: int, what: str) -> tuple[int, ...]:
    if not 0 <= dimensions <= _MAX_DIMENSIONS:
        raise ConversionError(f"the parameter file is damaged: {what} claims {dimensions} dimensions")
    sides = reader.numbers(code, dimensions, f"the shape of {what}")
    if any(side < 0 for side in sides):
        raise ConversionError(f"the parameter file is damaged: {what} claims the shape {list(sides)}")
    return sides


def _name(reader: _Reader) -> str:
    length = reader.number("Q", "the length of a name")
    try:
        name = bytes(reader.take(length, "a name")).decode()
    except UnicodeDecodeError as error:
        raise ConversionError("the parameter file is damaged: a name is not text") from error
    return name.removeprefix("arg:").removeprefix("aux:")
