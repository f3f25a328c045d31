"""Rows of arrays in files: any order of memory, any axis, stored or compressed, and files that are broken."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError
from shoal.offline.files.array_rows import open_npy, read_array
from shoal.offline.files.row_sink import NpyWriter
from shoal.offline.files.row_source import RowSource, open_rows
from shoal.offline.files.tensor_values import as_tensor
from shoal.protocol.stage_interface import TensorSpec
from tests.offline.fake_graphs import spec

X = (spec("x", "N", 3),)


def axes(**inputs: int | None) -> BatchAxes:
    return BatchAxes(inputs=inputs, outputs={"y": 0}, rows=None)


def open_one(path: Path, array: np.ndarray, axis: int = 0, dtype: str = "float32") -> RowSource:
    return open_rows(path, (TensorSpec(name="x", dtype=dtype, shape=None),), axes(x=axis))


def read_in_steps(source: RowSource, *steps: int) -> list[np.ndarray]:
    ends = np.cumsum(steps).tolist()
    return [np.asarray(source.read(end - step, end)["x"]) for end, step in zip(ends, steps, strict=True)]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", ["npy", "stored", "compressed"])
def test_rows_are_those_of_the_whole_array(tmp_path: Path, kind: str, axis: int, order: str) -> None:
    array = np.asarray(np.random.default_rng(0).normal(size=(7, 7, 7)), dtype=np.float32, order=order)
    path = tmp_path / ("x.npy" if kind == "npy" else "x.npz")
    if kind == "npy":
        np.save(path, array)
    else:
        (np.savez if kind == "stored" else np.savez_compressed)(path, x=array)
    source = open_one(path, array, axis)
    assert source.num_rows == 7
    np.testing.assert_array_equal(np.concatenate(read_in_steps(source, 3, 0, 1, 3), axis), array)
    np.testing.assert_array_equal(source.read(1, 2)["x"], array.take([1], axis))
    source.close()


def test_text_becomes_objects(tmp_path: Path) -> None:
    for place, array in enumerate((np.array(["a", "größe"]), np.array([b"a", "größe".encode()]))):
        path = tmp_path / f"{place}.npy"
        np.save(path, array)
        source = open_one(path, array, dtype="string")
        read = source.read(0, 2)["x"]
        source.close()
        assert read.dtype == object
        assert read.tolist() == ["a", "größe"]


def test_floats_that_numpy_does_not_know_come_back(tmp_path: Path) -> None:
    array = np.arange(4).astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "x.npy", array)
    source = open_one(tmp_path / "x.npy", array, dtype="bfloat16")
    np.testing.assert_array_equal(source.read(1, 3)["x"], array[1:3])
    source.close()


def test_other_byte_order(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(4, dtype=">f4"))
    source = open_one(tmp_path / "x.npy", np.empty(0))
    read = source.read(0, 4)["x"]
    source.close()
    assert read.dtype == np.float32
    assert read.dtype.isnative
    assert read.tolist() == [0, 1, 2, 3]


def test_shared_inputs_are_in_every_part(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((4, 3), np.float32), rate=np.array(16000))
    source = open_rows(tmp_path / "in.npz", (*X, spec("rate", dtype="int64")), axes(x=0, rate=None))
    assert source.read(2, 3)["rate"] == 16000
    source.close()


def test_arrays_without_names_are_taken_in_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", np.zeros((4, 3)), np.ones((4, 2)))
    source = open_rows(tmp_path / "in.npz", (*X, spec("z", "N", 2)), axes(x=0, z=0))
    assert source.read(0, 1)["z"].tolist() == [[1, 1]]
    source.close()


def refused(path: Path, *specs: TensorSpec, batch: BatchAxes | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        open_rows(path, specs or X, batch or axes(x=0))
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert path.name in message
    return message


def test_what_cannot_be_an_input_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 3)))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(whole[:-5])
    (tmp_path / "head.npy").write_bytes(whole[:20])
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "text.npz").write_text("1 2 3")
    (tmp_path / "x.csv").write_text("1,2")
    np.save(tmp_path / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.save(tmp_path / "scalar.npy", np.zeros(()))
    np.savez(tmp_path / "names.npz", x=np.zeros((4, 3)), w=np.zeros(4))
    np.savez(tmp_path / "counts.npz", x=np.zeros((4, 3)), z=np.zeros((5, 3)))
    assert "cut short: 5 bytes" in refused(tmp_path / "short.npy")
    assert "not a .npy file" in refused(tmp_path / "head.npy")
    assert "not a .npy file" in refused(tmp_path / "text.npy")
    assert "not a .npz file" in refused(tmp_path / "text.npz")
    assert "neither a folder nor" in refused(tmp_path / "x.csv")
    assert "Python objects" in refused(tmp_path / "objects.npy")
    assert "no axis 0" in refused(tmp_path / "scalar.npy")
    assert "No such file" in refused(tmp_path / "missing.npy")
    assert "has w; the model takes x" in refused(tmp_path / "names.npz")
    assert "x 4, z 5" in refused(tmp_path / "counts.npz", *X, spec("z", "N", 3), batch=axes(x=0, z=0))
    assert "the model takes x, z" in refused(tmp_path / "x.npy", *X, spec("z", "N", 3), batch=axes(x=0, z=0))
    assert "--batch-dim" in refused(tmp_path / "x.npy", batch=axes(x=None))


def test_too_many_places_at_once_in_a_member(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((65, 4)))
    assert "65 places" in refused(tmp_path / "x.npz", batch=axes(x=1))


def test_a_member_that_is_damaged_further_on(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(20000, 3)))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    (tmp_path / "x.npz").write_bytes(content)
    source = open_one(tmp_path / "x.npz", np.empty(0))
    source.read(0, 10)
    with pytest.raises(Exception, match=r"x\.npz: x (cannot be read|is cut short)"):
        source.read(10, 20000)
    source.close()


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2", "float8_e4m3fn", "int4"])
def test_types_that_the_format_has_no_name_for_are_stored_as_bare_bytes(tmp_path: Path, dtype: str) -> None:
    array = np.array([[1, 0], [1, 1]]).astype(dtype)
    writer = NpyWriter.create(tmp_path / "y.npy", array.shape, array.dtype, 0)
    writer.write(0, array)
    writer.close()
    header, data = open_npy(tmp_path / "y.npy")
    found = as_tensor(read_array("y", header, data), TensorSpec(name="y", dtype=dtype, shape=(2, 2)))
    data.close()
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())
