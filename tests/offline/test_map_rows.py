"""Maps over rows: order, shapes, resuming, disks that are full and rows that fail."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import CapacityError, ConfigError, InvalidRequest, WorkerLost
from shoal.offline.files import row_sink
from shoal.offline.files.row_sink import RowSink
from shoal.offline.map_job import JOURNAL, default_batch_rows
from shoal.router.graph_executor import Tensors
from tests.offline.fake_graphs import InlineExecutor, ScriptedExecutor, make_plan, spec
from tests.offline.map_cases import BAD, Job, affine, refuse


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def journaled_rows(job: Job) -> list[tuple[int, int]]:
    lines = (job.out / JOURNAL).read_text().splitlines()
    return sorted(tuple(record["rows"]) for record in map(json.loads, lines) if "rows" in record)


def test_rows_come_out_in_their_order_whoever_computes_them(job: Job) -> None:
    inputs, expected = job.rows(101)
    executors = [InlineExecutor(affine), InlineExecutor(affine, num_stages=3), InlineExecutor(affine, lost_after=2)]
    summary = job.run(inputs, executors=executors)
    assert (summary.unit, summary.total, summary.num_done, summary.num_failed) == ("rows", 101, 101, 0)
    assert summary.outputs == [str(job.out / "y.npy")]
    np.testing.assert_array_equal(job.result(), expected)
    assert all(executor.batches for executor in executors)


def test_few_rows_of_a_large_file_are_held(job: Job) -> None:
    x = np.random.default_rng(0).integers(0, 9, (20000, 4)).astype(np.float32)
    np.savez_compressed(job.folder / "in.npz", x=x)
    executor = InlineExecutor(affine)
    job.run(job.folder / "in.npz", executors=[executor], batch_rows=50)
    assert executor.max_held_rows <= 2 * 50
    assert max(len(batch.inputs["x"]) for batch in executor.batches) == 50
    np.testing.assert_array_equal(job.result(), 2 * x + 1)


def test_rows_along_another_axis(tmp_path: Path) -> None:
    batch = BatchAxes(inputs={"x": 1}, outputs={"y": 2, "n": 0}, rows=None)
    plan = make_plan((spec("x", 2, "N"),), (spec("y", 1, 2, "N"), spec("n", "N")), batch)

    def function(inputs: Tensors) -> dict[str, Array]:
        return {"y": inputs["x"][None] * 2, "n": inputs["x"].sum(0)}

    job = Job(tmp_path, plan, function)
    x = np.arange(22, dtype=np.float32).reshape(2, 11)
    np.savez(tmp_path / "in.npz", x=x)
    job.run(tmp_path / "in.npz")
    np.testing.assert_array_equal(job.result(), x[None] * 2)
    np.testing.assert_array_equal(job.result("n.npy"), x.sum(0))


def test_a_fixed_batch_is_filled_up_and_the_filling_dropped(tmp_path: Path) -> None:
    batch = BatchAxes(inputs={"x": 0}, outputs={"y": 0}, rows=4)
    job = Job(tmp_path, make_plan((spec("x", 4, 3),), (spec("y", 4, 3),), batch))
    inputs, expected = job.rows(10)
    executor = InlineExecutor(affine)
    job.run(inputs, executors=[executor], batch_rows=None)
    assert {len(one.inputs["x"]) for one in executor.batches} == {4}
    np.testing.assert_array_equal(job.result(), expected)
    with pytest.raises(ConfigError, match="fixes the batch at 4"):
        job.run(inputs, batch_rows=5, resume=True)


def test_several_entries_a_row(tmp_path: Path) -> None:
    job = Job(tmp_path, function=lambda inputs: {"y": np.repeat(inputs["x"], 2, 0)})
    inputs, _ = job.rows(7)
    job.run(inputs)
    np.testing.assert_array_equal(job.result(), np.repeat(np.load(inputs), 2, 0))


def test_strings_of_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sink, "_COPY_ROWS", 2)

    def name(inputs: Tensors) -> dict[str, Array]:
        return {"y": np.array(["é" * int(row[0]) for row in inputs["x"]], dtype=object)}

    job = Job(tmp_path, function=name)
    np.save(tmp_path / "x.npy", np.array([[1], [0], [30], [2], [31], [3]]))
    job.run(tmp_path / "x.npy", batch_rows=2)
    assert job.result().tolist() == ["é" * count for count in (1, 0, 30, 2, 31, 3)]
    assert sorted(path.name for path in job.out.iterdir()) == [JOURNAL, "y.npy"]


def test_output_names_that_no_file_can_have(tmp_path: Path) -> None:
    batch = BatchAxes(inputs={"x": 0}, outputs={"a/b:0": 0, "a b:0": 0}, rows=None)
    plan = make_plan((spec("x", "N", 3),), (spec("a/b:0", "N", 3), spec("a b:0", "N", 3)), batch)
    job = Job(tmp_path, plan, lambda inputs: {"a/b:0": inputs["x"], "a b:0": -inputs["x"]})
    inputs, _ = job.rows(5)
    job.run(inputs)
    np.testing.assert_array_equal(job.result("a_b:0.npy"), np.load(inputs))
    np.testing.assert_array_equal(job.result("a_b:0_.npy"), -np.load(inputs))


def test_rows_of_other_shapes_cannot_share_an_array(tmp_path: Path) -> None:
    job = Job(tmp_path, function=lambda inputs: {"y": inputs["x"][:, : 1 + int(inputs["x"].min() > 20)]})
    inputs, _ = job.rows(20)
    with pytest.raises(ConfigError, match=r"y\.npy.*: rows of shape \(2,\) come after rows of shape \(1,\)"):
        job.run(inputs)


def test_an_output_that_is_not_along_its_axis(tmp_path: Path) -> None:
    job = Job(tmp_path, function=lambda inputs: {"y": inputs["x"][:3]})
    inputs, _ = job.rows(8)
    with pytest.raises(ConfigError, match=r"output y has shape \(3, 3\) for 4 rows"):
        job.run(inputs)


@pytest.mark.parametrize("seed", range(20))
def test_unsteady_and_lost_replicas_write_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = Random(seed)
    written: list[int] = []
    write = RowSink.write

    def count(sink: RowSink, first: int, outputs: Mapping[str, Array], num_rows: int) -> None:
        written.extend(range(first, first + num_rows))
        write(sink, first, outputs, num_rows)

    monkeypatch.setattr(RowSink, "write", count)
    scripts = [[rng.choice((0, 0, 1, 2)) for _ in range(20)] for _ in range(4)]
    for script in scripts[:2]:
        script[rng.randrange(20)] = -1
    job = Job(tmp_path)
    inputs, expected = job.rows(60)
    job.run(inputs, executors=[ScriptedExecutor(affine, script) for script in scripts])
    np.testing.assert_array_equal(job.result(), expected)
    assert sorted(written) == list(range(60))


class TestFailingRows:
    def test_one_row_is_named_and_the_others_are_done(self, job: Job) -> None:
        inputs, expected = job.rows(20)
        x = np.load(inputs)
        x[9] = BAD
        np.save(inputs, x)
        summary = job.run(inputs)
        assert (summary.num_done, summary.num_failed) == (19, 1)
        assert [(failure.name, failure.reason) for failure in job.failures] == [("row 9", "a value is out of range")]
        y = job.result()
        assert np.isnan(y[9]).all()
        np.testing.assert_array_equal(np.delete(y, 9, 0), np.delete(expected, 9, 0))

    def test_nothing_works(self, job: Job) -> None:
        np.save(job.folder / "x.npy", np.full((10000, 3), BAD))
        executor = InlineExecutor(affine)
        with pytest.raises(InvalidRequest, match="nothing can be computed: a value is out of range"):
            job.run(job.folder / "x.npy", executors=[executor])
        assert len(executor.batches) < 100

    def test_what_does_not_fit_shows_before_anything_is_computed(self, job: Job) -> None:
        np.save(job.folder / "x.npy", np.array([["a"]]))
        executor = InlineExecutor(affine)
        with pytest.raises(InvalidRequest, match="takes float32"):
            job.run(job.folder / "x.npy", executors=[executor])
        assert not executor.batches


class TestResuming:
    def stop_early(self, job: Job, inputs: Path) -> list[tuple[int, int]]:
        """Loses all workers after some chunks."""
        with pytest.raises(WorkerLost):
            job.run(inputs, executors=[InlineExecutor(affine, lost_after=3), InlineExecutor(affine, lost_after=4)])
        done = journaled_rows(job)
        assert 0 < len(done) <= 7
        return done

    def test_only_what_is_missing_is_computed(self, job: Job) -> None:
        inputs, expected = job.rows(60)
        done = self.stop_early(job, inputs)
        assert not (job.out / "y.npy").exists()
        executor = InlineExecutor(affine)
        summary = job.run(inputs, executors=[executor], resume=True, batch_rows=7)
        num_done = sum(last - first for first, last in done)
        assert (summary.num_done_before, summary.num_done) == (num_done, 60 - num_done)
        assert sum(len(batch.inputs["x"]) for batch in executor.batches) == 60 - num_done
        np.testing.assert_array_equal(job.result(), expected)

    @pytest.mark.parametrize("torn", ['{"rows": [0, 60', '{"rows": [0, 60]}', "\0\0\n"])
    def test_a_torn_last_line_is_not_believed(self, job: Job, torn: str) -> None:
        inputs, expected = job.rows(60)
        self.stop_early(job, inputs)
        with (job.out / JOURNAL).open("a") as file:
            file.write(torn)
        job.run(inputs, resume=True)
        np.testing.assert_array_equal(job.result(), expected)
        assert journaled_rows(job)[-1] == (56, 60)

    def test_a_finished_run_has_nothing_left(self, job: Job) -> None:
        inputs, expected = job.rows(10)
        job.run(inputs)
        executor = InlineExecutor(affine)
        summary = job.run(inputs, executors=[executor], resume=True)
        assert (summary.num_done_before, summary.num_done) == (10, 0)
        assert not executor.batches
        np.testing.assert_array_equal(job.result(), expected)

    def test_failed_rows_are_tried_again(self, job: Job) -> None:
        inputs, _ = job.rows(10)
        job.function = lambda inputs: (
            (_ for _ in ()).throw(InvalidRequest("no")) if (inputs["x"] == 9).any() else affine(inputs)
        )
        assert job.run(inputs).num_failed == 1
        summary = job.run(inputs, executors=[InlineExecutor(affine)], resume=True)
        assert (summary.num_done, summary.num_failed) == (1, 0)
        np.testing.assert_array_equal(job.result(), 2 * np.load(inputs) + 1)

    def test_without_the_flag_the_earlier_output_is_kept(self, job: Job) -> None:
        inputs, expected = job.rows(10)
        job.run(inputs)
        with pytest.raises(ConfigError, match="continue it with --resume"):
            job.run(inputs)
        np.testing.assert_array_equal(job.result(), expected)

    def test_other_things_are_not_gone_on_with(self, job: Job) -> None:
        inputs, _ = job.rows(10)
        job.run(inputs)
        content = job.model.read_bytes()
        job.model.write_bytes(b"another model")
        with pytest.raises(ConfigError, match="started with another model"):
            job.run(inputs, resume=True)
        job.model.write_bytes(content)
        x = np.load(inputs)
        x[3, 1] += 1
        np.save(inputs, x)
        with pytest.raises(ConfigError, match="started with another input"):
            job.run(inputs, resume=True)

    def test_files_that_have_gone(self, job: Job) -> None:
        inputs, _ = job.rows(60)
        self.stop_early(job, inputs)
        (job.out / "y.npy.part").unlink()
        with pytest.raises(ConfigError, match=r"cannot continue: .*y\.npy\.part cannot be read"):
            job.run(inputs, resume=True)

    def test_nothing_to_go_on_with_is_a_start(self, job: Job) -> None:
        inputs, expected = job.rows(10)
        assert job.run(inputs, resume=True).num_done == 10
        np.testing.assert_array_equal(job.result(), expected)

    def test_a_killed_process(self, job: Job) -> None:
        """A real SIGKILL in the middle: what the journal says is there, and the rest is computed."""
        inputs, expected = job.rows(60)
        command = [sys.executable, "-m", "tests.offline.killed_map", str(job.folder), str(inputs)]
        killed = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
        assert killed.returncode == -signal.SIGKILL
        done = journaled_rows(job)
        assert done
        executor = InlineExecutor(affine)
        job.run(inputs, executors=[executor], resume=True)
        assert sum(len(batch.inputs["x"]) for batch in executor.batches) == 60 - sum(b - a for a, b in done)
        np.testing.assert_array_equal(job.result(), expected)


class TestDisks:
    def test_an_output_that_cannot_be_written_shows_first(self, job: Job) -> None:
        inputs, _ = job.rows(10)
        (job.folder / "file").write_text("")
        with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
            job.run(inputs, out=job.folder / "file" / "out")

    def test_somebody_elses_file_is_not_overwritten(self, job: Job) -> None:
        inputs, _ = job.rows(10)
        job.out.mkdir()
        (job.out / "y.npy").write_text("precious")
        with pytest.raises(ConfigError, match=r"y\.npy exists already"):
            job.run(inputs)
        assert (job.out / "y.npy").read_text() == "precious"

    def test_two_runs_at_once(self, job: Job) -> None:
        inputs, expected = job.rows(10)
        messages: list[str] = []

        def meddle(tensors: Tensors) -> dict[str, Array]:
            if not messages:
                with pytest.raises(ConfigError) as error:
                    job.run(inputs, executors=[InlineExecutor(affine)], resume=True)
                messages.append(str(error.value))
            return affine(tensors)

        job.run(inputs, executors=[InlineExecutor(meddle)])
        assert "is being written by another run" in messages[0]
        np.testing.assert_array_equal(job.result(), expected)

    def test_no_room_for_the_output_shows_with_the_first_result(
        self, job: Job, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inputs, _ = job.rows(100)

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full)
        executor = InlineExecutor(affine)
        with pytest.raises(CapacityError, match=r"cannot write .*y\.npy\.part: No space left on device"):
            job.run(inputs, executors=[executor])
        assert len(executor.batches) == 1
        assert journaled_rows(job) == []

    def test_a_disk_that_fills_up_leaves_a_right_journal(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        inputs, expected = job.rows(60)
        write, num_writes = os.pwrite, 0

        def fill_up(fd: int, data: memoryview, offset: int) -> int:
            nonlocal num_writes
            num_writes += 1
            if num_writes > 9:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(fd, data, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fill_up)
            with pytest.raises(CapacityError, match="No space left on device"):
                job.run(inputs)
        done = journaled_rows(job)
        assert done
        for first, last in done:
            np.testing.assert_array_equal(np.load(job.out / "y.npy.part")[first:last], expected[first:last])
        job.run(inputs, resume=True)
        np.testing.assert_array_equal(job.result(), expected)

    def test_output_is_on_the_disk_before_the_journal_says_so(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        inputs, _ = job.rows(40)
        order: list[str] = []
        write, sync = os.pwrite, os.fsync

        def note_write(fd: int, data: memoryview, offset: int) -> int:
            order.append(f"write {_name(fd)}")
            return write(fd, data, offset)

        def note_sync(fd: int) -> None:
            order.append(f"sync {_name(fd)}")
            sync(fd)

        monkeypatch.setattr(os, "pwrite", note_write)
        monkeypatch.setattr(os, "fsync", note_sync)
        job.run(inputs)
        dirty = False
        for event in order[2:]:
            dirty = event == "write y.npy.part" or (dirty and event != "sync y.npy.part")
            assert not (dirty and event == f"write {JOURNAL}")
        assert f"sync {JOURNAL}" in order


def _name(fd: int) -> str:
    return Path(os.readlink(f"/proc/self/fd/{fd}")).name


def test_batches_are_small_where_rows_are_large_or_few() -> None:
    assert default_batch_rows(10**6, 256, 4) == 32
    assert default_batch_rows(10**6, 5 << 20, 4) == 1
    assert default_batch_rows(64, 256, 4) == 4
    assert default_batch_rows(3, 256, 4) == 1


def test_a_file_without_rows_gives_outputs_without_rows_and_asks_no_worker(job: Job) -> None:
    inputs, _ = job.rows(0)
    for resume in (False, True):
        summary = job.run(inputs, executors=[InlineExecutor(refuse)], resume=resume)
        assert (summary.total, summary.num_failed, summary.outputs) == (0, 0, [str(job.out / "y.npy")])
        assert job.result().shape == (0, 3)
        assert job.result().dtype == np.float32


def test_a_file_without_rows_must_still_fit_the_graph(job: Job) -> None:
    np.save(job.folder / "x.npy", np.zeros((0, 3), "U1"))
    with pytest.raises(InvalidRequest, match="the model takes float32"):
        job.run(job.folder / "x.npy")
