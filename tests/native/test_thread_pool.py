"""The kernel's threads: they end with their pool, and a forked child does without them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.model.attention.paged_attention import native_available
from tests.native.programs import run_program

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")


COUNTING = """
import os
from shoal._native import ThreadPool

def num_threads():
    return len(os.listdir("/proc/self/task"))

before = num_threads()
pool = ThreadPool(4)
assert pool.num_threads == 4
assert num_threads() == before + 3
del pool
while num_threads() > before:  # a thread that was waited for may be listed for a moment longer
    pass
assert num_threads() == before
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_threads_live_as_long_as_the_pool() -> None:
    """In a process of its own: none of another test's comes or goes meanwhile."""
    subprocess.run([sys.executable, "-c", COUNTING], check=True, timeout=100)


@pytest.mark.parametrize("count", [0, -1, 100_000])
def test_impossible_sizes_are_refused(count: int) -> None:
    from shoal._native import ThreadPool

    with pytest.raises(ValueError, match="num_threads"):
        ThreadPool(count)


FORKING = """
import os
import numpy as np
from tests.model.attention.attention_cases import Runner, make_case
from shoal.model.attention.interface import AttentionShape
from shoal.model.attention.paged_attention import NativeAttention
shape = AttentionShape(num_heads=8, num_kv_heads=4, head_dim=64, rotary_dim=64, scale=0.125)
case = make_case(shape, (600,))
runner = Runner(case, NativeAttention(3, case.num_blocks, case.block_size, case.max_context))
(before,) = runner.run([(0, 0, 600)])
pid = os.fork()
(after,) = runner.run([(0, 0, 600)])
del runner
same = np.array_equal(before, after)
if pid == 0:
    os._exit(0 if same else 1)
assert same
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_a_forked_child_computes_alone() -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "src")])
    subprocess.run([sys.executable, "-c", FORKING], env={**os.environ, "PYTHONPATH": path}, check=True, timeout=100)


def test_every_item_is_run_once_whatever_the_pool_goes_through() -> None:
    """Thousands of small tasks from one and several callers, tasks within tasks, forks, short lives."""
    pool = Path(__file__).parents[2] / "native/threads/thread_pool.cpp"
    source = Path(__file__).with_name("pool_stress.cpp")
    assert run_program("baseline", source, more=["-pthread", pool]) == ""
