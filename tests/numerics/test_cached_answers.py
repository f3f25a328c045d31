"""Whatever an engine has computed before, the same request has the same logits, to the bit.

With 4-bit weights prompts are computed with fp32 activations and outputs with 8-bit ones (decision 0002), so an answer
that is a part of the next prompt has other KV entries than it had when it was generated (decision 0013).
"""

from __future__ import annotations

import numpy as np
import pytest

from shoal.bench.generation import generate
from shoal.core.request import Request, RequestId
from shoal.core.scheduler_config import SchedulerConfig
from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import WeightSource
from shoal.protocol.messages import Sampling
from shoal.router.engine import Engine
from tests.model.tiny_models import make_tiny_gguf, make_tiny_model
from tests.numerics.engines import PipelineExecutor, make_executor, random_tokens

NUM_CONVERSATIONS = 4
NUM_TURNS = 3
BLOCK_SIZE = 16


def make_replicas(executors: list[PipelineExecutor], *, num_blocks: int = 64) -> Engine:
    config = SchedulerConfig(
        block_size=BLOCK_SIZE,
        num_blocks=num_blocks,
        max_seqs=4,
        max_step_tokens=128,
        prefill_chunk_tokens=64,
        max_context=256,
        num_micro_batches=executors[0].num_stages,
    )
    return Engine([(config, executor) for executor in executors], lambda: 0.0)


def answer(engine: Engine, prompt: list[int], *, seed: int) -> tuple[list[int], list[bytes]]:
    """The tokens and logits of one request that runs alone."""
    request = Request(
        request_id=RequestId("only"),
        prompt_ids=tuple(prompt),
        max_tokens=24,
        sampling=Sampling(temperature=0.7, seed=seed),
        want_logits=True,
    )
    (result,) = generate(engine, [request], concurrency=1)
    return result.token_ids, result.logits


def converse(used: Engine, fresh: PipelineExecutor) -> int:
    """Hold random conversations, whose turns alternate, with a used engine; each answer is that of a fresh one.

    Args:
        used: the engine that computes all of them.
        fresh: workers of a new engine for each request.

    Returns: the prompt tokens that the used engine took from what it had computed before.
    """
    rng = np.random.default_rng(0)
    system = random_tokens(20, seed=99)
    talks = [list(system) for _ in range(NUM_CONVERSATIONS)]
    for turn in range(NUM_TURNS):
        for index in rng.permutation(NUM_CONVERSATIONS).tolist():
            talks[index] += random_tokens(int(rng.integers(1, 12)), seed=100 * turn + index)
            tokens, logits = answer(used, talks[index], seed=index)
            alone = answer(make_replicas([fresh]), talks[index], seed=index)
            assert (tokens, logits) == alone, f"turn {turn} of talk {index}"
            talks[index] += tokens
    return used.stats().prefix_hit_tokens


@pytest.fixture(scope="module", params=["Q4_0", "Q4_1", "Q8_0", "floats"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WeightSource:
    directory = tmp_path_factory.mktemp("cached")
    if request.param == "floats":
        return open_weights(make_tiny_model("llama", directory))
    return open_weights(make_tiny_gguf(directory, quant=request.param))


@pytest.mark.parametrize("num_blocks", [64, 18], ids=["cached", "evicted"])
def test_what_was_generated_before_changes_no_bit(source: WeightSource, num_blocks: int) -> None:
    used, fresh = (make_executor(source, precision="auto") for _ in range(2))
    assert converse(make_replicas([used], num_blocks=num_blocks), fresh) > 0


def test_which_replica_answers_changes_no_bit(source: WeightSource) -> None:
    """Two replicas, of different splits even."""
    one, other, fresh = (make_executor(source, precision="auto", cuts=cuts) for cuts in ((), (2,), ()))
    assert converse(make_replicas([one, other]), fresh) > 0
