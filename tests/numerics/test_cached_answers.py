"""Whatever an engine has computed before, the same request has the same logits, to the bit: a token's KV depends on the
token ids up to its own alone, and not on who computed it, whether it was read or generated, and what shared its step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.bench.generation import generate
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.sequences.request import Request, RequestId
from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import WeightSource
from shoal.protocol.language_messages import Sampling
from shoal.router.engine import Engine
from tests.model.tiny_models import make_tiny_gguf, make_tiny_model
from tests.numerics.engines import GREEDY, PipelineExecutor, make_executor, random_tokens

NUM_CONVERSATIONS = 4
NUM_TURNS = 3
MAX_TOKENS = 24
BLOCK_SIZE = 16
SPLITS = ((), (2,), (1, 3))
"""First layers of the later stages of each replica."""


def make_replicas(executors: Sequence[PipelineExecutor], **changes: int) -> Engine:
    values: dict[str, Any] = {
        "block_size": BLOCK_SIZE,
        "num_blocks": 64,
        "max_seqs": 4,
        "max_step_tokens": 128,
        "prefill_chunk_tokens": 64,
        "max_context": 256,
    }
    return Engine(
        [
            (SchedulerConfig(**(values | changes), num_micro_batches=executor.num_stages), executor)
            for executor in executors
        ],
        lambda: 0.0,
    )


def answers(
    engine: Engine, prompts: Sequence[Sequence[int]], *, sampling: Sequence[Sampling], max_tokens: int = MAX_TOKENS
) -> list[tuple[list[int], list[bytes]]]:
    """The tokens and logits of requests that run together."""
    requests = [
        Request(
            request_id=RequestId(str(index)),
            prompt_ids=tuple(prompt),
            max_tokens=max_tokens,
            sampling=own,
            want_logits=True,
        )
        for index, (prompt, own) in enumerate(zip(prompts, sampling, strict=True))
    ]
    return [(result.token_ids, result.logits) for result in generate(engine, requests, concurrency=len(requests))]


def converse(used: Engine, fresh: PipelineExecutor, seed: int) -> int:
    """Hold random conversations with a used engine, a turn of all at a time; each answer is that of a fresh engine.

    Args:
        used: the engine that computes all of them.
        fresh: workers of a new engine for each request.
        seed: of what is said.

    Returns: the tokens of earlier turns that could be found in blocks, had there been room for all.
    """
    rng = np.random.default_rng(seed)
    sampling = [Sampling(temperature=0.7, seed=index) for index in range(NUM_CONVERSATIONS)]
    talks = [random_tokens(20, seed=seed % 1000) for _ in range(NUM_CONVERSATIONS)]
    num_reusable = 0
    for turn in range(NUM_TURNS):
        if turn:
            num_reusable += sum((len(talk) - 1) // BLOCK_SIZE * BLOCK_SIZE for talk in talks)
        talks = [[*talk, *rng.integers(0, 250, rng.integers(1, 12)).tolist()] for talk in talks]
        together = answers(used, talks, sampling=sampling)
        for index, (talk, own) in enumerate(zip(talks, sampling, strict=True)):
            (alone,) = answers(make_replicas([fresh]), [talk], sampling=[own])
            assert together[index] == alone, f"turn {turn} of talk {index}"
        talks = [[*talk, *tokens] for talk, (tokens, _) in zip(talks, together, strict=True)]
    return num_reusable


@pytest.fixture(scope="module", params=["Q4_0", "Q4_1", "Q8_0", "floats"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WeightSource:
    directory = tmp_path_factory.mktemp("cached")
    if request.param == "floats":
        return open_weights(make_tiny_model("llama", directory))
    return open_weights(make_tiny_gguf(directory, quant=request.param))


@pytest.fixture(scope="module")
def fresh(source: WeightSource) -> PipelineExecutor:
    return make_executor(source, precision="auto")


@pytest.fixture(scope="module")
def executors(source: WeightSource) -> list[PipelineExecutor]:
    """Workers of replicas of different splits."""
    return [make_executor(source, precision="auto", cuts=cuts) for cuts in SPLITS]


@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_replicas=st.integers(1, len(SPLITS)),
    num_blocks=st.integers(10, 64),
    prefill_chunk_tokens=st.integers(3, 64),
)
def test_what_was_computed_before_by_whom_and_in_which_batch_changes_no_bit(
    executors: list[PipelineExecutor],
    fresh: PipelineExecutor,
    seed: int,
    num_replicas: int,
    num_blocks: int,
    prefill_chunk_tokens: int,
) -> None:
    """Prefixes are cached, evicted, preempted, and computed anew by the replica that a conversation comes to."""
    used = make_replicas(executors[:num_replicas], num_blocks=num_blocks, prefill_chunk_tokens=prefill_chunk_tokens)
    converse(used, fresh, seed)


def test_answers_are_found_again(executors: list[PipelineExecutor], fresh: PipelineExecutor) -> None:
    """By the next turn, where there is room for all."""
    used = make_replicas(executors[:1])
    num_reusable = converse(used, fresh, seed=0)
    assert used.stats().prefix_hit_tokens >= num_reusable


@pytest.mark.parametrize("num_generated", [1, 7, 17])
def test_an_answer_that_is_read_goes_on_as_it_would_have(
    executors: list[PipelineExecutor], fresh: PipelineExecutor, num_generated: int
) -> None:
    """What was generated so far is another engine's prompt."""
    prompt = random_tokens(21, seed=5)
    ((tokens, logits),) = answers(make_replicas([fresh]), [prompt], sampling=[GREEDY])
    for executor in executors:
        ((rest, rest_logits),) = answers(
            make_replicas([executor]),
            [[*prompt, *tokens[:num_generated]]],
            sampling=[GREEDY],
            max_tokens=MAX_TOKENS - num_generated,
        )
        assert (rest, rest_logits) == (tokens[num_generated:], logits[num_generated:])
