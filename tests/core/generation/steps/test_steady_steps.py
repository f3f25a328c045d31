"""Steps taken at once leave the scheduler as it is after as many answers one by one, to the last block."""

import random
from copy import deepcopy

import pytest

from shoal.core.generation.events import Event, RequestAdded, SendStep, StepCompleted
from shoal.core.generation.scheduler import Scheduler
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steady_steps import advance, num_steady_steps
from shoal.core.sequences.request import Request, RequestId
from shoal.protocol.language_messages import SampledToken, Step, StepResult
from shoal.sim.invariants import check_state

TOKEN = 7


def answer(step: Step) -> StepResult:
    tokens = (SampledToken(token_id=TOKEN),) * len(step.samples)
    return StepResult(step_id=step.step_id, generation=step.generation, tokens=tokens)


def turn(scheduler: Scheduler, *events: Event) -> Step | None:
    steps = [one.step for one in scheduler.handle(events, 0.0) if isinstance(one, SendStep)]
    return steps[0] if steps else None


def picture(scheduler: Scheduler) -> object:
    """Everything that later decisions depend on."""
    state = scheduler.state
    index = state.kv.blocks.index
    return (
        [
            (
                one.request.request_id,
                one.token_ids,
                one.num_outputs,
                one.num_scheduled,
                one.num_computed,
                one.num_in_flight,
                one.num_registered,
                one.block_table,
                one.digests,
            )
            for one in state.running.values()
        ],
        [
            (
                number,
                [(one.sequence.request.request_id, one.start, one.end, one.num_samples) for one in step.chunks],
                step.num_samples,
            )
            for number, step in state.in_flight.items()
        ],
        (state.next_step_id, list(state.ready), state.prefilling, state.kv.blocks.all_references()),
        (state.kv.blocks.num_free, [index.lookup(one.digests) for one in state.running.values()]),
    )


@pytest.mark.sample(every=5)
@pytest.mark.parametrize("first_seed", range(0, 1500, 300))
def test_as_one_by_one(first_seed: int) -> None:
    assert sum(map(num_equal_stretches, range(first_seed, first_seed + 300))) > 350


def num_equal_stretches(seed: int) -> int:
    """Of a scheduler under chance: stretches that were taken both ways, and compared."""
    rng = random.Random(seed)
    config = SchedulerConfig(
        block_size=rng.choice((1, 4, 16)),
        num_blocks=rng.choice((40, 200, 2000)),
        max_seqs=8,
        max_step_tokens=256,
        max_context=512,
        prefill_chunk_tokens=256,
    )
    scheduler = Scheduler(config)
    step = None
    for number in range(rng.randint(1, 12)):
        request = Request(
            request_id=RequestId(str(number)),
            prompt_ids=tuple(rng.randrange(3) for _ in range(rng.randint(1, 24))),
            max_tokens=rng.randint(1, 40),
        )
        step = turn(scheduler, RequestAdded(request=request)) or step
        for _ in range(rng.randint(0, 30)):
            step = turn(scheduler, StepCompleted(result=answer(step))) if step is not None else None
    num_stretches = 0
    while step is not None:
        num_steady = num_steady_steps(scheduler.state)
        if num_steady > 1:
            num_stretches += 1
            count = rng.randint(1, num_steady - 1)
            fast, slow_step = deepcopy(scheduler), step
            following = advance(fast.state, count, TOKEN)
            for _ in range(count):
                assert slow_step is not None
                slow_step = turn(scheduler, StepCompleted(result=answer(slow_step)))
            assert slow_step is not None
            assert slow_step.step_id == following
            assert picture(fast) == picture(scheduler), f"seed {seed}"
            check_state(fast.state)
            scheduler, step = fast, slow_step
        step = turn(scheduler, StepCompleted(result=answer(step)))
    assert not scheduler.has_unfinished
    return num_stretches
