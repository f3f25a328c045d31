"""Pulling chunks: who gets which, what a lost replica leaves, what is copied at the end."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal.core.chunk_queue import Assignment, ChunkQueue, Ticket
from shoal.core.recovery.config import MAX_LOSSES


def make_queue(*widths: int) -> ChunkQueue:
    queue = ChunkQueue(widths)
    queue.start_input()
    return queue


def fill(queue: ChunkQueue) -> list[Assignment]:
    """Read chunks until nobody has room."""
    given: list[Assignment] = []
    while queue.wants_chunk:
        queue.add()
        given += queue.assign(copy_last=True)
    return given


def on_replica(given: list[Assignment], replica: int) -> list[int]:
    return [assignment.ticket for assignment in given if assignment.replica == replica]


def test_nothing_is_read_beyond_one_more_chunk_than_a_replica_computes_at_once() -> None:
    given = fill(make_queue(1, 3))
    assert len(on_replica(given, 0)) == 2
    assert len(on_replica(given, 1)) == 4


def test_a_fast_replica_gets_more() -> None:
    queue = make_queue(1, 1)
    fill(queue)
    for _ in range(5):
        assert queue.finish(1, Ticket(on_latest(queue, 1)))
        (next_one,) = fill(queue)
        assert next_one.replica == 1


def on_latest(queue: ChunkQueue, replica: int) -> int:
    """The chunk at the front of a replica."""
    in_flight = queue._in_flight[replica]
    assert in_flight
    return in_flight[0]


def test_no_copies_while_there_is_something_to_read() -> None:
    queue = make_queue(1, 1)
    queue.add()
    assert list(queue.assign(copy_last=True)) == [Assignment(replica=0, ticket=Ticket(1))]


def test_at_the_end_an_idle_replica_gets_the_chunk_that_has_the_most_before_it() -> None:
    queue = make_queue(1, 1)
    given = fill(queue)
    queue.end_input()
    first, second = on_replica(given, 0)
    for ticket in on_replica(given, 1):
        queue.finish(1, Ticket(ticket))
    assert list(queue.assign(copy_last=True)) == [Assignment(replica=1, ticket=Ticket(second))]
    assert queue.finish(1, Ticket(second))
    assert list(queue.assign(copy_last=True)) == [Assignment(replica=1, ticket=Ticket(first))]


def test_no_copy_unless_asked_for() -> None:
    queue = make_queue(1, 1)
    queue.add()
    queue.end_input()
    assert list(queue.assign(copy_last=False)) == [Assignment(replica=0, ticket=Ticket(1))]


def test_the_first_result_of_a_copied_chunk_counts() -> None:
    queue = make_queue(1, 1)
    ticket = queue.add()
    queue.end_input()
    assert [assignment.replica for assignment in queue.assign(copy_last=True)] == [0, 1]
    assert queue.finish(1, ticket)
    assert not queue.has_work
    assert not queue.finish(0, ticket)


def test_no_replica_is_idle_while_there_is_a_chunk_that_it_has_not_got() -> None:
    queue = make_queue(1, 1, 1)
    ticket = queue.add()
    queue.end_input()
    assert [assignment.replica for assignment in queue.assign(copy_last=True)] == [0, 1, 2]
    assert list(queue.assign(copy_last=True)) == []
    assert queue.finish(2, ticket)


def test_what_the_fewest_replicas_have_is_copied_first() -> None:
    queue = make_queue(1, 1, 1)
    given = fill(queue)
    queue.end_input()
    for ticket in on_replica(given, 2):
        queue.finish(2, Ticket(ticket))
    (first_copy,) = queue.assign(copy_last=True)
    for ticket in on_replica(given, 1):
        if ticket != first_copy.ticket:
            queue.finish(1, Ticket(ticket))
    copies = [assignment.ticket for assignment in queue.assign(copy_last=True)]
    assert first_copy.ticket not in copies


def test_the_chunks_of_a_lost_replica_go_before_younger_ones() -> None:
    queue = make_queue(1, 1)
    given = fill(queue)
    lost = on_replica(given, 0)
    assert queue.lose(0) == []
    for ticket in on_replica(given, 1):
        queue.finish(1, Ticket(ticket))
    assert not queue.wants_chunk
    assert [assignment.ticket for assignment in queue.assign(copy_last=True)] == lost


def test_chunks_of_several_lost_replicas_go_in_their_order() -> None:
    queue = make_queue(1, 1, 1)
    given = fill(queue)
    queue.lose(1)
    queue.lose(0)
    for ticket in on_replica(given, 2):
        queue.finish(2, Ticket(ticket))
    again = [assignment.ticket for assignment in queue.assign(copy_last=False)]
    assert again == sorted(on_replica(given, 0) + on_replica(given, 1))[:2]


def test_the_loss_of_one_of_two_holders_changes_nothing() -> None:
    queue = make_queue(1, 1)
    ticket = queue.add()
    queue.end_input()
    list(queue.assign(copy_last=True))
    queue.lose(0)
    assert list(queue.assign(copy_last=True)) == []
    assert queue.finish(1, ticket)


def test_a_chunk_that_takes_three_replicas_with_it_is_given_up() -> None:
    queue = make_queue(1, 1, 1, 1)
    ticket = queue.add()
    queue.end_input()
    for loss in range(1, MAX_LOSSES + 1):
        (assignment,) = queue.assign(copy_last=False)
        assert assignment.ticket == ticket
        assert queue.lose(assignment.replica) == ([ticket] if loss == MAX_LOSSES else [])
    assert not queue.has_work


def test_a_chunk_that_was_there_at_two_losses_runs_alone() -> None:
    queue = make_queue(1)
    first, second = (assignment.ticket for assignment in fill(queue))
    for _ in range(MAX_LOSSES - 1):
        assert queue.lose(0) == []
        queue.restore(0, 1)
        again = [assignment.ticket for assignment in queue.assign(copy_last=True)]
    assert again == [first]
    assert queue.lose(0) == [first]
    queue.restore(0, 1)
    assert [assignment.ticket for assignment in queue.assign(copy_last=True)] == [second]
    assert queue.finish(0, second)


def test_abandoned_chunks_take_up_room_until_they_are_answered() -> None:
    queue = make_queue(1)
    given = fill(queue)
    queue.abandon()
    assert not queue.has_work
    queue.start_input()
    assert not queue.wants_chunk
    assert not queue.finish(0, given[0].ticket)
    assert queue.wants_chunk


class ChunkQueueMachine(RuleBasedStateMachine):
    """Every chunk is answered exactly once or given up, whatever replicas do, as long as one lives or comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.widths = [1, 1, 2, 3]
        self.queue = make_queue(*self.widths)
        self.living = set(range(4))
        self.in_flight: dict[int, list[Ticket]] = {replica: [] for replica in range(4)}
        self.unfinished: set[Ticket] = set()
        self.has_input = True

    @precondition(lambda self: self.queue.wants_chunk)
    @rule()
    def read(self) -> None:
        ticket = self.queue.add()
        assert ticket not in self.unfinished
        self.unfinished.add(ticket)

    @precondition(lambda self: self.has_input)
    @rule()
    def end(self) -> None:
        self.queue.end_input()
        self.has_input = False

    @rule(copy_last=st.booleans())
    def assign(self, copy_last: bool) -> None:
        for assignment in self.queue.assign(copy_last=copy_last):
            assert assignment.replica in self.living
            assert assignment.ticket in self.unfinished
            assert assignment.ticket not in self.in_flight[assignment.replica]
            self.in_flight[assignment.replica].append(assignment.ticket)

    @precondition(lambda self: any(self.in_flight.values()))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        replica = data.draw(st.sampled_from([r for r, tickets in self.in_flight.items() if tickets]))
        ticket = self.in_flight[replica].pop(0)
        assert self.queue.finish(replica, ticket) == (ticket in self.unfinished)
        self.unfinished.discard(ticket)

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        replica = data.draw(st.sampled_from(sorted(self.living)))
        self.living.discard(replica)
        self.in_flight[replica] = []
        given_up = set(self.queue.lose(replica))
        assert given_up <= self.unfinished
        self.unfinished -= given_up

    @precondition(lambda self: len(self.living) < len(self.widths))
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        replica = data.draw(st.sampled_from(sorted(set(self.in_flight) - self.living)))
        self.living.add(replica)
        self.widths[replica] = data.draw(st.integers(1, 3))
        self.queue.restore(replica, self.widths[replica])

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        replica = data.draw(st.sampled_from(sorted(self.living)))
        self.in_flight[replica] = []
        self.queue.withdraw(replica)
        self.queue.restore(replica, self.widths[replica])

    @precondition(lambda self: len(self.widths) < 6)
    @rule(width=st.integers(1, 3))
    def join(self, width: int) -> None:
        replica = len(self.widths)
        self.widths.append(width)
        self.in_flight[replica] = []
        self.living.add(replica)
        self.queue.join(width)

    @invariant()
    def no_replica_holds_more_than_its_share(self) -> None:
        assert all(len(tickets) <= self.widths[r] + 1 for r, tickets in self.in_flight.items())

    @invariant()
    def work_remains_exactly_while_something_is_unfinished(self) -> None:
        assert self.queue.has_work == (self.has_input or bool(self.unfinished))

    @invariant()
    def copies_are_made_only_at_the_end(self) -> None:
        held = [ticket for tickets in self.in_flight.values() for ticket in tickets if ticket in self.unfinished]
        assert not self.has_input or len(held) == len(set(held))

    def teardown(self) -> None:
        """Whatever has happened, what is left can be finished."""
        if not self.living:
            self.living.add(0)
            self.queue.restore(0, self.widths[0])
        self.queue.end_input()
        self.has_input = False
        while self.unfinished:
            self.assign(True)
            replica = next(r for r, tickets in self.in_flight.items() if tickets)
            ticket = self.in_flight[replica].pop(0)
            self.queue.finish(replica, ticket)
            self.unfinished.discard(ticket)
        assert not self.queue.has_work


