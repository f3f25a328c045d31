"""Invariants that must hold after every event."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection

from shoal.core.fleet.fleet import ReplicaFleet
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.scheduler_state import SchedulerState
from shoal.core.generation.waiting_queue import MAX_OVERTAKES
from shoal.core.sequences.request import Output, Request, RequestFinished, RequestId, TokenProduced
from shoal.core.sequences.sequence import Sequence
from shoal.protocol.language_messages import Step
from shoal.sim.reference_model import undisturbed_outcome


def check_state(state: SchedulerState) -> None:
    """Check that limits are kept, blocks are conserved, and no row is in flight twice."""
    config = state.config
    assert len(state.in_flight) <= config.num_micro_batches, "more steps in flight than micro-batches"
    assert len(state.running) <= state.num_places <= config.max_seqs, "more sequences than max_seqs"
    leads = [one for one in state.running.values() if one.lead is one]
    assert len(leads) + len(state.waiting) == len(state.sequences), "a sequence is in no queue or in two"
    assert len(state.running) == sum(len(lead.members) for lead in leads), "a branch runs without its lead"
    assert not (state.is_fenced and state.in_flight), "a step is in flight to lost workers"
    _check_rows_in_flight(state)
    _check_blocks(state)
    _check_states(state)


def _check_rows_in_flight(state: SchedulerState) -> None:
    ends: dict[int, int] = {}
    counts: Counter[int] = Counter()
    for step in state.in_flight.values():
        in_step = [id(chunk.sequence) for chunk in step.chunks]
        assert len(in_step) == len(set(in_step)), "a sequence is twice in one step"
        for chunk in step.chunks:
            key = id(chunk.sequence)
            assert chunk.start >= ends.get(key, 0), "a row is in flight twice"
            ends[key] = chunk.end
            counts[key] += 1
    for sequence in state.running.values():
        assert sequence.num_in_flight == counts[id(sequence)]
        assert sequence.num_computed <= sequence.num_scheduled <= len(sequence.token_ids)
        assert ends.get(id(sequence), sequence.num_computed) == sequence.num_scheduled
    for sequence in state.waiting:
        assert not counts[id(sequence)], "a waiting sequence is in flight"
        assert not sequence.block_table, "a waiting sequence holds blocks"


def _check_blocks(state: SchedulerState) -> None:
    """Check that every block has as many references as holders, and that all others are free."""
    blocks = state.kv.blocks
    held: Counter[int] = Counter()
    for sequence in _holders(state):
        assert len(sequence.block_table) == len(set(sequence.block_table)), "a block is twice in one table"
        held.update(sequence.block_table)
    expected = [0] * blocks.num_blocks
    for block, count in held.items():
        expected[block] = count
    assert blocks.all_references() == expected, "references and holders of a block differ"
    assert blocks.num_free == blocks.num_blocks - len(held), "a block is lost"


def _check_states(state: SchedulerState) -> None:
    """Check that every slot for recurrent states is free, a sequence's, a snapshot's, or reserved for a snapshot."""
    states, config = state.kv.states, state.config
    if states is None:
        return
    slots, holders = states.slots, _holders(state)
    held = [sequence.state_slot for sequence in holders]
    assert len(held) == len(set(held)), "two sequences have one slot"
    assert all(0 <= slot < config.max_seqs for slot in held), "a sequence has a snapshot's slot, or none"
    assert slots.num_free == config.max_seqs - len(held), "a sequence's slot is lost"
    kept = [*slots.snapshots.values(), *(slot for sequence in holders for _, slot in sequence.snapshots)]
    assert len(kept) == len(set(kept)), "two snapshots have one slot"
    assert all(config.max_seqs <= slot < config.num_states for slot in kept), "a snapshot has a sequence's slot"
    assert slots.num_free_for_snapshots == config.num_states - config.max_seqs - len(kept), "a snapshot's slot is lost"


def _holders(state: SchedulerState) -> list[Sequence]:
    """Running sequences, and cancelled ones whose step is still in flight."""
    holders = {id(sequence): sequence for sequence in state.running.values()}
    for step in state.in_flight.values():
        holders.update((id(chunk.sequence), chunk.sequence) for chunk in step.chunks)
    return list(holders.values())


def check_step(config: SchedulerConfig, step: Step, *, generation: int) -> None:
    """Check that a step is well formed and within the budget."""
    assert step.generation == generation, "a step of the wrong generation"
    assert 0 < step.num_tokens <= config.max_step_tokens, "the token budget is broken"
    starts, context_lens, tables = array("i"), array("i"), array("i")
    starts.frombytes(step.query_starts)
    context_lens.frombytes(step.context_lens)
    tables.frombytes(step.block_tables)
    assert starts[0] == 0
    assert starts[-1] == step.num_tokens
    width = len(tables) // step.num_sequences
    num_prefill = 0
    for i, context_len in enumerate(context_lens):
        num_rows = starts[i + 1] - starts[i]
        assert 0 < num_rows <= context_len <= config.max_context
        num_prefill += num_rows if num_rows > 1 else 0
        table = tables[i * width : (i + 1) * width]
        num_needed = -(-context_len // config.block_size)
        assert all(0 <= block < config.num_blocks for block in table[:num_needed]), "a row without a block"
    assert num_prefill <= config.prefill_chunk_tokens, "the prefill chunk is too long"


class Ledger:
    """The ledger of clients: what they saw, checked against what they should see."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._requests: dict[RequestId, Request] = {}
        self._tokens: dict[RequestId, list[int]] = {}
        self.finished: dict[RequestId, RequestFinished] = {}

    def add(self, request: Request) -> None:
        """Note that a client has sent a request."""
        self._requests[request.request_id] = request
        self._tokens[request.request_id] = []

    def record(self, output: Output) -> None:
        """Check one output on its way to the client."""
        request_id = output.request_id
        assert request_id not in self.finished, f"{request_id}: an output after the end"
        match output:
            case TokenProduced(token_id=token_id):
                self._tokens[request_id].append(token_id)
            case RequestFinished():
                self.finished[request_id] = output
                self._check_end(output)

    def end_all(self, message: str) -> None:
        """End all open requests, as a server does if all replicas are given up."""
        for request_id in self.unfinished():
            request = self._requests[request_id]
            self.record(
                RequestFinished(
                    request_id=request_id,
                    reason="error",
                    num_prompt_tokens=len(request.prompt_ids),
                    num_output_tokens=len(self._tokens[request_id]),
                    message=message,
                )
            )

    def unfinished(self) -> list[RequestId]:
        """Requests that have not ended, including those that were not sent yet."""
        return [request_id for request_id in self._requests if request_id not in self.finished]

    def transcript(self, request_id: RequestId) -> tuple[int, ...]:
        """The prompt of a request and its outputs so far."""
        return (*self._requests[request_id].prompt_ids, *self._tokens[request_id])

    def check_all_ended(self) -> None:
        """Check that every request that was sent has ended (`record` checks that nothing follows its end)."""
        missing = self._requests.keys() - self.finished.keys()
        assert not missing, f"never ended: {sorted(missing)}"

    def _check_end(self, finished: RequestFinished) -> None:
        tokens = tuple(self._tokens[finished.request_id])
        request = self._requests[finished.request_id]
        assert finished.num_output_tokens == len(tokens)
        assert finished.num_prompt_tokens == len(request.prompt_ids)
        if finished.reason in ("error", "cancelled") and not tokens:
            return
        expected = undisturbed_outcome(self._config, request)
        if finished.reason in ("error", "cancelled"):
            assert tokens == expected.token_ids[: len(tokens)], f"{finished.request_id}: other tokens"
        else:
            assert tokens == expected.token_ids, f"{finished.request_id}: other tokens than alone"
            assert finished.reason == expected.reason


