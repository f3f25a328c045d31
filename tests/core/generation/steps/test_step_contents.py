"""A scheduler decides the same whether its steps hold what workers read or not; a step's shape is that of its rows."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from shoal.core.generation.events import Event, RequestAdded, RequestCancelled, SendStep, StepCompleted
from shoal.core.generation.scheduler import Scheduler
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.sequences.request import Request, RequestId
from shoal.protocol.language_messages import SampledToken, Step, StepResult
from tests.core.generation.scheduler_driver import ints, rows_per_sequence


def turn(scheduler: Scheduler, events: Sequence[Event]) -> list[StepWork]:
    return [one.work for one in scheduler.handle(events, 0.0) if isinstance(one, SendStep)]


def answer(work: StepWork) -> StepCompleted:
    """Everybody draws the same token."""
    step, tokens = work.step, (SampledToken(token_id=1),) * work.num_samples
    return StepCompleted(result=StepResult(step_id=step.step_id, generation=step.generation, tokens=tokens))


def counted(step: Step) -> tuple[int, int, int, int]:
    """A step's shape, row by row, from what workers read."""
    output_rows = output_context = prompt_rows = prompt_context = 0
    positions, row = ints(step.positions), 0
    for rows in rows_per_sequence(step):
        context = sum(position + 1 for position in positions[row : row + rows])
        row += rows
        if rows == 1:
            output_rows, output_context = output_rows + 1, output_context + context
        else:
            prompt_rows, prompt_context = prompt_rows + rows, prompt_context + context
    return output_rows, output_context, prompt_rows, prompt_context


@pytest.mark.parametrize("first_seed", range(0, 60, 20))
def test_decisions_do_not_depend_on_contents(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 20):
        rng = random.Random(seed)
        config = SchedulerConfig(
            block_size=rng.choice((1, 4, 16)),
            num_blocks=rng.choice((64, 200)),
            max_seqs=8,
            max_step_tokens=64,
            max_context=60,
            prefill_chunk_tokens=rng.choice((5, 64)),
            num_micro_batches=rng.choice((1, 1, 3)),
        )
        both = Scheduler(config), Scheduler(replace(config, packs_steps=False))
        owed: list[StepWork] = []
        for number in range(60):
            events: list[Event] = []
            if number < 20:
                ids = tuple(rng.randrange(3) for _ in range(rng.randint(1, 24)))
                request = Request(request_id=RequestId(str(number)), prompt_ids=ids, max_tokens=rng.randint(1, 30))
                events.append(RequestAdded(request=request))
            if rng.random() < 0.1:
                events.append(RequestCancelled(request_id=RequestId(str(rng.randrange(20)))))
            if owed:
                events.append(answer(owed.pop(0)))
            packed, bare = (turn(one, events) for one in both)
            assert [work.step.num_tokens for work in bare] == [0] * len(packed)
            for work, other in zip(packed, bare, strict=True):
                told = work.step.step_id, work.step.generation, work.shape, work.num_samples
                assert told == (other.step.step_id, other.step.generation, other.shape, other.num_samples)
                assert tuple(work.shape) == counted(work.step)
                assert work.num_samples == len(work.step.samples)
            owed += packed
        states = [one.state for one in both]
        assert [list(state.sequences) for state in states] == [list(states[0].sequences)] * 2
        assert [state.kv.blocks.all_references() for state in states] == [states[0].kv.blocks.all_references()] * 2
