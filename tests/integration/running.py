"""Start a split tiny model, reach its processes, and watch requests."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from shoal.config import LaunchConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.sequences.request import Output, Request, RequestFinished, RequestId, TokenProduced
from shoal.executor.local_launcher import LocalLauncher
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.launch.language.planning import PlannedModel, plan_model
from shoal.launch.language.process_memory import step_rows
from shoal.launch.launch import LoadedModel, launch
from shoal.protocol.language_messages import Sampling
from shoal.router.engine import Engine
from tests.numerics.engines import random_tokens

GREEDY = Sampling(temperature=0.0)
TURN_S = 60.0
"""How long a turn may wait in these tests; reached only where something is broken."""
EXIT_S = 60.0
"""How long a process may take to end."""
QUICK = RecoveryConfig(worker_timeout_s=1.0, load_timeout_s=60.0, backoff_s=0.1)
"""Where workers hang."""
PATIENT = replace(QUICK, worker_timeout_s=30.0)
"""Where they die: a slow machine is nothing to be noticed."""


def launch_tiny(model: Path, *, split: str, max_seqs: int = 8, recovery: RecoveryConfig = PATIENT) -> LoadedModel:
    return launch(plan_model(tiny_config(model, split=split, max_seqs=max_seqs)), recovery=recovery)


def launcher_for(planned: PlannedModel) -> LocalLauncher:
    """What makes the workers of a plan."""
    return LocalLauncher(step_rows=step_rows(planned.plan), hidden_size=planned.model.config.hidden_size)


def tiny_config(model: Path, *, split: str, max_seqs: int = 8) -> LaunchConfig:
    """Steps of few rows, so that a prompt takes several."""
    return LaunchConfig(
        model=str(model),
        split=split,
        precision="fp32",
        threads=1,
        max_seqs=max_seqs,
        max_step_tokens=64,
        kv_memory_bytes=1 << 24,
    )


def executors(loaded: LoadedModel) -> list[PipelineExecutor]:
    """The child-process executors of every replica."""
    replicas = loaded.engine.executors
    assert all(isinstance(executor, PipelineExecutor) for executor in replicas)
    return [executor for executor in replicas if isinstance(executor, PipelineExecutor)]


def make_requests(count: int, *, max_tokens: int = 24, sampling: Sampling = GREEDY) -> list[Request]:
    """Prompts of 9, 46, 83, ... tokens."""
    return [
        Request(
            request_id=RequestId(f"request-{index}"),
            prompt_ids=tuple(random_tokens(9 + 37 * index, seed=index)),
            max_tokens=max_tokens,
            sampling=sampling,
        )
        for index in range(count)
    ]


class Transcript:
    """Everything an engine has said about its requests."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.ends: dict[str, RequestFinished] = {}

    def follow(self, engine: Engine, until: Callable[[], bool]) -> Transcript:
        """Turns until the condition holds; each turn has to bring something."""
        while not until():
            self.take(engine.turn(TURN_S))
        return self

    def finish(self, engine: Engine) -> Transcript:
        return self.follow(engine, lambda: not engine.has_work)

    def take(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            match output:
                case TokenProduced():
                    assert output.request_id not in self.ends
                    self.tokens.setdefault(output.request_id, []).append(output.token_id)
                case RequestFinished():
                    assert output.request_id not in self.ends
                    self.ends[output.request_id] = output


def transcribe(engine: Engine, requests: Iterable[Request]) -> Transcript:
    """Add requests and follow them to their ends."""
    for request in requests:
        engine.add(request)
    return Transcript().finish(engine)


def kill(pid: int) -> None:
    """SIGKILL, and wait until the process has ended (not reaped: that is its parent's)."""
    handle = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert has_ended(handle)
    finally:
        os.close(handle)


def has_ended(pidfd: int) -> bool:
    """Whether the process of a descriptor ends within EXIT_S."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(EXIT_S * 1e3))
