"""A replica without a model: its tokens follow from the prompt alone, and it fails when it is told to."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shoal.core.request import Output, Request, RequestFinished, RequestId, TokenProduced
from shoal.core.scheduler_config import SchedulerConfig
from shoal.errors import WorkerLost
from shoal.protocol.messages import SampledToken, SampleRow, Sampling, Step, StepResult
from shoal.router.engine import Engine

CONFIG = SchedulerConfig(
    block_size=4, num_blocks=64, max_seqs=8, max_step_tokens=64, max_context=64, prefill_chunk_tokens=64
)
TURN_S = 5.0
"""How long a turn may wait in these tests; reached only where something is broken."""


class FakeExecutor:
    """Answers a step at the next `poll`, or, with `answers_by_hand`, when `answer` is called, as a worker would."""

    num_stages = 1

    def __init__(self, *, answers_by_hand: bool = False) -> None:
        self.steps: deque[Step] = deque()
        self.num_submitted = 0
        self.num_closed = 0
        self.loses_at_poll = False
        self.loses_at_submit = False
        self._ready: deque[StepResult] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if answers_by_hand else -1

    def submit(self, step: Step) -> None:
        if self.loses_at_submit:
            raise WorkerLost("the fake worker is gone")
        self.steps.append(step)
        self.num_submitted += 1

    def answer(self) -> None:
        """The oldest step is done. Thread-safe."""
        self._ready.append(answer_step(self.steps.popleft()))
        os.eventfd_write(self._fd, 1)

    def poll(self) -> list[StepResult]:
        if self.loses_at_poll:
            raise WorkerLost("the fake worker is gone")
        if self._fd < 0:
            return [answer_step(self.steps.popleft())] if self.steps else []
        results = list(self._ready)
        self._ready.clear()
        if results:
            os.eventfd_read(self._fd)
        return results

    def lose(self) -> None:
        """The link breaks: the descriptor becomes readable and `poll` raises."""
        self.loses_at_poll = True
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)

    def filenos(self) -> tuple[int, ...]:
        return (self._fd,) if self._fd >= 0 else ()

    def close(self) -> None:
        self.num_closed += 1
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def answer_step(step: Step) -> StepResult:
    tokens = tuple(SampledToken(token_id=next_token(sample)) for sample in step.samples)
    return StepResult(step_id=step.step_id, generation=step.generation, tokens=tokens)


def next_token(sample: SampleRow) -> int:
    """Keyed by seed and index, as the real draws are."""
    return 1000 * sample.sampling.seed + sample.token_index


def expected_tokens(seed: int, count: int) -> list[int]:
    return [1000 * seed + index for index in range(count)]


def make_request(name: str, *, num_prompt: int = 4, max_tokens: int = 5, seed: int = 1) -> Request:
    """A prompt that shares no prefix with another name's."""
    prompt = tuple(sum(name.encode()) * 100 + index for index in range(num_prompt))
    return Request(request_id=RequestId(name), prompt_ids=prompt, max_tokens=max_tokens, sampling=Sampling(seed=seed))


def make_engine(*executors: FakeExecutor, clock: Callable[[], float] = lambda: 0.0) -> Engine:
    return Engine([(CONFIG, executor) for executor in executors], clock)


@contextmanager
def open_engine(*executors: FakeExecutor) -> Iterator[Engine]:
    engine = make_engine(*executors)
    try:
        yield engine
    finally:
        engine.close()


def finish(engine: Engine) -> list[Output]:
    """Turns until nothing is left to do."""
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.turn(TURN_S)
    return outputs


def tokens_of(outputs: list[Output], name: str) -> list[int]:
    return [o.token_id for o in outputs if isinstance(o, TokenProduced) and o.request_id == name]


def ends_of(outputs: list[Output]) -> dict[str, RequestFinished]:
    """The end of every request; each exactly once."""
    ends = [output for output in outputs if isinstance(output, RequestFinished)]
    assert len(ends) == len({end.request_id for end in ends})
    return {end.request_id: end for end in ends}
