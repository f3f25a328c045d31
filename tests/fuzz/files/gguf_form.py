"""A GGUF file taken apart and put together again with whatever a change made of it. Source: GGUF specification."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.files.trees import EDGES

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_COUNTS = (0, 1, 2, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64 - 1)


@dataclass
class Value:
    """One value of the metadata with the type that the file gives it; items of an array have `item_type`."""

    type: int
    value: Any
    item_type: int = 0
    said_length: int | None = None
    """the number of items or bytes that the file claims; None: the true one"""


@dataclass
class Info:
    """One tensor's entry in the header."""

    name: bytes
    dims: list[int]
    kind: int
    offset: int


@dataclass
class GgufForm:
    """The parts of a file."""

    version: int
    metadata: list[tuple[bytes, Value]]
    tensors: list[Info]
    data: bytes
    said_counts: list[int] = field(default_factory=list)
    """tensors and keys that the file claims; empty: the true numbers"""


def parse(data: bytes, *, alignment: int = 32) -> GgufForm:
    """Of a file that is well formed."""
    position = 4

    def take(form: str) -> Any:
        nonlocal position
        (value,) = struct.unpack_from(form, data, position)
        position += struct.calcsize(form)
        return value

    def string() -> bytes:
        nonlocal position
        length = take("<Q")
        position += length
        return data[position - length : position]

    def one(kind: int) -> Any:
        return string() if kind == _STRING else take(_SCALARS[kind])

    version, num_tensors, num_keys = take("<I"), take("<Q"), take("<Q")
    metadata = []
    for _ in range(num_keys):
        key, kind = string(), take("<I")
        if kind == _ARRAY:
            item_type, length = take("<I"), take("<Q")
            metadata.append((key, Value(kind, [one(item_type) for _ in range(length)], item_type)))
        else:
            metadata.append((key, Value(kind, one(kind))))
    tensors = []
    for _ in range(num_tensors):
        name, num_dims = string(), take("<I")
        dims = [take("<Q") for _ in range(num_dims)]
        tensors.append(Info(name, dims, take("<I"), take("<Q")))
    return GgufForm(version, metadata, tensors, data[-(-position // alignment) * alignment :])


def unparse(form: GgufForm, *, alignment: int = 32) -> bytes:
    """The bytes of a file, right or wrong."""
    counts = form.said_counts or [len(form.tensors), len(form.metadata)]
    out = bytearray(b"GGUF" + struct.pack("<IQQ", form.version, *counts))
    for key, value in form.metadata:
        out += _string(key) + struct.pack("<I", value.type) + _packed(value)
    for info in form.tensors:
        out += _string(info.name) + struct.pack("<I", len(info.dims)) + struct.pack(f"<{len(info.dims)}Q", *info.dims)
        out += struct.pack("<IQ", info.kind & 0xFFFFFFFF, info.offset)
    return bytes(out) + bytes(-len(out) % alignment) + form.data


def mutate_gguf(data: bytes, source: random.Random) -> bytes:
    """The file after one to three changes to what its header says."""
    form = parse(data)
    for _ in range(source.choice((1, 1, 2, 3))):
        _change(form, source)
    return unparse(form)


def _change(form: GgufForm, source: random.Random) -> None:
    index = source.randrange(len(form.metadata))
    key, value = form.metadata[index]
    info = source.choice(form.tensors)
    match source.randrange(16):
        case 0:
            del form.metadata[index]
            if not form.metadata:
                form.metadata.append((key, value))
        case 1:
            form.metadata.append((key, value))
        case 2:
            value.type = source.choice((*_SCALARS, _STRING, _ARRAY, 13, 255, 2**31))
        case 3 | 4 | 5 if value.type in _SCALARS:
            value.value = source.choice(EDGES)
        case 3 | 4 if value.type == _STRING:
            value.value = source.choice((b"", b"\xff\xfe", b"\x00", b"x" * 5000, b"none", b"yarn", b"spm"))
        case 3 | 4 | 5:
            _change_array(value, source)
        case 6:
            value.said_length = source.choice(_COUNTS)
        case 7:
            info.dims[source.randrange(len(info.dims))] = source.choice((*_COUNTS, 64, 63, 65, 33))
        case 8:
            info.dims = source.choice(([], info.dims * 2, [*info.dims, 1], info.dims[::-1], [1] * 100))
        case 9:
            info.kind = source.choice((*range(45), 255, 2**31))
        case 10:
            info.offset = source.choice((*_COUNTS, info.offset + 1, info.offset + 32, len(form.data)))
        case 11:
            info.name = source.choice(
                (b"", b"token_embd.weight", b"\xff", info.name + b"s", b"x" * 300, b"output.weight")
            )
        case 12:
            form.tensors.append(Info(info.name, list(info.dims), info.kind, info.offset))
        case 13:
            if len(form.tensors) > 1:
                form.tensors.remove(info)
        case 14:
            form.said_counts = [source.choice((*_COUNTS, len(form.tensors))), len(form.metadata)]
            source.shuffle(form.said_counts)
        case _:
            form.version = source.choice((0, 1, 2, 3, 4, 2**24 * 3))
            form.data = form.data[: source.randint(0, len(form.data))]


def _change_array(value: Value, source: random.Random) -> None:
    items = value.value if isinstance(value.value, list) else [value.value]
    value.value = items
    match source.randrange(5):
        case 0:
            del items[source.randint(0, len(items)) :]
        case 1 if items:
            items[source.randrange(len(items))] = source.choice(EDGES)
        case 2 if items:
            items.extend(items[: source.randint(1, 64)])
        case 3:
            value.item_type = source.choice((*_SCALARS, _STRING, _ARRAY, 99))
        case _:
            value.value = [source.choice(EDGES) for _ in range(len(items))]


def _packed(value: Value) -> bytes:
    if value.type != _ARRAY:
        return _scalar(value.type, value.value, value.said_length)
    items = value.value if isinstance(value.value, list) else [value.value]
    length = len(items) if value.said_length is None else value.said_length
    head = struct.pack("<IQ", value.item_type & 0xFFFFFFFF, length)
    return head + b"".join(_scalar(value.item_type, item, None) for item in items)


def _scalar(kind: int, value: Any, said_length: int | None) -> bytes:
    if kind == _STRING:
        return _string(value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass"), said_length)
    form = _SCALARS.get(kind, "<Q")
    try:
        return struct.pack(form, value)
    except (struct.error, OverflowError):
        number = int(value) if isinstance(value, int) else 1
        return (number % (1 << 64)).to_bytes(8, "little")[: struct.calcsize(form)]


def _string(data: bytes, said_length: int | None = None) -> bytes:
    return struct.pack("<Q", len(data) if said_length is None else said_length) + data
