"""Maps over folders: a file an item, whatever its shape, and broken ones among them."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import CapacityError, ConfigError, InvalidRequest, WorkerLost
from shoal.offline.map_job import JOURNAL
from shoal.router.graph_executor import Tensors
from tests.offline.fake_graphs import InlineExecutor, make_plan, spec
from tests.offline.map_cases import BAD, Job, affine


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "in").mkdir()
    return Job(tmp_path)


def save(job: Job, **arrays: Array) -> Path:
    for name, array in arrays.items():
        np.save(job.folder / "in" / f"{name}.npy", array)
    return job.folder / "in"


def batch_shapes(executor: InlineExecutor) -> list[tuple[int, ...]]:
    return [batch.inputs["x"].shape for batch in executor.batches]


def random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).integers(0, 9, shape).astype(np.float32)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_items_of_all_shapes_longest_first_and_equal_ones_together(job: Job) -> None:
    arrays = {f"item{place:02}": random(1 + place % 3) for place in range(12)}
    executor = InlineExecutor(affine)
    summary = job.run(save(job, **arrays), executors=[executor])
    assert (summary.unit, summary.total, summary.num_done, summary.num_failed) == ("files", 12, 12, 0)
    assert batch_shapes(executor) == [(4, 3), (4, 2), (4, 1)]
    for name, array in arrays.items():
        np.testing.assert_array_equal(job.result(f"{name}.npy"), 2 * array + 1)


def test_an_item_with_the_batch_axis_keeps_it(job: Job) -> None:
    arrays = {"one": random(1, 3), "many": random(11, 3), "none": random(3)}
    executor = InlineExecutor(affine)
    job.run(save(job, **arrays), executors=[executor])
    assert max(shape[0] for shape in batch_shapes(executor)) == 4
    for name, array in arrays.items():
        np.testing.assert_array_equal(job.result(f"{name}.npy"), 2 * array + 1)


def test_several_outputs_and_inputs(tmp_path: Path) -> None:
    batch = BatchAxes(inputs={"x": 0, "rate": None}, outputs={"y": 0, "file": 0}, rows=None)
    plan = make_plan((spec("x", "N", "L"), spec("rate")), (spec("y", "N"), spec("file", "N", "L")), batch)
    job = Job(tmp_path, plan, lambda inputs: {"y": inputs["x"].sum(1), "file": inputs["x"] * inputs["rate"]})
    (tmp_path / "in").mkdir()
    rates = {"a": 2, "b": 3, "c": 2}
    for name, rate in rates.items():
        np.savez(tmp_path / "in" / f"{name}.npz", x=random(5), rate=np.float32(rate))
    executor = InlineExecutor(job.function)
    job.run(tmp_path / "in", executors=[executor])
    for name, rate in rates.items():
        with np.load(job.out / f"{name}.npz") as result:
            np.testing.assert_array_equal(result["y"], random(5).sum())
            np.testing.assert_array_equal(result["file"], random(5) * rate)
    assert all(len(set(batch.inputs["rate"].ravel())) == 1 for batch in executor.batches)


def test_a_graph_without_batch_takes_one_file_a_run(tmp_path: Path) -> None:
    plan = make_plan(
        (spec("x", "L"),), (spec("y", "L"),), BatchAxes(inputs={"x": None}, outputs={"y": None}, rows=None)
    )
    job = Job(tmp_path, plan)
    (tmp_path / "in").mkdir()
    arrays = {"a": random(5), "b": random(7), "c": random(5)}
    executor = InlineExecutor(affine)
    job.run(save(job, **arrays), executors=[executor])
    assert len(executor.batches) == 3
    for name, array in arrays.items():
        np.testing.assert_array_equal(job.result(f"{name}.npy"), 2 * array + 1)


def test_a_fixed_batch(tmp_path: Path) -> None:
    batch = BatchAxes(inputs={"x": 0}, outputs={"y": 0}, rows=4)
    job = Job(tmp_path, make_plan((spec("x", 4, 3),), (spec("y", 4, 3),), batch))
    (tmp_path / "in").mkdir()
    arrays = {"a": random(3), "b": random(6, 3), "c": random(3)}
    executor = InlineExecutor(affine)
    job.run(save(job, **arrays), executors=[executor], batch_rows=None)
    assert set(batch_shapes(executor)) == {(4, 3)}
    for name, array in arrays.items():
        np.testing.assert_array_equal(job.result(f"{name}.npy"), 2 * array + 1)


def test_only_a_batch_of_items_is_held(job: Job) -> None:
    executor = InlineExecutor(affine)
    job.run(save(job, **{f"{place:03}": random(3) for place in range(200)}), executors=[executor])
    assert executor.max_held_rows <= 2 * 4


class TestBrokenFiles:
    def test_each_is_named_and_the_others_are_done(self, job: Job) -> None:
        good = {f"good{place}": random(3) for place in range(6)}
        folder = save(job, **good, wrong=np.array(["a", "b", "c"]), empty=random(0, 3))
        whole = (folder / "good0.npy").read_bytes()
        (folder / "short.npy").write_bytes(whole[:-1])
        (folder / "noise.npy").write_bytes(b"noise")
        (folder / "noise2.npz").write_bytes(b"noise")
        (folder / "readme.txt").write_text("not an item")
        summary = job.run(folder)
        assert (summary.total, summary.num_done, summary.num_failed) == (11, 7, 4)
        reasons = {failure.name: failure.reason for failure in job.failures}
        assert sorted(reasons) == ["noise.npy", "noise2.npz", "short.npy", "wrong.npy"]
        assert "cut short: 1 bytes" in reasons["short.npy"]
        assert "takes float32" in reasons["wrong.npy"]
        assert len(job.result("empty.npy")) == 0
        assert names(job.out) == sorted([JOURNAL, "empty.npy", *(f"{name}.npy" for name in good)])

    def test_one_that_the_graph_refuses_does_not_take_its_batch_with_it(self, job: Job) -> None:
        arrays = {f"item{place}": random(3) for place in range(8)}
        folder = save(job, **arrays, bad=np.full(3, BAD), large=np.full((9, 3), BAD))
        summary = job.run(folder)
        assert summary.num_done == 8
        assert sorted(failure.name for failure in job.failures) == ["bad.npy", "large.npy"]
        assert {failure.reason for failure in job.failures} == {"a value is out of range"}

    def test_only_broken_ones(self, job: Job) -> None:
        (job.folder / "in" / "a.npy").write_text("noise")
        summary = job.run(job.folder / "in")
        assert (summary.num_done, summary.num_failed) == (0, 1)

    def test_one_that_goes_away_meanwhile(self, job: Job) -> None:
        folder = save(job, **{f"item{length}": random(length) for length in range(3, 10)})

        def remove(tensors: Tensors) -> dict[str, Array]:
            (folder / "item3.npy").unlink(missing_ok=True)
            return affine(tensors)

        summary = job.run(folder, executors=[InlineExecutor(remove)], batch_rows=1)
        assert summary.num_done + summary.num_failed == 7
        assert [failure.name for failure in job.failures] == ["item3.npy"]

    def test_nothing_to_do(self, job: Job) -> None:
        with pytest.raises(ConfigError, match=r"contains no \.npy or \.npz file"):
            job.run(job.folder / "in")


class TestResuming:
    def test_only_what_is_missing_is_computed(self, job: Job) -> None:
        arrays = {f"item{place:02}": random(1 + place) for place in range(12)}
        folder = save(job, **arrays)
        with pytest.raises(WorkerLost):
            job.run(folder, executors=[InlineExecutor(affine, lost_after=5)])
        before = names(job.out)
        assert len(before) == 1 + 5
        executor = InlineExecutor(affine)
        summary = job.run(folder, executors=[executor], resume=True)
        assert (summary.num_done_before, summary.num_done) == (5, 7)
        assert len(executor.batches) == 7
        for name, array in arrays.items():
            np.testing.assert_array_equal(job.result(f"{name}.npy"), 2 * array + 1)

    def test_new_and_changed_files_are_done_again(self, job: Job) -> None:
        folder = save(job, a=random(3), b=random(3))
        job.run(folder)
        save(job, b=random(3) + 1, c=random(3))
        (job.out / "a.npy").touch()
        executor = InlineExecutor(affine)
        summary = job.run(folder, executors=[executor], resume=True)
        assert (summary.num_done_before, summary.num_done) == (1, 2)
        np.testing.assert_array_equal(job.result("b.npy"), 2 * (random(3) + 1) + 1)

    def test_without_the_flag(self, job: Job) -> None:
        folder = save(job, a=random(3))
        job.run(folder)
        with pytest.raises(ConfigError, match="continue it with --resume"):
            job.run(folder)

    def test_an_item_of_several_chunks_that_was_half_done(self, job: Job) -> None:
        folder = save(job, large=random(11, 3))
        with pytest.raises(WorkerLost):
            job.run(folder, executors=[InlineExecutor(affine, lost_after=2)])
        assert names(job.out) == [JOURNAL]
        job.run(folder, resume=True)
        np.testing.assert_array_equal(job.result("large.npy"), 2 * random(11, 3) + 1)


class TestOutputs:
    def test_equal_names_are_refused_before_anything_is_computed(self, job: Job) -> None:
        folder = save(job, a=random(3))
        np.savez(folder / "a.npz", x=random(3))
        with pytest.raises(ConfigError, match=r"a\.npy and a\.npz would have the same output"):
            job.run(folder)

    def test_the_input_folder_is_no_output(self, job: Job) -> None:
        folder = save(job, a=random(3))
        with pytest.raises(ConfigError, match="is the input folder"):
            job.run(folder, out=folder)
        np.testing.assert_array_equal(np.load(folder / "a.npy"), random(3))

    def test_somebody_elses_file_is_not_overwritten(self, job: Job) -> None:
        folder = save(job, a=random(3))
        job.out.mkdir()
        (job.out / "a.npy").write_text("precious")
        with pytest.raises(ConfigError, match=r"a\.npy exists already"):
            job.run(folder)
        assert (job.out / "a.npy").read_text() == "precious"

    def test_a_full_disk_leaves_whole_files_only(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = save(job, **{f"item{place}": random(3 + place) for place in range(6)})
        write, num_files = np.lib.format.write_array, 0

        def fill_up(file: BinaryIO, *args: Any, **options: Any) -> None:
            nonlocal num_files
            num_files += 1
            if num_files == 4:
                content = io.BytesIO()
                write(content, *args, **options)
                file.write(content.getvalue()[:-2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(file, *args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(np.lib.format, "write_array", fill_up)
            with pytest.raises(CapacityError, match=r"cannot write .*item2\.npy: No space left on device"):
                job.run(folder)
        assert names(job.out) == [JOURNAL, "item3.npy", "item4.npy", "item5.npy"]
        assert job.run(folder, resume=True).num_done == 3
        np.testing.assert_array_equal(job.result("item2.npy"), 2 * random(5) + 1)

    def test_strings(self, job: Job) -> None:
        job.function = lambda inputs: {"y": np.array([["a", "bcd"]] * len(inputs["x"]), dtype=object)}
        job.run(save(job, a=random(3)))
        assert job.result("a.npy").tolist() == ["a", "bcd"]


def test_a_chunk_whose_outputs_are_not_its_rows(job: Job) -> None:
    job.function = lambda inputs: {"y": inputs["x"][:1]}
    summary = job.run(save(job, a=random(3), b=random(3), c=random(2)))
    assert (summary.num_done, summary.num_failed) == (3, 0)


def test_rows_cannot_be_cut_where_there_is_no_batch(tmp_path: Path) -> None:
    plan = make_plan(
        (spec("x", "L"),), (spec("y", "L"),), BatchAxes(inputs={"x": None}, outputs={"y": None}, rows=None)
    )
    job = Job(tmp_path, plan)
    np.save(tmp_path / "x.npy", random(3))
    with pytest.raises((ConfigError, InvalidRequest), match="--batch-dim"):
        job.run(tmp_path / "x.npy")
