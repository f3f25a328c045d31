"""Drives a scheduler by hand: short ways to make requests, answer steps and read packed arrays."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from shoal.core.generation.events import Effect, Event, RequestAdded, SendStep, StepCompleted
from shoal.core.generation.scheduler import Scheduler
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.sequences.request import Request, RequestFinished, RequestId, TokenProduced
from shoal.protocol.language_messages import SampledToken, SampleRow, Step, StepResult


def make_config(**changes: Any) -> SchedulerConfig:
    values: dict[str, Any] = {
        "block_size": 4,
        "num_blocks": 64,
        "max_seqs": 8,
        "max_step_tokens": 64,
        "max_context": 64,
        "prefill_chunk_tokens": 64,
    }
    return SchedulerConfig(**(values | changes))


def make_request(name: str, prompt: int | Sequence[int] = 4, max_tokens: int = 4, **changes: Any) -> Request:
    """A request whose prompt is given, or has that many tokens that no other name's prompt begins with."""
    ids = tuple(prompt) if not isinstance(prompt, int) else tuple(sum(name.encode()) * 1000 + i for i in range(prompt))
    return Request(request_id=RequestId(name), prompt_ids=ids, max_tokens=max_tokens, **changes)


def ints(packed: bytes) -> list[int]:
    values = array("i")
    values.frombytes(packed)
    return values.tolist()


def rows_per_sequence(step: Step) -> list[int]:
    starts = ints(step.query_starts)
    return [end - start for start, end in pairwise(starts)]


def block_tables(step: Step) -> list[list[int]]:
    values = ints(step.block_tables)
    width = len(values) // step.num_sequences
    return [[b for b in values[i * width : (i + 1) * width] if b >= 0] for i in range(step.num_sequences)]


def next_token(sample: SampleRow) -> int:
    """Token i of every request is 100 + i, unless it is forced."""
    return 100 + sample.token_index if sample.target is None else sample.target


class Driver:
    """A scheduler, the steps it has sent, and what clients have received."""

    def __init__(self, config: SchedulerConfig, draw: Callable[[SampleRow], int] = next_token) -> None:
        self.scheduler = Scheduler(config)
        self.in_flight: list[Step] = []
        self.sent: list[Step] = []
        self.masks: list[tuple[int, bytes]] = []
        """what each guided sample may draw, by the index of its token"""
        self.tokens: dict[str, list[int]] = {}
        self.finished: dict[str, RequestFinished] = {}
        self._draw = draw

    def tell(self, *events: Event, now_s: float = 0.0) -> list[Effect]:
        effects = self.scheduler.handle(events, now_s)
        for effect in effects:
            match effect:
                case SendStep(work=work):
                    self.in_flight.append(work.step)
                    self.sent.append(work.step)
                    guided = [sample.token_index for sample in work.step.samples if sample.is_guided]
                    self.masks += zip(guided, work.masks(), strict=True)
                case TokenProduced():
                    self.tokens.setdefault(effect.request_id, []).append(effect.token_id)
                case RequestFinished():
                    assert effect.request_id not in self.finished
                    self.finished[effect.request_id] = effect
        return effects

    def add(self, *requests: Request) -> list[Effect]:
        return self.tell(*(RequestAdded(request=request) for request in requests))

    def result(self, step: Step) -> StepResult:
        tokens = tuple(SampledToken(token_id=self._draw(sample)) for sample in step.samples)
        return StepResult(step_id=step.step_id, generation=step.generation, tokens=tokens)

    def answer(self) -> list[Effect]:
        """Complete the oldest step in flight."""
        return self.tell(StepCompleted(result=self.result(self.in_flight.pop(0))))

    def finish(self, max_turns: int = 1000) -> None:
        """Answer steps until nothing is left."""
        for _ in range(max_turns):
            if not self.in_flight:
                assert not self.scheduler.has_unfinished
                return
            self.answer()
        raise AssertionError("no end")