TestChunkQueueMachine = ChunkQueueMachine.TestCase
TestChunkQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_chunk_that_crashes_workers_alone_is_given_up_at_once() -> None:
    queue = make_queue(1)
    ticket = queue.add()
    queue.end_input()
    list(queue.assign(copy_last=False))
    assert queue.lose(0, is_crash=True) == [ticket]


def test_chunks_that_were_there_at_a_crash_run_alone_one_after_the_other() -> None:
    queue = make_queue(1)
    first, second = (assignment.ticket for assignment in fill(queue))
    queue.end_input()
    assert queue.lose(0, is_crash=True) == []
    queue.restore(0, 1)
    assert [assignment.ticket for assignment in queue.assign(copy_last=True)] == [first]
    assert queue.finish(0, first)
    assert [assignment.ticket for assignment in queue.assign(copy_last=True)] == [second]
    assert queue.lose(0, is_crash=True) == [second]


def test_chunks_of_workers_that_others_take_the_place_of_are_not_to_blame() -> None:
    queue = make_queue(1)
    tickets = [assignment.ticket for assignment in fill(queue)]
    for _ in range(MAX_LOSSES):
        queue.withdraw(0)
        queue.restore(0, 1)
        assert [assignment.ticket for assignment in queue.assign(copy_last=False)] == tickets