class FairnessWatch:
    """Checks that no request waits while arbitrarily many younger ones of its replica are admitted."""

    def __init__(self) -> None:
        self._ahead: dict[RequestId, set[RequestId]] = {}
        """The requests that were seen waiting ahead of each waiting request."""
        self._num_passed: dict[RequestId, int] = {}
        self._admitted: set[RequestId] = set()

    def check(self, state: SchedulerState) -> None:
        """To be called after every turn. A request may be overtaken MAX_OVERTAKES times for itself and for each one
        ahead of it.

        Suspects overtake all others; there are few of them, and each does so once.
        """
        never_admitted = [sequence for sequence in state.waiting if not sequence.was_admitted]
        self._note_waiting([sequence.request.request_id for sequence in never_admitted])
        for younger in {one.lead for one in state.running.values()}:
            if younger.request.request_id in self._admitted:
                continue
            self._admitted.add(younger.request.request_id)
            for sequence in never_admitted:
                if sequence.arrival < younger.arrival and not younger.is_suspect:
                    self._pass(sequence.request.request_id)

    def _note_waiting(self, waiting: list[RequestId]) -> None:
        """Note the waiting requests. One that returns from another replica starts to wait again."""
        for gone in self._ahead.keys() - waiting:
            del self._ahead[gone]
            self._num_passed.pop(gone, None)
        for place, request_id in enumerate(waiting):
            self._ahead.setdefault(request_id, set()).update(waiting[:place])

    def _pass(self, request_id: RequestId) -> None:
        self._num_passed[request_id] = self._num_passed.get(request_id, 0) + 1
        num_allowed = MAX_OVERTAKES * (1 + len(self._ahead[request_id]))
        assert self._num_passed[request_id] <= num_allowed, f"{request_id} starves"


def check_fleet(fleet: ReplicaFleet, unfinished: Collection[RequestId]) -> None:
    """Check that every unfinished request that was sent is with exactly one replica, or in its inbox, and no other
    one."""
    places: Counter[RequestId] = Counter()
    for replica in fleet.replicas:
        assert not (replica.life.is_given_up and replica.scheduler.has_unfinished), "a request is with a lost replica"
        assert replica.scheduler.state.is_fenced == (not replica.is_serving), "fenced, or lost, but not both"
        places.update(replica.scheduler.state.sequences.keys())
        assert not replica.inbox, "a scheduler was not told something"
    assert all(count == 1 for count in places.values()), "a request is with two replicas"
    assert places.keys() <= set(unfinished), "a request goes on after its end"
    assert fleet.has_work == bool(places)
