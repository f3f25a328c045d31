"""Any order of events leaves a scheduler whole, and every request gets exactly the tokens it would get alone."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal.core.generation.events import (
    Event,
    RequestAdded,
    RequestCancelled,
    SendStep,
    StepCompleted,
    WorkersLost,
    WorkersReady,
)
from shoal.core.generation.scheduler import Scheduler
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.sequences.beams import BeamSearch
from shoal.core.sequences.request import Request, RequestId
from shoal.protocol.language_messages import Sampling, StepResult
from shoal.sim.invariants import FairnessWatch, Ledger, check_state, check_step
from shoal.sim.simulated_replica import SimulatedReplica, StepCost

tokens = st.integers(0, 2)


@st.composite
def configs(draw: st.DrawFn) -> SchedulerConfig:
    max_step_tokens, max_seqs = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    return SchedulerConfig(
        block_size=draw(st.integers(1, 4)),
        num_blocks=draw(st.integers(2, 12)),
        max_seqs=max_seqs,
        num_states=draw(st.one_of(st.just(0), st.integers(max_seqs, max_seqs + 5))),
        max_step_tokens=max_step_tokens,
        max_context=draw(st.integers(2, 24)),
        prefill_chunk_tokens=draw(st.integers(1, max_step_tokens)),
        num_micro_batches=draw(st.integers(1, 3)),
    )


class SchedulerMachine(RuleBasedStateMachine):
    """The replica behind the scheduler has real (if simple) KV memory, so a wrong block gives a wrong token;
    and so gives a wrong slot for recurrent state."""

    @initialize(config=configs())
    def start(self, config):
        self.scheduler = Scheduler(config)
        self.replica = SimulatedReplica(
            num_blocks=config.num_blocks,
            block_size=config.block_size,
            num_stages=1,
            num_states=config.num_states,
            cost=StepCost(fixed_s=0.0, token_s=0.0),
        )
        self.ledger = Ledger(config)
        self.fairness = FairnessWatch()
        self.answers: list[StepResult] = []
        self.late: list[StepResult] = []
        self.num_requests = 0

    def tell(self, *events: Event) -> None:
        for effect in self.scheduler.handle(events, 0.0):
            if isinstance(effect, SendStep):
                check_step(self.scheduler.config, effect.step, generation=self.scheduler.generation)
                self.answers.append(self.replica.run(effect.work, 0.0)[0])
            else:
                self.ledger.record(effect)
        self.fairness.check(self.scheduler.state)

    @rule(
        prompt_ids=st.lists(tokens, max_size=14),
        max_tokens=st.integers(1, 8),
        stop=st.frozensets(st.integers(0, 60), max_size=10),
        forced=st.one_of(st.just([]), st.lists(tokens, max_size=8)),
        penalty=st.sampled_from((0.0, 0.5)),
    )
    def add(self, prompt_ids, max_tokens, stop, forced, penalty):
        request = Request(
            request_id=RequestId(str(self.num_requests)),
            prompt_ids=tuple(prompt_ids),
            max_tokens=max(max_tokens, len(forced)),
            sampling=Sampling(seed=self.num_requests, presence_penalty=penalty),
            stop_token_ids=stop,
            targets=tuple(forced),
        )
        self.num_requests += 1
        self.ledger.add(request)
        self.tell(RequestAdded(request=request))

    @rule(
        prompt_ids=st.lists(tokens, min_size=1, max_size=6),
        max_tokens=st.integers(1, 8),
        stop=st.frozensets(st.integers(0, 60), max_size=10),
        min_tokens=st.integers(0, 2),
        num_beams=st.integers(1, 4),
        patience=st.sampled_from((0.5, 1.0, 2.0)),
        length_penalty=st.sampled_from((None, 0.0, 1.0)),
    )
    def search(self, prompt_ids, max_tokens, stop, min_tokens, num_beams, patience, length_penalty):
        beams = BeamSearch(num_beams=num_beams, patience=patience, length_penalty=length_penalty)
        request = Request(
            request_id=RequestId(str(self.num_requests)),
            prompt_ids=tuple(prompt_ids),
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            sampling=Sampling(temperature=0.0, num_logprobs=beams.num_candidates),
            stop_token_ids=stop,
            beams=beams,
        )
        self.num_requests += 1
        self.ledger.add(request)
        self.tell(RequestAdded(request=request))

    @precondition(lambda self: self.ledger.finished)
    @rule(data=st.data(), words=st.lists(tokens, min_size=1, max_size=4), max_tokens=st.integers(1, 8))
    def go_on_talking(self, data, words, max_tokens):
        """The next turn of a conversation: what were outputs is a prompt now."""
        request_id = data.draw(st.sampled_from(sorted(self.ledger.finished)))
        request = Request(
            request_id=RequestId(str(self.num_requests)),
            prompt_ids=(*self.ledger.transcript(request_id), *words),
            max_tokens=max_tokens,
            sampling=Sampling(seed=self.num_requests),
        )
        self.num_requests += 1
        self.ledger.add(request)
        self.tell(RequestAdded(request=request))

    @precondition(lambda self: self.answers)
    @rule()
    def answer(self):
        self.late.append(self.answers.pop(0))
        self.tell(StepCompleted(result=self.late[-1]))

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def answer_again(self, data):
        self.tell(StepCompleted(result=data.draw(st.sampled_from(self.late))))

    @precondition(lambda self: self.num_requests)
    @rule(data=st.data())
    def cancel(self, data):
        index = data.draw(st.integers(0, self.num_requests - 1))
        self.tell(RequestCancelled(request_id=RequestId(str(index))))

    @rule()
    def lose_workers(self):
        self.late += self.answers
        self.answers.clear()
        self.tell(WorkersLost())
        self.replica.restart(0.0)

    @rule()
    def rebuild_workers(self):
        self.tell(WorkersReady())

    @invariant()
    def state_is_whole(self):
        if hasattr(self, "scheduler"):
            check_state(self.scheduler.state)

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        self.rebuild_workers()
        for _ in range(5000):
            if not self.answers:
                break
            self.answer()
            check_state(self.scheduler.state)
        self.ledger.check_all_ended()
        assert not self.scheduler.has_unfinished
        assert self.scheduler.stats().kv_usage == 0.0


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=80, stateful_step_count=40, deadline=None, derandomize=True)
