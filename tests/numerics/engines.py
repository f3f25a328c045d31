"""Whole engines in one process: pipelines whose stages are run one after the other by hand, and what they compute.

Shapes: T tokens of a text, V vocabulary.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shoal.bench.generation import generate
from shoal.core.collectives import SummingGroup
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.sequences.request import Request, RequestId
from shoal.model.decoder.forced_form import ForcedForm
from shoal.model.decoder.stage import Stage
from shoal.model.shard.atoms import shard_atoms
from shoal.model.weights import Precision, WeightSource
from shoal.planner.split.shares import shard_parts
from shoal.protocol.language_messages import AdapterFile, SampledToken, Sampling, Step, StepResult
from shoal.protocol.stage_config import ShardPart, StageConfig
from shoal.protocol.step_masks import Masks
from shoal.router.engine import Engine
from shoal.verify.language import greedy_with_logits
from tests.numerics.thread_group import thread_groups

F32 = npt.NDArray[np.float32]
THREADS = 1
"""Of every stage in the test process: ONNX Runtime's pool is one a process and is made once. A native stage has its own
threads, and may have more."""
NUM_STATES = 16
"""slots for recurrent state: as many for snapshots as for sequences"""
GREEDY = Sampling(temperature=0.0)
DEFAULT_FORM = ForcedForm()


class ProcessesSteps(Protocol):
    """A stage, or all shards of one."""

    @property
    def alignment(self) -> bytes: ...

    def process(
        self, step: Step, x_TD: F32 | None = None, masks: Masks | None = None
    ) -> F32 | tuple[SampledToken, ...]: ...


class ShardedStage:
    """All shards of a stage, each in a thread of its own; they must come to the same bits."""

    alignment = b""
    """of models with an encoder, which are not cut into shards"""

    def __init__(self, shards: Sequence[Stage], groups: Sequence[SummingGroup]) -> None:
        self.shards = shards
        self._groups = groups

    def process(
        self, step: Step, x_TD: F32 | None = None, masks: Masks | None = None
    ) -> F32 | tuple[SampledToken, ...]:
        with ThreadPoolExecutor(len(self.shards)) as threads:
            futures = [threads.submit(self._run, rank, step, x_TD, masks) for rank in range(len(self.shards))]
        first, *others = [future.result() for future in futures]
        for other in others:
            np.testing.assert_equal(other, first)
        return first

    def _run(self, rank: int, step: Step, x_TD: F32 | None, masks: Masks | None) -> F32 | tuple[SampledToken, ...]:
        try:
            return self.shards[rank].process(step, x_TD, masks)
        except BaseException:
            self._groups[rank].close()
            raise


class PipelineExecutor:
    """Stages in this process; hidden states are copied from one to the next as they would be sent."""

    def __init__(self, stages: Sequence[ProcessesSteps], num_states: int = 0) -> None:
        """`num_states`: slots for recurrent state that its stages have."""
        self.stages = stages
        self.num_states = num_states
        self._steps: deque[tuple[Step, Sequence[bytes]]] = deque()
        self.step_sizes: list[int] = []
        """rows of every step so far"""

    @property
    def num_stages(self) -> int:
        return len(self.stages)

    def submit(self, work: StepWork) -> None:
        self._steps.append((work.step, work.masks()))
        self.step_sizes.append(work.step.num_tokens)

    def poll(self) -> list[StepResult]:
        if not self._steps:
            return []
        (step, masks), result, alignment = self._steps.popleft(), None, b""
        for stage in self.stages:
            assert not isinstance(result, tuple)
            result = stage.process(step, None if result is None else result.copy(), lambda: masks)
            alignment += stage.alignment
        assert isinstance(result, tuple)
        ids = {"step_id": step.step_id, "generation": step.generation}
        return [StepResult(**ids, tokens=result, alignment=alignment)]

    def filenos(self) -> tuple[int, ...]:
        return ()

    def worker_pids(self) -> tuple[int, ...]:
        return ()

    def close(self) -> None:
        self._steps.clear()


def make_executor(
    source: WeightSource,
    *,
    cuts: Sequence[int] = (),
    shares: Sequence[int] = (1,),
    expert_shares: Sequence[int] | None = None,
    precision: Precision = "fp32",
    native: bool | None = None,
    max_context: int = 256,
    exact_activations: bool = False,
    threads: int = THREADS,
    isa: str = "",
    num_memories: int = 0,
    adapters: Sequence[AdapterFile] = (),
) -> PipelineExecutor:
    """A replica whose stages begin at layer 0 and at every one of `cuts`, each cut into shards of these shares, and
    with whole experts dealt out by `expert_shares`."""
    bounds = (0, *cuts, source.config.num_layers)
    whole = replace(
        stage_config(source),
        precision=precision,
        threads=threads,
        max_context=max_context,
        exact_activations=exact_activations,
        num_memories=num_memories,
    )
    form = ForcedForm(native=native, isa=isa)
    spans = [replace(whole, first_layer=first, last_layer=last) for first, last in pairwise(bounds)]
    if len(shares) == 1:
        return PipelineExecutor([Stage(source, span, form=form, adapters=adapters) for span in spans], whole.num_states)
    parts = shard_parts(shard_atoms(source.config), shares, expert_shares=expert_shares)
    groups = [make_group(source, span, parts, form, adapters=adapters) for span in spans]
    return PipelineExecutor(groups, whole.num_states)


def stage_config(source: WeightSource) -> StageConfig:
    """All layers in fp32, with room for some short texts."""
    return StageConfig(
        first_layer=0,
        last_layer=source.config.num_layers,
        precision="fp32",
        threads=THREADS,
        num_blocks=128,
        block_size=16,
        num_states=NUM_STATES if source.config.recurrence else 0,
        max_step_tokens=128,
        max_context=256,
    )


def make_group(
    source: WeightSource,
    config: StageConfig,
    parts: Sequence[ShardPart],
    form: ForcedForm = DEFAULT_FORM,
    groups: Sequence[SummingGroup] = (),
    adapters: Sequence[AdapterFile] = (),
) -> ShardedStage:
    """The shards of a stage with these parts, which sum in threads' memory unless there are `groups`."""
    groups = groups or thread_groups(len(parts))
    stages = [
        Stage(source, replace(config, part=part), group=group, form=form, adapters=adapters)
        for part, group in zip(parts, groups, strict=True)
    ]
    return ShardedStage(stages, groups)


