"""Timing the head's work for a step: forming it, encoding it for the workers, processing its result."""

from __future__ import annotations

import time
from contextlib import closing

from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.sequences.request import Request, RequestId
from shoal.executor.in_process import InProcessExecutor
from shoal.planner.speeds.speeds import Curve
from shoal.protocol.codec import decode, encode
from shoal.protocol.language_messages import SampledToken, Sampling, StepResult
from shoal.router.engine import Engine

_STREAMS = (1, 4, 16)
_PROMPT_TOKENS, _OUTPUT_TOKENS = 16, 40
_CONFIG = SchedulerConfig(
    block_size=16, num_blocks=1024, max_seqs=32, max_step_tokens=512, max_context=512, prefill_chunk_tokens=512
)


def measure_turn() -> Curve:
    """Seconds of the head for a step, by the number of sequences."""
    return Curve(rows=_STREAMS, seconds=tuple(_step_s(streams) for streams in _STREAMS))


def _step_s(num_streams: int) -> float:
    """Mean seconds per step over some complete requests, with workers that answer at once. Measures processor time, so
    other processes do not count."""
    num_steps = 0
    with closing(Engine([(_CONFIG, InProcessExecutor(_answer))], time.monotonic)) as engine:
        started_s = time.thread_time()
        for index in range(num_streams):
            engine.add(_request(index))
        while engine.has_work:
            engine.turn(0.0)
            num_steps += 1
        return (time.thread_time() - started_s) / num_steps


def _request(index: int) -> Request:
    return Request(
        request_id=RequestId(str(index)),
        prompt_ids=tuple(range(index, index + _PROMPT_TOKENS)),
        max_tokens=_OUTPUT_TOKENS,
        sampling=Sampling(temperature=0.0),
    )


def _answer(work: StepWork) -> StepResult:
    """A result with the same token for every row, encoded and decoded as on a link."""
    step = work.step
    tokens = tuple(SampledToken(token_id=0) for _ in step.samples)
    result = decode(encode(StepResult(step_id=step.step_id, generation=step.generation, tokens=tokens)))
    encode(step)
    assert isinstance(result, StepResult)
    return result
