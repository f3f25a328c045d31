"""Files of inputs and outputs: what they can hold, and what is refused before any memory is taken."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from shoal.cli.graphs.files import read_arrays, write_arrays
from shoal.errors import ConfigError
from shoal.protocol.stage_interface import TensorSpec

X = (TensorSpec(name="x", dtype="float32", shape=("N", 4)),)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_arrays(path, X)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def header_of(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("shape", "descr", "said"),
    [
        ("(1000000000000,)", "<f4", "cut short"),
        ("(-4,)", "<f4", "impossible shape"),
        (f"({'1,' * 65})", "<f4", "impossible shape"),
        ("(1000000000000,)", "<U0", "impossible shape"),
        ("(4,)", "|O", "Python objects"),
        ("(4,)", "<f3", "not a .npy file"),
        ("(" * 400 + ")" * 400, "<f4", "not a .npy file"),
    ],
)
def test_headers_that_cannot_be_are_refused(tmp_path: Path, shape: str, descr: str, said: str) -> None:
    (tmp_path / "x.npy").write_bytes(header_of(shape, descr) + bytes(16))
    assert said in refusal(tmp_path / "x.npy")


def test_an_array_of_zeros_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A sparse file has the size that its header says, and no content."""
    with (tmp_path / "x.npy").open("wb") as file:
        file.write(header_of("(1000000000000,)"))
        file.truncate(file.tell() + 4 * 10**12)
    assert "GB are free" in refusal(tmp_path / "x.npy")


def test_a_small_file_that_unpacks_to_too_much_is_refused_by_its_directory(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x.npy", header_of("(1000000000000,)"))
    packed = bytearray(content.getvalue())
    directory = packed.index(b"PK\x01\x02")
    packed[directory + 24 : directory + 28] = (0xFFFFFFFE).to_bytes(4, "little")
    (tmp_path / "x.npz").write_bytes(packed)
    assert "cut short" in refusal(tmp_path / "x.npz")


def test_pickles_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    assert "Python objects" in refusal(tmp_path / "x.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    assert "not a regular file" in refusal(tmp_path / "pipe.npy")
    assert "not a regular file" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "absent.npz")


def test_what_numpy_cannot_store_is_written_as_the_next_wider_type(tmp_path: Path) -> None:
    arrays = {
        "half": np.array([1.5, -2], ml_dtypes.bfloat16),
        "eighth": np.array([1.5, -2], ml_dtypes.float8_e5m2),
        "nibble": np.array([7, -8], ml_dtypes.int4),
        "text": np.array(["a", "日本"], object),
        "number": np.array(3),
    }
    write_arrays(tmp_path / "y.npz", arrays)
    with np.load(tmp_path / "y.npz") as stored:
        assert {name: stored[name].tolist() for name in stored.files} == {
            name: array.tolist() for name, array in arrays.items()
        }
        assert [stored[name].dtype.name for name in ("half", "eighth", "nibble")] == ["float32", "float32", "int8"]
        assert stored["number"].shape == ()


def test_texts_and_bare_bytes_are_read_as_the_graph_takes_them(tmp_path: Path) -> None:
    specs = (
        TensorSpec(name="h", dtype="bfloat16", shape=(2,)),
        TensorSpec(name="s", dtype="string", shape=(2,)),
    )
    half = np.array([1.5, -2], ml_dtypes.bfloat16)
    np.savez(tmp_path / "x.npz", h=half, s=np.array(["a", "日本"]), more=np.arange(3))
    arrays = read_arrays(tmp_path / "x.npz", specs)
    assert (arrays["h"].dtype, arrays["h"].tolist()) == (half.dtype, half.tolist())
    assert arrays["s"].tolist() == ["a", "日本"]
    assert arrays["more"].tolist() == [0, 1, 2]
