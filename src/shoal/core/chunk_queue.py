"""The queue that assigns the chunks of an offline job to replicas, and reassigns those of a lost one.

Replicas pull chunks: each gets the next one when it has room, so a fast replica computes more of them. A chunk that was
in flight on two lost replicas is suspect: it runs on a replica that has nothing else in flight, so that no other chunk
is given up with it. If the workers crashed on what they computed, every chunk in flight there is suspect at once, and a
chunk that was there alone is given up.

When no chunk is left to hand out, an idle replica gets a copy of a chunk that others have in flight, and the first
result counts. A replica never stays idle while there is such a chunk: the slower the others are, the more this gains.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NewType

from shoal.core.recovery.config import MAX_LOSSES

Ticket = NewType("Ticket", int)
"""The id of a chunk within one queue, ascending in the order in which chunks were added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """An effect: this replica is to compute this chunk."""

    replica: int
    ticket: Ticket


class ChunkQueue:
    """The queue of chunks that were read and are not finished. It holds tickets, never data."""

    __slots__ = ("_has_input", "_holders", "_in_flight", "_last_ticket", "_losses", "_waiting", "_widths")

    def __init__(self, widths: Sequence[int]) -> None:
        """`widths`: how many chunks each replica computes at once; it is sent one more, which waits there."""
        self._widths = list(widths)
        self._in_flight: list[list[Ticket] | None] = [[] for _ in widths]
        self._waiting: list[Ticket] = []
        self._holders: dict[Ticket, list[int]] = {}
        self._losses: dict[Ticket, int] = {}
        self._has_input = False
        self._last_ticket = 0

    @property
    def has_work(self) -> bool:
        """Whether any chunk is unfinished or may still come."""
        return self._has_input or bool(self._holders)

    @property
    def wants_chunk(self) -> bool:
        """Whether the next chunk should be read now, because a replica could take it at once."""
        return self._has_input and not self._waiting and self._roomiest(alone=False) is not None

    def num_in_flight(self, replica: int) -> int:
        """Chunks handed to a replica and not answered, including abandoned ones and copies."""
        return len(self._in_flight[replica] or ())

    def start_input(self) -> None:
        """Announce that chunks will come."""
        self._has_input = True

    def end_input(self) -> None:
        """Announce that no more chunks will come."""
        self._has_input = False

    def add(self) -> Ticket:
        """Add a chunk that has been read."""
        self._last_ticket += 1
        ticket = Ticket(self._last_ticket)
        self._waiting.append(ticket)
        self._holders[ticket] = []
        return ticket

    def assign(self, *, copy_last: bool) -> Iterator[Assignment]:
        """Hand out chunks while there are both chunks and room, the oldest first.

        Args:
            copy_last: whether idle replicas get copies of what others have not finished, once the input has ended.
        """
        while self._waiting and (replica := self._roomiest(alone=self._is_suspect(self._waiting[0]))) is not None:
            yield self._hand(self._waiting.pop(0), replica)
        while copy_last and not self._has_input and (copy := self._choose_copy()) is not None:
            yield self._hand(copy.ticket, copy.replica)

    def finish(self, replica: int, ticket: Ticket) -> bool:
        """Note a replica's answer. Returns whether it is the first one for a chunk that is still wanted."""
        in_flight = self._in_flight[replica]
        assert in_flight is not None, "an answer from a lost replica"
        in_flight.remove(ticket)
        return self._forget(ticket)

    def lose(self, replica: int, *, is_crash: bool = False) -> list[Ticket]:
        """Note a lost replica: its chunks wait again, ahead of younger ones. Returns those that are given up instead.

        Args:
            replica: the index of the lost replica.
            is_crash: whether what it was computing appears to have crashed it.
        """
        is_alone = self.num_in_flight(replica) == 1
        least_losses = (MAX_LOSSES if is_alone else MAX_LOSSES - 1) if is_crash else 0
        tickets = self._take_from(replica)
        for ticket in tickets:
            self._losses[ticket] = max(self._losses.get(ticket, 0) + 1, least_losses)
        given_up = [ticket for ticket in tickets if self._losses[ticket] >= MAX_LOSSES]
        for ticket in given_up:
            self._forget(ticket)
        return given_up

    def withdraw(self, replica: int) -> None:
        """Put a replica's chunks back because its workers are being replaced; none of them is to blame."""
        self._take_from(replica)

    def restore(self, replica: int, width: int) -> None:
        """Note that a lost replica has workers again. `width`: how many chunks they compute at once."""
        assert self._in_flight[replica] is None, "it was not lost"
        self._in_flight[replica] = []
        self._widths[replica] = width

    def join(self, width: int) -> None:
        """Add a replica. `width`: how many chunks it computes at once."""
        self._in_flight.append([])
        self._widths.append(width)

    def abandon(self) -> None:
        """Drop all chunks because the job is over. Those in flight still take up room until they are answered."""
        self._has_input = False
        self._waiting.clear()
        self._holders.clear()
        self._losses.clear()

    def _take_from(self, replica: int) -> list[Ticket]:
        """Take a replica out of service. Returns its chunks in flight; those that no other replica has wait again."""
        in_flight, self._in_flight[replica] = self._in_flight[replica] or [], None
        tickets = [ticket for ticket in in_flight if ticket in self._holders]
        for ticket in tickets:
            self._holders[ticket].remove(replica)
            if not self._holders[ticket]:
                bisect.insort(self._waiting, ticket)
        return tickets

    def _forget(self, ticket: Ticket) -> bool:
        self._losses.pop(ticket, None)
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        return self._holders.pop(ticket, None) is not None

    def _hand(self, ticket: Ticket, replica: int) -> Assignment:
        in_flight = self._in_flight[replica]
        assert in_flight is not None, "a chunk for a lost replica"
        in_flight.append(ticket)
        self._holders[ticket].append(replica)
        return Assignment(replica=replica, ticket=ticket)

    def _load(self, replica: int) -> float:
        """Chunks in flight, divided by the number that the replica computes at once."""
        return self.num_in_flight(replica) / self._widths[replica]

    def _is_suspect(self, ticket: Ticket) -> bool:
        return self._losses.get(ticket, 0) == MAX_LOSSES - 1

    def _roomiest(self, *, alone: bool) -> int | None:
        """The least loaded replica that can take another chunk (`alone`: that has none); ties go to the lowest
        index."""
        open_ones = [
            replica
            for replica, tickets in enumerate(self._in_flight)
            if tickets is not None
            and len(tickets) <= (0 if alone else self._widths[replica])
            and not any(map(self._is_suspect, tickets))
        ]
        return min(open_ones, key=self._load, default=None)

    def _choose_copy(self) -> Assignment | None:
        """Choose a chunk that is not suspect and copy it to the least loaded replica that would start on it at once.

        Chunks with the fewest holders come first. Replicas answer in the order in which they were asked, so among those
        a copy gains the most for the chunk with the most chunks ahead of it, and the least for one that a replica is
        about to finish.
        """
        replica = self._roomiest(alone=False)
        if replica is None or self._load(replica) >= 1:
            return None
        candidates = [
            (-len(self._holders[ticket]), place / self._widths[other], -ticket)
            for other, tickets in enumerate(self._in_flight)
            if other != replica
            for place, ticket in enumerate(tickets or ())
            if ticket in self._holders and replica not in self._holders[ticket] and not self._is_suspect(ticket)
        ]
        return Assignment(replica=replica, ticket=Ticket(-max(candidates)[-1])) if candidates else None
