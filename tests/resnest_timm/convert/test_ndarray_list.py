"""MXNet's parameter files, from bytes written here after the documented format."""

import struct

import numpy as np
import pytest

from resnest_timm.convert import ndarray_list
from resnest_timm.errors import ConversionError

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
HEADER = struct.pack("<QQ", 0x112, 0)


def dense(magic: int, shape: tuple[int, ...], code: int, elements: bytes) -> bytes:
    storage = b"" if magic == V1 else struct.pack("<i", 0)
    sides = struct.pack(f"<i{len(shape)}q", len(shape), *shape)
    return struct.pack("<I", magic) + storage + sides + struct.pack("<iii", 1, 0, code) + elements


def packed(arrays: list[bytes], names: list[str]) -> bytes:
    encoded = [name.encode() for name in names]
    tail = b"".join(struct.pack("<Q", len(name)) + name for name in encoded)
    return HEADER + struct.pack("<Q", len(arrays)) + b"".join(arrays) + struct.pack("<Q", len(names)) + tail


SIX = struct.pack("<6f", 0, 1, 2, 3, 4, 5)
FILE = packed(
    [dense(V2, (2, 3), 0, SIX), dense(V2, (2,), 1, struct.pack("<2d", 0.1, -0.1))],
    ["layer1.0.conv1.weight", "aux:bn1.running_mean"],
)


def test_every_byte_of_a_small_file_is_understood() -> None:
    assert len(FILE) == 16 + 8 + (4 + 4 + 4 + 16 + 12 + 24) + (4 + 4 + 4 + 8 + 12 + 16) + 8 + 8 + 21 + 8 + 20
    arrays = ndarray_list.parse(FILE)
    assert list(arrays) == ["layer1.0.conv1.weight", "bn1.running_mean"]
    first, second = arrays.values()
    assert (first.dtype, second.dtype) == (np.float32, np.float64)
    assert first.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert second.tolist() == [0.1, -0.1]


@pytest.mark.parametrize("magic", [V1, V2, V3])
def test_versions(magic: int) -> None:
    assert ndarray_list.parse(packed([dense(magic, (3, 2), 0, SIX)], ["arg:a"]))["a"].tolist() == [
        [0, 1],
        [2, 3],
        [4, 5],
    ]


def test_the_oldest_version_has_sides_of_32_bits_and_no_magic() -> None:
    array = struct.pack("<III", 2, 3, 2) + struct.pack("<iii", 1, 0, 0) + SIX
    assert ndarray_list.parse(packed([array], ["a"]))["a"].tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0, "f4"), (1, "f8"), (2, "f2"), (3, "u1"), (4, "i4"), (5, "i1"), (6, "i8"), (7, "?")],
)
def test_element_types(code: int, dtype: str) -> None:
    expected = np.array([0, 1, 1, 0], dtype=dtype)
    array = ndarray_list.parse(packed([dense(V2, (4,), code, expected.tobytes())], ["a"]))["a"]
    assert array.dtype == expected.dtype
    assert array.tolist() == expected.tolist()


def test_scalars_and_empty_arrays_and_none() -> None:
    """A shape of no dimensions means "none", except in V3, where it is a scalar and -1 is none."""
    none, none3 = struct.pack("<Iii", V2, 0, 0), struct.pack("<Iii", V3, 0, -1)
    data = [none, none3, dense(V3, (), 0, SIX[4:8]), dense(V2, (0, 4), 0, b"")]
    arrays = ndarray_list.parse(packed(data, ["none", "none3", "scalar", "empty"]))
    assert list(arrays) == ["scalar", "empty"]
    assert arrays["scalar"].item() == 1
    assert arrays["empty"].shape == (0, 4)


@pytest.mark.parametrize("length", range(len(FILE)))
def test_every_truncation_is_an_error(length: int) -> None:
    with pytest.raises(ConversionError, match=r"truncated or damaged.*needs|not an MXNet|it claims 2 arrays"):
        ndarray_list.parse(FILE[:length])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x13" + FILE[1:], "does not begin with 0x112"),
        (FILE + b"\0", "1 bytes follow its end"),
        (HEADER + struct.pack("<Q", 1 << 60), "it claims 1152921504606846976 arrays in 24 bytes"),
        (packed([dense(V2, (6,), 0, SIX)], []), "holds 1 arrays and 0 names"),
        (packed([dense(V2, (6,), 0, SIX)] * 2, ["a", "arg:a"]), "holds 'a' twice"),
        (packed([dense(V2, (6,), 99, SIX)], ["a"]), "array 0 has element type 99"),
        (packed([struct.pack("<Ii", V2, 1) + SIX], ["a"]), "array 0 is sparse"),
        (packed([dense(V2, (-6,), 0, SIX)], ["a"]), r"array 0 claims the shape \[-6\]"),
        (packed([struct.pack("<Iii", V2, 0, 1000) + SIX], ["a"]), "array 0 claims 1000 dimensions"),
        (packed([dense(V2, (1 << 40, 1 << 40), 0, SIX)], ["a"]), "truncated or damaged: array 0 at byte"),
        (FILE[:-1] + b"\xff", "a name is not text"),
    ],
)
def test_damage_is_an_error_that_says_where(data: bytes, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        ndarray_list.parse(data)
