"""A replica without a model: its tokens follow from the prompt alone, and it fails when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.sequences.request import Output, Request, RequestFinished, RequestId, TokenProduced
from shoal.protocol.language_messages import SampledToken, SampleRow, Sampling, Step, StepResult
from shoal.router.engine import Engine
from tests.router.fake_replica import FakeReplica

CONFIG = SchedulerConfig(
    block_size=4, num_blocks=64, max_seqs=8, max_step_tokens=64, max_context=64, prefill_chunk_tokens=64
)
TURN_S = 60.0
"""How long a turn may wait in these tests; reached only where something is broken."""


class FakeExecutor(FakeReplica[StepWork, StepResult]):
    """A replica that runs steps."""

    def __init__(self, *, answers_by_hand: bool = False, is_loading: bool = False) -> None:
        super().__init__(answers_by_hand=answers_by_hand, is_loading=is_loading)
        self.num_submitted = 0

    def submit(self, work: StepWork) -> None:
        super().submit(work)
        self.num_submitted += 1

    def compute(self, work: StepWork) -> StepResult:
        return answer_step(work.step)


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
