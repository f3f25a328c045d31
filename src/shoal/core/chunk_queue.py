"""Which replica computes which chunk of an offline job, and what happens to the chunks of a lost one.

Chunks are pulled, not dealt: a replica gets the next one when it has room, so that a fast replica does more of them.
A chunk that was in flight on two lost replicas is suspect: it runs where nothing else does, so that those beside it are
not given up with it. Where workers crashed of what they computed, every chunk that was there is suspect at once, and a
chunk that was there alone is given up.

When nothing is left to hand out, an idle replica gets a copy of a chunk that others still have, and the first result
counts. It never stays idle while there is such a chunk: the slower the others are, the more this is worth.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NewType

Ticket = NewType("Ticket", int)
"""Names one chunk in one queue; ascending in the order in which chunks were added."""

MAX_LOSSES = 3
"""Lost replicas after which a chunk that was in flight on each of them is given up: one death is the machine's fault,
three are the chunk's. The same bound as for a request that is being served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Effect: let this replica compute this chunk."""

    replica: int
    ticket: Ticket


class ChunkQueue:
    """The chunks that are read and not yet finished. Holds tickets only, never data."""

    __slots__ = ("_has_input", "_holders", "_in_flight", "_last_ticket", "_losses", "_waiting", "_widths")

    def __init__(self, widths: Sequence[int]) -> None:
        """`widths`: for each replica, how many chunks it computes at once; one more waits at its door."""
        self._widths = list(widths)
        self._in_flight: list[list[Ticket] | None] = [[] for _ in widths]
        self._waiting: list[Ticket] = []
        self._holders: dict[Ticket, list[int]] = {}
        self._losses: dict[Ticket, int] = {}
        self._has_input = False
        self._last_ticket = 0

    @property
    def has_work(self) -> bool:
        """Whether a chunk may still come or is unfinished."""
        return self._has_input or bool(self._holders)

    @property
    def wants_chunk(self) -> bool:
        """Whether the next chunk could be handed to a replica at once, so that it is worth reading now."""
        return self._has_input and not self._waiting and self._roomiest(alone=False) is not None

    def num_in_flight(self, replica: int) -> int:
        """Chunks handed to a replica and not answered, abandoned ones and copies included."""
        return len(self._in_flight[replica] or ())

    def start_input(self) -> None:
        """Chunks are going to come."""
        self._has_input = True

    def end_input(self) -> None:
        """No more chunks come."""
        self._has_input = False

    def add(self) -> Ticket:
        """A chunk has been read."""
        self._last_ticket += 1
        ticket = Ticket(self._last_ticket)
        self._waiting.append(ticket)
        self._holders[ticket] = []
        return ticket

    def assign(self, *, copy_last: bool) -> Iterator[Assignment]:
        """Hand out chunks while there are both chunks and room, the oldest first.

        Args:
            copy_last: at the end, idle replicas take copies of what others have not finished.
        """
        while self._waiting and (replica := self._roomiest(alone=self._is_suspect(self._waiting[0]))) is not None:
            yield self._hand(self._waiting.pop(0), replica)
        while copy_last and not self._has_input and (copy := self._choose_copy()) is not None:
            yield self._hand(copy.ticket, copy.replica)

    def finish(self, replica: int, ticket: Ticket) -> bool:
        """A replica has answered. True where this is the first answer and anybody waits for it."""
        in_flight = self._in_flight[replica]
        assert in_flight is not None, "an answer from a lost replica"
        in_flight.remove(ticket)
        return self._forget(ticket)

    def lose(self, replica: int, *, is_crash: bool = False) -> list[Ticket]:
        """A replica is gone: its chunks wait again, before younger ones. Returns those that are given up instead.

        Args:
            replica: which.
            is_crash: it is gone of what it was computing, as far as can be seen.
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
        """A replica's workers end because others take their place: its chunks wait again, and none is to blame."""
        self._take_from(replica)

    def restore(self, replica: int, width: int) -> None:
        """A lost replica is there again, with nothing to do. `width`: of its workers, see `__init__`."""
        assert self._in_flight[replica] is None, "it was not lost"
        self._in_flight[replica] = []
        self._widths[replica] = width

    def join(self, width: int) -> None:
        """There is one more replica. `width`: see `__init__`."""
        self._in_flight.append([])
        self._widths.append(width)

    def abandon(self) -> None:
        """Nobody waits for any chunk any more. Those in flight still take up room until they are answered."""
        self._has_input = False
        self._waiting.clear()
        self._holders.clear()
        self._losses.clear()

    def _take_from(self, replica: int) -> list[Ticket]:
        """Chunks in flight on a replica that is in service no longer. Those that no other replica has wait again."""
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
        """Chunks in flight for each that can be computed at once."""
        return self.num_in_flight(replica) / self._widths[replica]

    def _is_suspect(self, ticket: Ticket) -> bool:
        return self._losses.get(ticket, 0) == MAX_LOSSES - 1

    def _roomiest(self, *, alone: bool) -> int | None:
        """The least loaded replica that can take one more, `alone`: that has none; equal ones: the lowest index."""
        open_ones = [
            replica
            for replica, tickets in enumerate(self._in_flight)
            if tickets is not None
            and len(tickets) <= (0 if alone else self._widths[replica])
            and not any(map(self._is_suspect, tickets))
        ]
        return min(open_ones, key=self._load, default=None)

    def _choose_copy(self) -> Assignment | None:
        """A copy, of a chunk that is not suspect, for the least loaded replica that would start on it at once.

        Chunks that the fewest replicas have come first. Replicas answer in the order in which they were asked, so among
        those the chunk that has the most before it is the one that a copy brings forward the most; the one that a busy
        replica is about to finish comes last.
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
