"""Memory that one large run leaves in a session's arena goes back when runs stay small."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from shoal.model.graph.stage.arena_room import ArenaRoom
from shoal.model.runtime_sessions import session_options, start_session

MIB = 1 << 20


def told(sizes: list[int]) -> list[int]:
    """The runs after which memory is given back."""
    room = ArenaRoom()
    return [index for index, size in enumerate(sizes) if room.is_over(size)]


def test_memory_goes_back_after_sixteen_small_runs_in_a_row() -> None:
    assert told([1000] + [250] * 16) == [16]
    assert told([1000] + [250] * 200) == [16]


def test_runs_that_differ_less_or_alternate_keep_their_memory() -> None:
    assert not told([1000] + [300] * 200)
    assert not told([1000, 10, 10, 10] * 50)


def test_the_largest_of_the_small_runs_counts_from_then_on() -> None:
    assert told([1000, 100] + [10] * 15 + [10] * 16) == [16, 32]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc")
def test_a_session_gives_back_what_a_large_run_has_taken() -> None:
    shape = ["rows", 512]
    nodes = [
        helper.make_node(op, [f"x{i}"], [f"x{i + 1}"]) for i, op in enumerate(["Exp", "Softmax", "Exp", "Softmax"])
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x0", "x4")]
    model = helper.make_model(
        helper.make_graph(nodes, "chain", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    session, room = start_session(model.SerializeToString(), session_options(1)), ArenaRoom()

    def run(num_rows: int) -> None:
        options, x = ort.RunOptions(), np.zeros((num_rows, 512), np.float32)
        room.prepare(options, [x])
        session.run(["x4"], {"x0": x}, options)

    run(8)
    base = anonymous_bytes()
    run(32768)  # 64 MiB a tensor
    assert anonymous_bytes() > base + 64 * MIB
    for _ in range(16):
        run(8)
    assert anonymous_bytes() < base + 16 * MIB


def anonymous_bytes() -> int:
    found = re.search(r"^Anonymous:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) << 10
