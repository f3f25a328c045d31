"""Who may be failed for breaking workers, counted from what was sent and answered, not from the core's own counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from shoal.core.sequences.request import RequestId
from shoal.core.sequences.strikes import MAX_LOSSES


class BlameWatch:
    """Follows the steps of all replicas."""

    def __init__(self) -> None:
        self._out: dict[int, dict[int, frozenset[RequestId]]] = {}
        """for each replica, whose rows are in its unanswered steps"""
        self._losses: Counter[RequestId] = Counter()
        """in a row, without a token between"""

    def note_sent(self, replica: int, step_id: int, requests: Iterable[RequestId]) -> None:
        """A step is on its way. A suspect's rows must be alone in flight."""
        steps = self._out.setdefault(replica, {})
        steps[step_id] = frozenset(requests)
        in_flight = frozenset[RequestId]().union(*steps.values())
        if len(in_flight) > 1:
            suspects = [request for request in steps[step_id] if self._losses[request] >= MAX_LOSSES - 1]
            assert not suspects, f"{suspects} are tried beside {sorted(in_flight)}"

    def note_answered(self, replica: int, step_id: int) -> None:
        """An answer has come. One that is not the next is not believed."""
        steps = self._out.get(replica, {})
        if next(iter(steps), None) == step_id:
            del steps[step_id]

    def note_lost(self, replica: int) -> None:
        """A replica's workers are gone, which was noticed now."""
        hit = frozenset[RequestId]().union(*self._out.pop(replica, {}).values())
        self._losses.update(hit)

    def note_stopped(self, replica: int) -> None:
        """They were stopped on purpose."""
        self._out.pop(replica, None)

    def note_token(self, request_id: RequestId) -> None:
        """The client has received a token."""
        self._losses[request_id] = 0

    def check_condemned(self, request_id: RequestId) -> None:
        """Check that a request which was failed for breaking workers was to blame."""
        assert self._losses[request_id] >= MAX_LOSSES, (
            f"{request_id} was failed after {self._losses[request_id]} losses"
        )
