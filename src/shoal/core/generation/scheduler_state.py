"""The state of one scheduler."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq

from shoal.core.generation.events import Effect
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_in_flight import StepInFlight
from shoal.core.generation.waiting_queue import WaitingQueue
from shoal.core.kv.kv_cache import KvCache
from shoal.core.kv.memory_slots import MemorySlots
from shoal.core.kv.state_cache import StateCache
from shoal.core.sequences.request import RequestId
from shoal.core.sequences.sequence import Sequence
from shoal.protocol.language_messages import StepId
from shoal.protocol.worker_messages import Generation


class SchedulerState:
    """Sequences, steps in flight, memory and counters of one scheduler.

    A live sequence waits or runs; a running one is prefilling, ready, or has all its known rows in flight.
    """

    __slots__ = (
        "config",
        "generation",
        "in_flight",
        "is_fenced",
        "kv",
        "next_arrival",
        "next_step_id",
        "num_preemptions",
        "num_replays",
        "outputs",
        "prefilling",
        "prefix_hit_tokens",
        "prefix_query_tokens",
        "ready",
        "replayed_tokens",
        "running",
        "sequences",
        "suspects",
        "waiting",
    )

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.generation = Generation(config.generation)
        self.is_fenced = False
        """Whether the workers are lost and not yet rebuilt, so that no step is sent."""
        self.kv = _empty_cache(config)
        self.sequences: dict[RequestId, Sequence] = {}
        """The sequence of every live request, by request id."""
        self.waiting = WaitingQueue()
        self.running: dict[RequestId, Sequence] = {}
        """Sequences that hold KV blocks."""
        self.prefilling: list[Sequence] = []
        """Running sequences that have known rows left to schedule, in the order in which they were admitted."""
        self.ready: deque[Sequence] = deque()
        """Running sequences whose next decode row can be scheduled, longest ready first."""
        self.suspects: list[Sequence] = []
        """Live sequences that must be tried alone, one after the other, before anything else continues."""
        self.in_flight: dict[StepId, StepInFlight] = {}
        """Steps that were sent and not answered, by id, oldest first."""
        self.outputs: list[Effect] = []
        """Outputs of the current turn for clients."""
        self.next_step_id = 0
        self.next_arrival = 0
        self.num_preemptions = 0
        self.num_replays = 0
        """The number of times that a started request lost its workers."""
        self.replayed_tokens = 0
        """Rows that lost workers had computed and that must be computed again."""
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = 0

    @property
    def num_places(self) -> int:
        """Taken places for sequences. A request with beam search takes all that it may need."""
        return sum([one.request.num_places for one in self.running.values() if one.lead is one])

    @property
    def num_decoding(self) -> int:
        """Running sequences past their prompt, or whose last prompt rows are in flight."""
        return len(self.running) - len(self.prefilling)

    def stop_running(self, sequence: Sequence) -> None:
        """Take a sequence out of the running ones. The caller releases its blocks."""
        del self.running[sequence.request.request_id]
        if sequence in self.prefilling:
            self.prefilling.remove(sequence)
        elif sequence in self.ready:
            self.ready.remove(sequence)

    def start_running(self, lead: Sequence) -> None:
        """Start a sequence and its branches, which have been given blocks, with the prefill of their known rows."""
        for member in lead.members:
            self.running[member.request.request_id] = member
            self.prefilling.append(member)

    def put_back(self, lead: Sequence) -> None:
        """Release the blocks of a sequence and its branches and let it wait again. Nothing of it may be in flight."""
        for member in lead.members:
            self.stop_running(member)
            self.kv.release(member)
        lead.restart()
        lead.is_preempted = True
        self.waiting.put_back(lead)
        self.num_preemptions += 1

    def follow(self, lead: Sequence, parents: Seq[int]) -> None:
        """Let the sequences of a beam search continue with its live hypotheses, and make their next rows ready.

        Args:
            lead: the lead of the search, whose progress has just been updated.
            parents: for each hypothesis, the index of the member that it continues.
        """
        assert lead.beams is not None
        before = lead.members
        members = [*before, *(lead.branch(place) for place in range(len(before), len(parents)))][: len(parents)]
        self.kv.follow(members, [before[place] for place in parents])
        for dropped in before[len(parents) :]:
            self.stop_running(dropped)
            self.kv.release(dropped)
        lead.branches = members[1:]
        for member, hypothesis in zip(members, lead.beams.live, strict=True):
            member.set_outputs(hypothesis.token_ids)
            member.candidates = None
            self.running[member.request.request_id] = member
        self.ready.extend(members)

    def forget(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended here. It must be neither waiting nor running."""
        del self.sequences[sequence.request.request_id]
        if sequence.is_suspect:
            self.suspects.remove(sequence)

    def count_on(self, other: SchedulerState) -> None:
        """Take over the counters of another state. Mutates: this state, which must be fresh."""
        self.generation = other.generation
        self.next_step_id, self.next_arrival = other.next_step_id, other.next_arrival
        self.num_preemptions, self.num_replays = other.num_preemptions, other.num_replays
        self.replayed_tokens = other.replayed_tokens
        self.prefix_query_tokens, self.prefix_hit_tokens = other.prefix_query_tokens, other.prefix_hit_tokens

    def fence(self) -> None:
        """Forget the workers and their memory, and let every live request wait to be recomputed."""
        self.generation = Generation(self.generation + 1)
        self.is_fenced = True
        self.in_flight.clear()
        self.ready.clear()
        self.running.clear()
        self.prefilling.clear()
        self.kv = _empty_cache(self.config)
        for sequence in self.sequences.values():
            self.num_replays += sequence.num_scheduled > 0
            self.replayed_tokens += sum(member.num_computed for member in sequence.members)
            sequence.restart()
        self.waiting.replace(self.sequences.values())
        self.suspects = [sequence for sequence in self.waiting if sequence.is_suspect]


def _empty_cache(config: SchedulerConfig) -> KvCache:
    """The cache of workers that have computed nothing yet."""
    states = None
    if config.num_states:
        states = StateCache(num_running=config.max_seqs, num_states=config.num_states, block_size=config.block_size)
    memories = MemorySlots(config.num_memories) if config.num_memories else None
    return KvCache(num_blocks=config.num_blocks, block_size=config.block_size, states=states, memories=memories)
