"""One model in the event loop: batches, refusals, cancelling, the loss of its workers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.core.batching.config import BatchingConfig
from shoal.core.plan.graph import BatchAxes
from shoal.errors import DeadlineExceeded, InvalidRequest, QueueFull, WorkerLost
from shoal.inference.engine_driver import LARGE_BYTES
from shoal.inference.model_files import ModelFile
from shoal.inference.served_model import ServedModel
from shoal.protocol.stage_interface import TensorSpec
from shoal.router.graph_executor import Tensors
from shoal.server.oip.metadata import model_config
from tests.server.oip.fakes import FakeGraph, FakeGraphExecutor, doubler, echo

FILE = ModelFile(name="doubler", version="1", path=Path("doubler.onnx"))


@dataclass
class Case:
    model: ServedModel
    executor: FakeGraphExecutor
    deaths: list[str] = field(default_factory=list)

    def start(self, value: float, timeout_s: float | None = None, num_rows: int = 1) -> asyncio.Task[float]:
        async def run() -> float:
            x = np.full((num_rows, 4), value, np.float32)
            outputs = await self.model.infer({"x": x, "ids": np.zeros((num_rows, 2), np.int64)}, timeout_s)
            return float(outputs["y"][0, 0])

        return asyncio.create_task(run())


@asynccontextmanager
async def serve(graph: FakeGraph, **batching: float) -> AsyncIterator[Case]:
    model = ServedModel(FILE, graph, BatchingConfig(**batching))
    case = Case(model, graph.executors[0])
    model.start(case.deaths.append)
    try:
        yield case
    finally:
        model.stop("the test is over")
        model.close()


async def turns_of_the_loop() -> None:
    """Let everything that can happen without input happen."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_requests_of_one_moment_run_together() -> None:
    async def run() -> None:
        async with serve(doubler()) as case:
            answers = await asyncio.gather(*(case.start(float(value)) for value in range(5)))
            assert answers == [0, 2, 4, 6, 8]
            assert [len(batch.inputs["x"]) for batch in case.executor.batches] == [5]
            assert (case.model.stats().num_rows, case.model.stats().num_batches) == (5, 1)
            assert case.model.counts.num_succeeded == 5

    asyncio.run(run())


def test_a_request_without_rows_is_answered_without_a_worker() -> None:
    async def run() -> None:
        async with serve(doubler()) as case:
            outputs = await case.model.infer({"x": np.zeros((0, 4), np.float32), "ids": np.zeros((0, 7), np.int64)})
            assert {name: (array.shape, array.dtype.name) for name, array in outputs.items()} == {
                "y": ((0, 4), "float32"),
                "z": ((0, 7), "int64"),
            }
            assert not case.executor.batches
            assert case.model.counts.num_succeeded == 1
            with pytest.raises(InvalidRequest, match="'x' has shape"):
                await case.model.infer({"x": np.zeros((0, 5), np.float32), "ids": np.zeros((0, 7), np.int64)})
            with pytest.raises(InvalidRequest, match="must agree"):
                await case.model.infer({"x": np.zeros((0, 4), np.float32), "ids": np.zeros((1, 7), np.int64)})

    asyncio.run(run())


