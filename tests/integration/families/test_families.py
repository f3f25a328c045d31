"""Whole experts and recurrent layers over two and three workers, one of which dies: texts go on as they would have."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.cli.status import heat_line
from shoal.core.plan.language import ReplicaPlan
from shoal.errors import ConfigError, ShoalError
from shoal.launch.language.planning import plan_model
from shoal.launch.running.expert_heat import heat_dicts
from shoal.protocol.stage_config import ExpertSpan
from shoal.server.generation.metrics import ServerMetrics
from tests.integration.running import (
    PATIENT,
    Transcript,
    executors,
    launch_tiny,
    make_requests,
    tiny_config,
    transcribe,
)
from tests.model.tiny_models import make_tiny_model

FAMILIES = ("mixtral", "qwen3_moe", "gpt_oss", "lfm2", "qwen3_next", "granitemoehybrid")
REQUESTS = make_requests(3, max_tokens=30)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("families")
    return {family: make_tiny_model(family, directory / family) for family in FAMILIES}


@pytest.mark.sample(every=2)
@pytest.mark.parametrize(
    ("family", "split"),
    [
        ("mixtral", "ep=3:1"),
        ("qwen3_moe", "tp=2:1:1,ep=1:5:2"),
        ("gpt_oss", "pp=2:2,ep=2"),
        ("lfm2", "pp=2:2"),
        ("lfm2", "tp=2:1"),
        ("qwen3_next", "tp=2"),
        ("granitemoehybrid", "tp=2:1"),
    ],
)
def test_a_killed_worker_changes_no_token(family: str, split: str, models: dict[str, Path]) -> None:
    with launch_tiny(models[family], split="1") as whole:
        expected = transcribe(whole.engine, REQUESTS)
    with launch_tiny(models[family], split=split, recovery=PATIENT) as loaded:
        assert loaded.plan.split == split
        transcript = Transcript()
        for request in REQUESTS:
            loaded.engine.add(request)
        transcript.follow(loaded.engine, lambda: len(transcript.tokens.get("request-2", ())) >= 4)
        os.kill(executors(loaded)[0].worker_pids()[-1], signal.SIGKILL)
        transcript.finish(loaded.engine)
        assert loaded.engine.stats().num_losses == 1
    assert transcript.tokens == expected.tokens


def copied(replica: ReplicaPlan) -> ReplicaPlan:
    """The same with other experts on its two shards, of which one is on both."""
    held = ((ExpertSpan(0, 1, 3, 0b011), ExpertSpan(5, 8)), (ExpertSpan(0, 1, 3, 0b100), ExpertSpan(1, 5)))
    (stage,) = replica.stages
    shards = [
        replace(shard, part=replace(shard.part, experts=(experts,)))
        for shard, experts in zip(stage.shards, held, strict=True)
    ]
    return replace(replica, stages=(replace(stage, shards=tuple(shards)),))


def test_requests_go_on_while_experts_move_and_workers_tell_of_them(models: dict[str, Path]) -> None:
    with launch_tiny(models["mixtral"], split="1") as whole:
        expected = transcribe(whole.engine, REQUESTS)
        assert whole.expert_heats() == []
    with launch_tiny(models["mixtral"], split="ep=2") as loaded:
        running, ends, transcript = loaded.running, list[ShoalError | None](), Transcript()
        assert running is not None
        for request in REQUESTS:
            loaded.engine.add(request)
        transcript.follow(loaded.engine, lambda: len(transcript.tokens.get("request-0", ())) >= 3)
        running.change(0, copied(running.plan.replicas[0]), ends.append)
        while not ends:
            transcript.take(loaded.engine.turn(1.0))
        assert ends == [None]
        assert loaded.running_plan.split == "tp=64:32,ep=4:5"
        transcript.finish(loaded.engine)
        again = transcribe(loaded.engine, [replace(one, request_id=one.request_id + "-again") for one in REQUESTS])
        (heat,) = loaded.expert_heats()
        metrics = ServerMetrics("tiny")
        metrics.expose_experts(loaded.expert_heats)
        exposed = metrics.expose().decode()
    assert 'shoal:expert_shard_share{model_name="tiny",replica="0",shard="1",stage="0"} 0.' in exposed
    assert "shoal:expert_rows_total{" in exposed
    assert "shoal:expert_largest_share{" in exposed
    assert heat_line(heat_dicts([heat])[0]).startswith("replica 0 stage 0: hottest experts ")
    assert transcript.tokens == expected.tokens
    assert list(again.tokens.values()) == list(expected.tokens.values())
    assert sum(heat.shard_shares) == pytest.approx(1.0)
    assert heat.num_rows > 0


def test_a_model_without_experts_has_none_to_deal_out(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="no experts to deal out with ep"):
        plan_model(tiny_config(tiny_model, split="ep=2"))
