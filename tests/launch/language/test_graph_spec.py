"""What cannot be asked of a language model that is an ONNX graph is named, and what it has by default."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shoal.config import LaunchConfig, PlanningConfig
from shoal.errors import ConfigError
from shoal.launch.language.graph_spec import graph_spec
from shoal.launch.language.planning import plan_model
from tests.model.language_graph.graph_files import GENAI, MERGED

CONFIG = LaunchConfig(model=str(MERGED), split="auto", threads=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "pp=2"}, "--split pp=2.*use dp=2"),
        ({"split": "tp=2"}, "--split tp=2.*use dp=2"),
        ({"precision": "int8"}, "keeps the precision of its file"),
        ({"exact_activations": True}, "computes as its file says"),
        ({"planning": PlanningConfig(precision_floor="int4")}, "keeps the precision of its file"),
    ],
)
def test_what_cannot_be_asked_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_model(replace(CONFIG, **change))


def test_adapters_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no adapters"):
        graph_spec(replace(CONFIG, adapters={"one": "folder"}), None, "auto")


def test_all_of_its_memory_is_in_the_plan() -> None:
    """KV in the pool and three copies of it; weights as large as the files."""
    plan = plan_model(replace(CONFIG, model=str(GENAI), split="dp=2", max_seqs=4, max_context=64)).plan
    assert plan.split == "dp=2"
    (shard,) = plan.replicas[0].shards
    tokens = plan.replicas[0].num_blocks * plan.block_size
    assert shard.kv_bytes == tokens * 4 * (2 * 2 * 16 * 4)
    weights = sum(path.stat().st_size for path in GENAI.glob("model.onnx.data"))
    assert 0.9 * weights < shard.weight_bytes < 1.1 * weights
    assert shard.process_bytes + plan.forking_bytes > 48 << 20
