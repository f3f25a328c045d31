"""A kept file is read as it was written, or not at all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.model.attention.paged_attention import native_available
from shoal.model.packed.kept_file import KeptFormat, kept_format, read_kept, write_kept
from tests.model.packed.kept_cases import ARRANGEMENT, CONTENT

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")
KEPT = kept_format(ARRANGEMENT, {"unit": "layer-0"})


def pool():
    from shoal._native import ThreadPool

    return ThreadPool(2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_kept(tmp_path / "layer-0.packed", KEPT, CONTENT, pool())
    return tmp_path / "layer-0.packed"


def read(path: Path, kept: KeptFormat = KEPT):
    return read_kept(path, kept, pool())


def test_what_was_written_is_read(path: Path) -> None:
    weights = read(path)
    assert weights is not None
    np.testing.assert_array_equal(weights, CONTENT)
    assert weights.ctypes.data % 64 == 0
    assert not weights.flags.writeable
    assert path.stat().st_size == KEPT.num_bytes
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_writer_has_what_it_wrote(tmp_path: Path) -> None:
    np.testing.assert_array_equal(write_kept(tmp_path / "x.packed", KEPT, CONTENT, pool()), CONTENT)
    assert [one.name for one in tmp_path.iterdir()] == ["x.packed"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.one_of(st.integers(0, KEPT.num_bytes - 1), st.integers(0, 600), st.integers(1, 8).map(lambda i: -i)))
def test_every_flipped_bit_is_noticed(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << (at % 8)
    other = path.with_name("flipped")
    other.write_bytes(data)
    assert read(other) is None


@pytest.mark.parametrize("num_bytes", [0, 1, 4095, 4096, 50_000, KEPT.num_bytes - 8, KEPT.num_bytes - 1])
def test_a_truncated_file_is_noticed(path: Path, num_bytes: int) -> None:
    os.truncate(path, num_bytes)
    assert read(path) is None


def test_a_longer_file_is_noticed(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")
    assert read(path) is None


def test_a_hole_in_the_weights_is_noticed(path: Path) -> None:
    """What a crash can leave where a file's length was written and its content was not."""
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(bytes(4096))
    assert read(path) is None


@pytest.mark.parametrize("change", ["unit", "form", "name"])
def test_a_file_of_other_matrices_is_another(path: Path, change: str) -> None:
    first, second = ARRANGEMENT.matrices
    changed = {
        "unit": ARRANGEMENT,
        "form": replace(ARRANGEMENT, matrices=(replace(first, form=(2, 1, 0, 8, 15, 32, 32, 0)), second)),
        "name": replace(ARRANGEMENT, matrices=(replace(first, name="v"), second)),
    }
    assert read(path, kept_format(changed[change], {"unit": "layer-1" if change == "unit" else "layer-0"})) is None


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    assert read(tmp_path / "missing") is None
    assert read(tmp_path) is None
    os.mkfifo(tmp_path / "pipe")
    assert read(tmp_path / "pipe") is None


def test_use_is_noted(path: Path) -> None:
    os.utime(path, ns=(1, 1))
    read(path)
    assert path.stat().st_mtime_ns > 1


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.packed").mkdir()
    (tmp_path / "x.packed" / "inside").touch()
    with pytest.raises(OSError):  # noqa: PT011 (which one differs)
        write_kept(tmp_path / "x.packed", KEPT, CONTENT, pool())
    assert [one.name for one in tmp_path.iterdir()] == ["x.packed"]


def test_the_remains_of_a_killed_writer_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x.new").write_bytes(b"begun")
    write_kept(tmp_path / "x.packed", KEPT, CONTENT, pool())
    assert read(tmp_path / "x.packed") is not None
    assert [one.name for one in tmp_path.iterdir()] == ["x.packed"]
