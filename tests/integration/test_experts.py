"""Whole experts over two and three workers, one of which dies: texts go on as they would have."""

import os
import signal
from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.launch.language.planning import plan_model
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

REQUESTS = make_requests(3, max_tokens=30)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("experts")
    return {family: make_tiny_model(family, directory / family) for family in ("mixtral", "qwen3_moe", "gpt_oss")}


@pytest.mark.parametrize(
    ("family", "split"), [("mixtral", "ep=3:1"), ("qwen3_moe", "tp=2:1:1,ep=1:5:2"), ("gpt_oss", "pp=2:2,ep=2")]
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


def test_a_model_without_experts_has_none_to_deal_out(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="no experts to deal out with ep"):
        plan_model(tiny_config(tiny_model, split="ep=2"))
