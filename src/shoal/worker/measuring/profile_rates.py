"""Measurements of a worker without any model: products with matrices as stages compute them, and copies.

All values of a matrix are equal, because the speed of a product does not depend on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from shoal.comm.groups.shm_group import SharedMemoryGroup
from shoal.comm.links.link import Link
from shoal.errors import ConfigError, WorkerLost
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder.onnx.graph_builder import GraphBuilder
from shoal.model.packed.memory import own_memory
from shoal.model.packed.pack import pack_weight, weight_form
from shoal.model.runtime_sessions import session_options, start_session
from shoal.model.weights import BLOCK, BlockWeight, DenseWeight, Weight
from shoal.protocol.profile_messages import TimeCopy, TimeFrames, TimeLimits, TimeProduct, TimeSums

_FRAME_TIMEOUT_S = 30.0
_STAMP = np.dtype("<f8")
_SCALE = 1e-2
_BYTE = 0x5A


def repeat(run: Callable[[], object], limits: TimeLimits) -> tuple[float, ...]:
    """Seconds of each run except the first, which touches memory for the first time."""
    run()
    seconds: list[float] = []
    while len(seconds) < limits.min_runs or (len(seconds) < limits.max_runs and sum(seconds) < limits.enough_s):
        started_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started_s)
    return tuple(seconds)


def product(asked: TimeProduct, threads: int, environment: Mapping[str, str]) -> Callable[[], object]:
    """A product to repeat, with the native kernels if a stage would use them, otherwise with ONNX Runtime.

    Args:
        asked: its sizes and precision.
        threads: to compute with, if the process does not share a pool.
        environment: may force one form or the other.

    Raises:
        ConfigError: the precision is unknown, or the forced form is not available.
    """
    form = ForcedForm.of(environment)
    return _native_product(asked, threads, form.isa) if form.is_native else _runtime_product(asked, threads)


def _native_product(asked: TimeProduct, threads: int, isa: str) -> Callable[[], object]:
    from shoal._native import Matrix, ThreadPool, layout_bytes, multiply

    weight, pool = _weight(asked), ThreadPool(threads)
    form = weight_form(weight)
    memory = own_memory(layout_bytes(form))
    pack_weight(weight, form, pool, memory)
    matrix = Matrix(form, memory)
    x_RK = np.ones((asked.rows, asked.num_in), np.float32)
    y_RN = np.zeros((asked.rows, asked.num_out), np.float32)
    return lambda: multiply(pool, matrix, x_RK, False, isa, y_RN)


def _runtime_product(asked: TimeProduct, threads: int) -> Callable[[], object]:
    builder = GraphBuilder("product")
    x = builder.input("x", asked.num_in)
    builder.output("y", builder.linear(x, [_weight(asked)]), asked.num_out)
    session = start_session(builder.serialize(), session_options(threads))
    binding = session.io_binding()
    x_RK = np.ones((asked.rows, asked.num_in), np.float32)
    y_RN = np.zeros((asked.rows, asked.num_out), np.float32)
    binding.bind_input("x", "cpu", 0, np.float32, x_RK.shape, x_RK.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, y_RN.shape, y_RN.ctypes.data)
    buffers = (x_RK, y_RN)

    def run() -> object:
        session.run_with_iobinding(binding)
        return buffers

    return run


def copy(asked: TimeCopy) -> Callable[[], object]:
    """A copy to repeat."""
    source, target = np.ones(asked.num_bytes, np.uint8), np.ones(asked.num_bytes, np.uint8)
    return lambda: np.copyto(target, source)


def send_frames(asked: TimeFrames, link: Link) -> None:
    """Send frames that begin with their time of sending, on the clock that all processes share. Raises WorkerLost."""
    frame = np.zeros(max(1, asked.num_bytes // _STAMP.itemsize), _STAMP)
    for _ in range(asked.count):
        time.sleep(asked.pause_s)
        frame[0] = time.perf_counter()
        link.send([frame.view(np.uint8).data], timeout_s=_FRAME_TIMEOUT_S)


def receive_frames(asked: TimeFrames, link: Link) -> Iterator[float]:
    """Seconds from the sending of each frame to the end of its arrival. Raises WorkerLost."""
    for _ in range(asked.count):
        frame = link.receive(timeout_s=_FRAME_TIMEOUT_S)
        if frame is None:
            raise WorkerLost(f"no frame came within {_FRAME_TIMEOUT_S:.0f} s")
        yield time.perf_counter() - float(np.frombuffer(frame, _STAMP, count=1)[0])


def sums(asked: TimeSums, group: SharedMemoryGroup) -> Iterator[float]:
    """For each all-reduce, when this rank began and ended it. Raises WorkerLost."""
    x = np.zeros(asked.num_bytes // 4, np.float32)
    for index in range(asked.count):
        _compute_for(asked.late_s * (1 + (index % group.size == group.rank)))
        yield time.perf_counter()
        group.all_reduce(x, timeout_s=_FRAME_TIMEOUT_S)
        yield time.perf_counter()


def _compute_for(seconds: float) -> None:
    """Keep the core busy, as a shard does before a sum."""
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        pass


def _weight(asked: TimeProduct) -> Weight:
    shape = (asked.num_out, asked.num_in)
    match asked.precision:
        case "fp32":
            return DenseWeight(values_NK=np.full(shape, _SCALE, np.float32))
        case "int8" | "int4":
            bits = 8 if asked.precision == "int8" else 4
            num_blocks = asked.num_in // BLOCK
            q_NGB = np.full((asked.num_out, num_blocks, BLOCK * bits // 8), _BYTE, np.uint8)
            return BlockWeight(bits=bits, q_NGB=q_NGB, scales_NG=np.full(q_NGB.shape[:2], _SCALE, np.float32))
        case _:
            raise ConfigError(f"no products at precision {asked.precision!r}")
