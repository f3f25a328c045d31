"""Parquet in and out, read and written a piece at a time."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError, InvalidRequest, WorkerLost
from shoal.offline.files import parquet_rows
from shoal.router.graph_executor import Tensors
from tests.offline.fake_graphs import InlineExecutor, make_plan, spec
from tests.offline.map_cases import Job, affine, refuse

BATCH = BatchAxes(inputs={"x": 0, "t": 0}, outputs={"y": 0, "z": 0, "m": 0}, rows=None)
PLAN = make_plan(
    (spec("x", "N", 3), spec("t", "N", 1)), (spec("y", "N", 3), spec("z", "N"), spec("m", "N", 2, 3)), BATCH
)


def function(inputs: Tensors) -> dict[str, Array]:
    x, t = inputs["x"], inputs["t"]
    assert t.shape == (len(x), 1)
    return {"y": x + t, "z": t[:, 0], "m": np.stack([x, -x], 1)}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path, PLAN, function)


def save(job: Job, count: int, *, fixed: bool = False, group: int = 7) -> tuple[Path, Array, Array]:
    x = np.arange(3 * count, dtype=np.float32).reshape(-1, 3)
    t = np.arange(count, dtype=np.float32)
    kind = pa.list_(pa.float32(), 3 if fixed else -1)
    table = pa.table({"t": t, "other": t, "x": pa.array(x.tolist(), kind)})
    pq.write_table(table, job.folder / "in.parquet", row_group_size=group)
    return job.folder / "in.parquet", x, t


@pytest.mark.parametrize("fixed", [False, True])
def test_columns_become_inputs(job: Job, fixed: bool) -> None:
    inputs, x, t = save(job, 40, fixed=fixed)
    executor = InlineExecutor(function)
    job.run(inputs, executors=[executor], batch_rows=9)
    np.testing.assert_array_equal(job.result("y.npy"), x + t[:, None])
    assert executor.max_held_rows <= 18


def test_outputs_become_columns(job: Job) -> None:
    inputs, x, t = save(job, 40)
    out = job.folder / "out.parquet"
    summary = job.run(inputs, out=out)
    assert summary.outputs == [str(out)]
    table = pq.read_table(out)
    np.testing.assert_array_equal(np.array(table["y"].to_pylist()), x + t[:, None])
    np.testing.assert_array_equal(table["z"].to_numpy(), t)
    np.testing.assert_array_equal(np.array(table["m"].to_pylist()), np.stack([x, -x], 1))
    assert sorted(path.name for path in job.folder.glob("out*")) == ["out.parquet"]
    with pytest.raises(ConfigError, match="exists already"):
        job.run(inputs, out=out, resume=True)


def test_rows_go_to_parquet_too_and_can_be_gone_on_with(tmp_path: Path) -> None:
    job = Job(tmp_path)
    inputs, expected = job.rows(40)
    out = tmp_path / "out.parquet"
    with pytest.raises(WorkerLost):
        job.run(inputs, out=out, executors=[InlineExecutor(affine, lost_after=3)])
    assert not out.exists()
    summary = job.run(inputs, out=out, resume=True)
    assert summary.num_done_before == 12
    np.testing.assert_array_equal(np.array(pq.read_table(out)["y"].to_pylist()), expected)


def test_going_on_starts_at_the_right_row_group(job: Job) -> None:
    inputs, x, t = save(job, 40)
    with pytest.raises(WorkerLost):
        job.run(inputs, executors=[InlineExecutor(function, lost_after=5)], batch_rows=6)
    job.run(inputs, resume=True, batch_rows=6)
    np.testing.assert_array_equal(job.result("y.npy"), x + t[:, None])


def test_failed_rows_are_read_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "_READ_ROWS", 5)
    inputs, x, t = save(job, 40)

    def refuse(inputs: Tensors) -> dict[str, Array]:
        if 13 in inputs["t"] or 2 in inputs["t"]:
            raise InvalidRequest("no")
        return function(inputs)

    summary = job.run(inputs, executors=[InlineExecutor(refuse)])
    assert (summary.num_done, [failure.name for failure in job.failures]) == (38, ["row 2", "row 13"])
    y = job.result("y.npy")
    np.testing.assert_array_equal(np.delete(y, [2, 13], 0), np.delete(x + t[:, None], [2, 13], 0))
    assert np.isnan(y[[2, 13]]).all()


def test_text(tmp_path: Path) -> None:
    batch = BatchAxes(inputs={"x": 0}, outputs={"y": 0}, rows=None)
    plan = make_plan((spec("x", "N", dtype="string"),), (spec("y", "N", dtype="string"),), batch)
    job = Job(tmp_path, plan, lambda inputs: {"y": inputs["x"] + inputs["x"]})
    pq.write_table(pa.table({"x": ["a", "größe", ""]}), tmp_path / "in.parquet")
    import tests.offline.map_cases as cases

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "check", lambda tensors: tensors)
        job.run(tmp_path / "in.parquet", out=tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["y"].to_pylist() == ["aa", "größegröße", ""]


def refused(job: Job, table: pa.Table, match: str) -> None:
    pq.write_table(table, job.folder / "in.parquet")
    with pytest.raises((ConfigError, InvalidRequest), match=match) as error:
        job.run(job.folder / "in.parquet")
    assert len(str(error.value).splitlines()) == 1


def test_what_does_not_fit_is_named(job: Job) -> None:
    x = [[1.0, 2.0, 3.0]] * 3
    refused(job, pa.table({"t": [1.0, 2.0, 3.0]}), r"in\.parquet lacks the columns x; the model takes x, t")
    refused(job, pa.table({"t": [1.0, None, 3.0], "x": x}), "column t has 1 nulls")
    refused(job, pa.table({"t": [1.0, 2.0, 3.0], "x": [[1.0], [1.0, 2.0], [3.0]]}), r"different lengths \(1 to 2\)")
    (job.folder / "in.parquet").write_text("noise")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        job.run(job.folder / "in.parquet")


def test_without_pyarrow_the_extra_is_named(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, _, _ = save(job, 3)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'shoal-inference\[parquet\]'"):
        job.run(inputs)
    with pytest.raises(ConfigError, match=r"pip install 'shoal-inference\[parquet\]'"):
        job.run(inputs, out=job.folder / "out.parquet")


def test_rows_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"x": pa.array([[0.0] * 1000] * 50, pa.list_(pa.float32()))})
    pq.write_table(table, tmp_path / "x.parquet")
    specs = {"x": spec("x", "N", 1000)}
    batch = BatchAxes(inputs={"x": 0}, outputs={"y": 0}, rows=None)
    parquet_rows.ParquetSource(tmp_path / "x.parquet", specs, batch).close()
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=300_000))
    with pytest.raises(InvalidRequest, match="GB are free"):
        parquet_rows.ParquetSource(tmp_path / "x.parquet", specs, batch)


def test_a_file_without_rows_gives_columns_without_rows(job: Job) -> None:
    pq.write_table(
        pa.table({"t": pa.array([], pa.float32()), "x": pa.array([], pa.list_(pa.float32()))}),
        job.folder / "in.parquet",
    )
    out = job.folder / "out.parquet"
    assert job.run(job.folder / "in.parquet", out=out, executors=[InlineExecutor(refuse)]).outputs == [str(out)]
    found = pq.read_table(out)
    assert found.num_rows == 0
    assert found.schema.field("m").type == pa.list_(pa.list_(pa.float32(), 3), 2)
