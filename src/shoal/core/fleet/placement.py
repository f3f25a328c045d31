"""Where in a fleet a request goes."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.fleet.fleet_replica import FleetReplica
from shoal.core.kv.prefix_index import reusable_digests
from shoal.core.sequences.request import Request, RequestProgress
from shoal.core.speed.routing import Routing, choose_replica, next_in_turn


class Placement:
    """Follows one rule."""

    __slots__ = ("_previous", "_routing")

    def __init__(self, routing: Routing = "earliest-finish") -> None:
        self._routing: Routing = routing
        self._previous = -1
        """the replica that got the latest request"""

    def choose(
        self, candidates: Sequence[FleetReplica], request: Request, progress: RequestProgress | None, now_s: float
    ) -> FleetReplica:
        """One of the candidates, which are in the order of their indices, at least one."""
        if len(candidates) == 1:
            place = 0
        elif self._routing == "round-robin":
            place = next_in_turn([replica.index for replica in candidates], self._previous)
        else:
            place = _earliest_finish(candidates, request, progress, now_s)
        self._previous = candidates[place].index
        return candidates[place]


def _earliest_finish(
    candidates: Sequence[FleetReplica], request: Request, progress: RequestProgress | None, now_s: float
) -> int:
    outputs = progress.outputs if progress else ()
    known_tokens = (*request.prompt_ids, *outputs)
    digests = reusable_digests(known_tokens, candidates[0].scheduler.config.block_size, request.root, request.pictures)
    return choose_replica(
        [replica.load(now_s) for replica in candidates],
        prompt_tokens=len(known_tokens) + (request.clip.num_rows if request.clip is not None else 0),
        output_tokens=request.max_tokens - len(outputs),
        cached_tokens=[replica.scheduler.cached_tokens(digests, request.clip) for replica in candidates],
    )