def test_an_input_with_a_default_may_be_left_out_and_is_shared_by_a_batch() -> None:
    def compute(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": inputs["x"] + inputs["bias"]}

    async def run() -> None:
        x = TensorSpec(name="x", dtype="float32", shape=("N", 2))
        bias = TensorSpec(name="bias", dtype="float32", shape=(2,), is_optional=True)
        axes = BatchAxes(inputs={"x": 0, "bias": None}, outputs={"y": 0}, rows=None)
        plan = replace(
            doubler().plan, inputs=(x, bias), outputs=(replace(x, name="y"),), batch=axes, model="biased.onnx"
        )
        graph = FakeGraph(plan, {"x": np.ones((1, 2), np.float32)}, compute)
        graph.defaults = {"bias": np.ones(2, np.float32)}
        async with serve(graph) as case:
            biases = [{}, {"bias": np.full(2, 5, np.float32)}, {"bias": np.ones(2, np.float32)}]
            rows = [{"x": np.full((1, 2), value, np.float32)} for value in range(3)]
            given = [{**row, **bias} for row, bias in zip(rows, biases, strict=True)]
            answers = await asyncio.gather(*map(case.model.infer, given))
            assert [answer["y"].tolist() for answer in answers] == [[[1, 1]], [[6, 6]], [[3, 3]]]
            assert sorted(len(batch.inputs["x"]) for batch in case.executor.batches) == [1, 2]
            assert [one.get("optional") for one in model_config(case.model)["input"]] == [None, True]

    asyncio.run(run())


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    async def run() -> None:
        async with serve(doubler(), max_batch=1, max_queue_rows=1) as case:
            case.executor.is_stalled = True
            taken = []
            while True:
                taken.append(case.start(1.0))
                await turns_of_the_loop()
                if taken[-1].done():
                    break
            with pytest.raises(QueueFull) as caught:
                taken.pop().result()
            assert caught.value.retry_after_s > 0
            assert case.model.stats().queued_requests == 1
            case.executor.release()
            assert await asyncio.gather(*taken) == [2.0] * len(taken)
            assert case.model.counts.num_failed == {"REJECTED": 1, "CANCELED": 0, "BACKEND": 0, "OTHER": 0}

    asyncio.run(run())


def test_a_request_that_waits_past_its_deadline_is_refused() -> None:
    async def run() -> None:
        async with serve(doubler(), max_batch=1) as case:
            case.executor.is_stalled = True
            running = [case.start(1.0) for _ in range(2)]
            await turns_of_the_loop()
            with pytest.raises(DeadlineExceeded):
                await case.start(1.0, timeout_s=0.001)
            case.executor.release()
            assert await asyncio.gather(*running) == [2.0, 2.0]
            assert case.model.counts.num_failed["REJECTED"] == 1

    asyncio.run(run())


def test_a_cancelled_request_that_waits_is_never_run() -> None:
    async def run() -> None:
        async with serve(doubler(), max_batch=1) as case:
            case.executor.is_stalled = True
            running = [case.start(1.0) for _ in range(2)]
            await turns_of_the_loop()
            waiting = case.start(7.0)
            await turns_of_the_loop()
            assert case.model.stats().queued_requests == 1
            waiting.cancel()
            await turns_of_the_loop()
            assert case.model.stats().queued_requests == 0
            case.executor.release()
            await asyncio.gather(*running)
            assert [batch.inputs["x"][0, 0] for batch in case.executor.batches] == [1.0, 1.0]
            assert case.model.counts.num_failed["CANCELED"] == 1

    asyncio.run(run())


def test_wrong_inputs_and_failed_runs_are_counted_apart_from_success() -> None:
    async def run() -> None:
        async with serve(doubler()) as case:
            with pytest.raises(InvalidRequest, match="'ids' is missing"):
                await case.model.infer({"x": np.ones((1, 4), np.float32)})
            with pytest.raises(InvalidRequest, match="bad luck"):
                await case.start(13.0)
            assert await case.start(2.0) == 4.0
            assert case.model.counts.num_failed["OTHER"] == 2
            assert case.model.counts.num_succeeded == 1

    asyncio.run(run())


def test_open_requests_end_with_an_error_when_the_workers_are_lost() -> None:
    async def run() -> None:
        async with serve(doubler()) as case:
            case.executor.is_stalled = True
            open_requests = [case.start(1.0), case.start(2.0)]
            await turns_of_the_loop()
            case.executor.lose()
            for request in open_requests:
                with pytest.raises(WorkerLost):
                    await request
            async with asyncio.timeout(30):
                while not case.deaths:
                    await asyncio.sleep(0)
            assert len(case.deaths) == 1
            with pytest.raises(WorkerLost):
                await case.start(1.0)

    asyncio.run(run())


def test_an_idle_model_notices_the_loss_of_its_workers() -> None:
    async def run() -> None:
        async with serve(doubler()) as case:
            await turns_of_the_loop()
            case.executor.lose()
            async with asyncio.timeout(30):
                while not case.deaths:
                    await asyncio.sleep(0)
            assert case.model.failure is not None

    asyncio.run(run())


def test_draining_waits_for_open_requests_and_stopping_ends_them() -> None:
    async def run() -> None:
        async with serve(doubler()) as case:
            await case.model.drain(30)
            case.executor.is_stalled = True
            request = case.start(1.0)
            await turns_of_the_loop()
            drained = asyncio.create_task(case.model.drain(30))
            await turns_of_the_loop()
            assert not drained.done()
            case.executor.release()
            await drained
            assert request.result() == 2.0
            case.executor.is_stalled = True
            request = case.start(1.0)
            await turns_of_the_loop()
            await case.model.drain(0)
            case.model.stop("unloaded")
            with pytest.raises(WorkerLost, match="unloaded"):
                await request

    asyncio.run(run())


def test_canaries_are_in_no_account() -> None:
    async def run() -> None:
        async with serve(doubler()) as case:
            assert case.model.last_output_s is None
            assert await case.model.send_canary()
            assert case.model.last_output_s is not None
            await case.start(1.0, num_rows=3)
            stats = case.model.stats()
            assert (stats.num_rows, stats.num_batches, dict(stats.batch_sizes)) == (3, 1, {3: 1})
            assert case.model.counts.num_succeeded == 1

    asyncio.run(run())


def large(value: int) -> dict[str, np.ndarray[tuple[int], np.dtype[np.uint8]]]:
    return {"value": np.full(LARGE_BYTES + 1, value, np.uint8)}


def test_large_tensors_are_copied_in_a_thread() -> None:
    async def run() -> None:
        threads: list[int] = []

        def compute(inputs: Tensors) -> dict[str, np.ndarray[Any, Any]]:
            threads.append(threading.get_ident())
            return {"result": inputs["value"]}

        graph = echo("uint8")
        graph.executors[0].function = compute
        async with serve(graph) as case:
            outputs = await asyncio.gather(*(case.model.infer(large(value)) for value in range(4)))
            assert [output["result"][0] for output in outputs] == [0, 1, 2, 3]
            assert threading.get_ident() not in threads
            assert case.model.stats().num_rows == 4

    asyncio.run(run())


def test_a_large_request_that_is_cancelled_at_any_time_leaves_nothing_behind() -> None:
    async def run(num_turns: int) -> None:
        async with serve(echo("uint8")) as case:
            task = asyncio.create_task(case.model.infer(large(1)))
            for _ in range(num_turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await case.model.drain(30)
            assert (await case.model.infer(large(2)))["result"][0] == 2
            assert case.model.stats().num_requests == 0

    for num_turns in range(8):
        asyncio.run(run(num_turns))


def test_a_model_that_is_stopped_while_a_thread_works_on_it_ends_its_requests() -> None:
    async def run() -> None:
        async with serve(echo("uint8")) as case:
            tasks = [asyncio.create_task(case.model.infer(large(value))) for value in range(3)]
            await asyncio.sleep(0)
            case.model.stop("it is unloaded")
            case.model.close()
            for error in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(error, WorkerLost)

    asyncio.run(run())


def test_a_worker_lost_while_a_thread_works_ends_the_model() -> None:
    async def run() -> None:
        async with serve(echo("uint8")) as case:
            case.executor.is_stalled = True
            task = asyncio.create_task(case.model.infer(large(1)))
            await asyncio.to_thread(case.executor.submitted.acquire)
            case.executor.lose()
            with pytest.raises(WorkerLost, match="fake worker"):
                await task
            assert len(case.deaths) == 1

    asyncio.run(run())
