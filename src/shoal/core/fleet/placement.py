"""Placement: which replica of a fleet gets a request."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.fleet.candidates import Candidates
from shoal.core.fleet.fleet_replica import Changes, FleetReplica
from shoal.core.kv.first_blocks import FirstBlocks
from shoal.core.kv.prefix_index import PrefixIndex, reusable_digests
from shoal.core.sequences.request import Request, RequestProgress
from shoal.core.speed.routing import Routing, next_in_turn
from shoal.core.speed.routing_table import RoutingTable


class Placement:
    """Chooses replicas by one routing rule."""

    __slots__ = ("_changes", "_first_blocks", "_indices", "_previous", "_replicas", "_routing", "_slow", "_table")

    def __init__(self, routing: Routing, replicas: Sequence[FleetReplica], changes: Changes) -> None:
        """`replicas`: the fleet's own list, which may grow. `changes`: which of them must be looked at again."""
        self._routing: Routing = routing
        self._replicas, self._changes = replicas, changes
        self._table = RoutingTable()
        self._indices: dict[int, PrefixIndex] = {}
        """The prefix index of each replica."""
        self._first_blocks = FirstBlocks()
        """The first blocks in all of them."""
        self._slow: set[int] = set()
        """Replicas with a slow worker, whose expected speed changes while they are idle."""
        self._previous = -1
        """The replica that got the latest request."""

    def choose(
        self, candidates: Candidates, request: Request, progress: RequestProgress | None, now_s: float
    ) -> tuple[FleetReplica, Sequence[bytes]]:
        """Choose one of the candidates, of which there must be at least one.

        Returns: the replica, and digests of the request's leading blocks there, if they had to be computed.
        """
        replicas = candidates.replicas
        digests: Sequence[bytes] = ()
        if len(replicas) == 1:
            chosen = replicas[0]
        elif self._routing == "round-robin":
            chosen = replicas[next_in_turn([replica.index for replica in replicas], self._previous)]
        else:
            chosen, digests = self._earliest_finish(candidates, request, progress, now_s)
        self._previous = chosen.index
        return chosen, digests

    def _earliest_finish(
        self, candidates: Candidates, request: Request, progress: RequestProgress | None, now_s: float
    ) -> tuple[FleetReplica, Sequence[bytes]]:
        self._look_again(now_s)
        outputs = progress.outputs if progress else ()
        known_tokens = request.prompt_ids + outputs
        block_size = candidates.replicas[0].scheduler.config.block_size
        digests = reusable_digests(known_tokens, block_size, request.root, request.pictures)
        index = self._table.choose(
            candidates.indices,
            prompt_tokens=len(known_tokens) + (request.clip.num_rows if request.clip is not None else 0),
            output_tokens=request.max_tokens - len(outputs),
            cached_tokens={
                index: self._replicas[index].scheduler.cached_tokens(digests, request.clip)
                for index in self._may_have_cached(digests, request)
            },
        )
        chosen = self._replicas[index]
        return chosen, digests if chosen.scheduler.config.block_size == block_size else ()

    def _look_again(self, now_s: float) -> None:
        """Update the routing table for the replicas that have changed."""
        for index in sorted(self._changes.loads | self._slow):
            replica = self._replicas[index]
            load = replica.load(now_s)
            self._table.note(index, load)
            self._listen(index, replica.scheduler.state.kv.blocks.index)
            self._slow.add(index) if load.is_slow else self._slow.discard(index)
        self._changes.loads.clear()

    def _listen(self, replica: int, index: PrefixIndex) -> None:
        """Let a replica's prefix index tell its first blocks; new workers have a new one."""
        known = self._indices.get(replica)
        if known is not index:
            if known is not None:
                known.stop_telling()
            self._indices[replica] = index
            index.tell(self._first_blocks, replica)

    def _may_have_cached(self, digests: Sequence[bytes], request: Request) -> Sequence[int]:
        """Replicas that may have the start of the prompt cached, or the request's clip."""
        if request.clip is not None:
            return range(len(self._replicas))
        if not digests:
            return ()
        return self._first_blocks.holders(digests[0])