class _Engine(Engine):
    """Gives its descriptor back when nobody holds it any more: hundreds are made, over executors that others use."""

    def __del__(self) -> None:
        workers = self._workers
        if workers._wake_fd >= 0:
            os.close(workers._wake_fd)
            workers._wake_fd = -1


def make_engine(*executors: PipelineExecutor, **changes: Any) -> Engine:
    """An engine over a replica for each executor; `changes` replace scheduler settings."""
    values: dict[str, Any] = {
        "block_size": 16,
        "num_blocks": 128,
        "max_seqs": 8,
        "max_step_tokens": 128,
        "prefill_chunk_tokens": 128,
        "max_context": 256,
    }
    replicas = [(SchedulerConfig(**({**values, **_limits_of(executor)} | changes)), executor) for executor in executors]
    return _Engine(replicas, lambda: 0.0)


def _limits_of(executor: PipelineExecutor) -> dict[str, int]:
    return {"num_micro_batches": executor.num_stages, "num_states": executor.num_states}


def text_logits(engine: Engine, texts: Sequence[Sequence[int]]) -> list[F32]:
    """Logits [T, V] after every token of every text, forced as output after its first token.

    The last target is never fed back, so any token does.
    """
    requests = [
        Request(
            request_id=RequestId(f"text-{index}"),
            prompt_ids=(text[0],),
            targets=(*text[1:], 0),
            max_tokens=len(text),
            sampling=GREEDY,
            want_logits=True,
        )
        for index, text in enumerate(texts)
    ]
    results = generate(engine, requests, concurrency=len(requests))
    return [np.stack([np.frombuffer(row, "<f4") for row in result.logits]) for result in results]


def prompt_logits(engine: Engine, prompts: Sequence[Sequence[int]]) -> F32:
    """Logits after every whole prompt, one row each. Unlike texts, which are forced output, prompts are prefilled."""
    results = greedy_with_logits(engine, prompts, output_tokens=1, concurrency=len(prompts))
    return np.stack([np.frombuffer(result.logits[0], "<f4") for result in results])


def continuations(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    concurrency: int | None = None,
) -> list[list[int]]:
    """Output tokens of every prompt."""
    requests = [
        Request(
            request_id=RequestId(f"prompt-{index}"), prompt_ids=tuple(prompt), max_tokens=max_tokens, sampling=sampling
        )
        for index, prompt in enumerate(prompts)
    ]
    return [result.token_ids for result in generate(engine, requests, concurrency=concurrency or len(requests))]


def random_tokens(num_tokens: int, *, seed: int = 0, vocab_size: int = 320) -> list[int]:
    return np.random.default_rng(seed).integers(3, vocab_size, num_tokens).tolist()
