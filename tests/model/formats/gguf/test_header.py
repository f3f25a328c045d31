"""Damaged GGUF headers: one clear line, before anything is made of a number that the file claims."""

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from shoal.errors import ModelLoadError
from shoal.model.formats.gguf.header import GgufHeader

UINT32, INT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 7, 8, 9, 10
F32 = 0


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str = "t", dims: Sequence[int] = (8,), kind: int = F32, offset: int = 0) -> bytes:
    head = text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", dim) for dim in dims)
    return head + struct.pack("<IQ", kind, offset)


def write(path: Path, *, keys: Sequence[bytes] = (), tensors: Sequence[bytes] = (), counts: Sequence[int] = ()) -> Path:
    """With 64 bytes of data behind the header."""
    num_tensors, num_keys = counts or (len(tensors), len(keys))
    header = b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_keys) + b"".join((*keys, *tensors))
    path.write_bytes(header + bytes(-len(header) % 32) + bytes(64))
    return path


def test_a_sound_header(tmp_path: Path) -> None:
    keys = [key("general.alignment", UINT32, struct.pack("<I", 32)), key("a", STRING, text("b"))]
    tensors = [tensor("t"), tensor("u", offset=32)]
    header = GgufHeader(write(tmp_path / "m.gguf", keys=keys, tensors=tensors))
    assert header.metadata == {"general.alignment": 32, "a": "b"}
    assert {name: one.shape for name, one in header.tensors.items()} == {"t": (8,), "u": (8,)}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (UINT32, struct.pack("<I", 0)),
        (UINT32, struct.pack("<I", 24)),
        (INT32, struct.pack("<i", -32)),
        (STRING, text("32")),
        (BOOL, b"\1"),
    ],
)
def test_an_alignment_that_is_no_power_of_two(tmp_path: Path, kind: int, value: bytes) -> None:
    path = write(tmp_path / "m.gguf", keys=[key("general.alignment", kind, value)], tensors=[tensor()])
    with pytest.raises(ModelLoadError, match=r"m\.gguf: the GGUF header is corrupt .* not a power of two"):
        GgufHeader(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (tensor(dims=(0,)), "a dimension of 0"),
        (tensor(dims=(8, 0)), "a dimension of 0"),
        (tensor(dims=(1,) * 5), "5 dimensions"),
        (tensor(dims=(2**40, 2**40, 2**40)), "truncated"),
        (tensor(dims=(2**63, 2)), "truncated"),
        (tensor(offset=2**62), "truncated"),
        (tensor(offset=4), "no multiple of 32"),
        (tensor(kind=999), "unknown GGML type 999"),
        (tensor(dims=(7,), kind=2), "do not divide"),
        (tensor("t" * 600), "a name of 600 characters"),
    ],
)
def test_tensors_that_cannot_be(tmp_path: Path, entry: bytes, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        GgufHeader(write(tmp_path / "m.gguf", tensors=[entry]))


def test_tensors_twice_or_over_each_other(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="two tensors 't'"):
        GgufHeader(write(tmp_path / "m.gguf", tensors=[tensor(), tensor(offset=32)]))
    with pytest.raises(ModelLoadError, match="'t' and 'u' overlap"):
        GgufHeader(write(tmp_path / "m.gguf", tensors=[tensor(dims=(16,)), tensor("u", offset=32)]))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (key("a", ARRAY, struct.pack("<IQ", UINT64, 2**61)), "an array of"),
        (key("a", ARRAY, struct.pack("<IQ", STRING, 2**40)), "an array of"),
        (key("a", ARRAY, struct.pack("<IQ", STRING, 1) + struct.pack("<Q", 2**63)), "longer than the file"),
        (key("a", ARRAY, struct.pack("<IQ", ARRAY, 1)), "array of arrays"),
        (key("a", STRING, struct.pack("<Q", 2**63)), "a string of"),
        (key("a", 99, b""), "corrupt"),
        (key("a", BOOL, b"\1") + key("a", BOOL, b"\1"), "twice"),
    ],
)
def test_metadata_that_cannot_be(tmp_path: Path, entry: bytes, message: str) -> None:
    num_keys = 2 if message == "twice" else 1
    with pytest.raises(ModelLoadError, match=message):
        GgufHeader(write(tmp_path / "m.gguf", keys=[entry], counts=(0, num_keys)))


@pytest.mark.parametrize("counts", [(2**63, 0), (0, 2**63), (10**6, 0)])
def test_counts_beyond_the_file(tmp_path: Path, counts: tuple[int, int]) -> None:
    with pytest.raises(ModelLoadError, match="for which the file is too short"):
        GgufHeader(write(tmp_path / "m.gguf", counts=counts))
