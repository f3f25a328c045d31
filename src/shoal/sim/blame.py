"""Which requests may be failed for breaking workers, counted from what was sent and answered, independently of core."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from shoal.core.recovery.config import MAX_LOSSES
from shoal.core.sequences.request import RequestId


class BlameWatch:
    """Watches the steps of all replicas and checks blame."""

    def __init__(self) -> None:
        self._out: dict[int, dict[int, frozenset[RequestId]]] = {}
        """The requests with rows in unanswered steps, by replica and step."""
        self._losses: Counter[RequestId] = Counter()
        """Losses in a row, without a token in between, by request."""

    def note_sent(self, replica: int, step_id: int, requests: Iterable[RequestId]) -> None:
        """Note a step that is sent. Checks that a suspect's rows are alone in flight."""
        steps = self._out.setdefault(replica, {})
        steps[step_id] = frozenset(requests)
        in_flight = frozenset[RequestId]().union(*steps.values())
        if len(in_flight) > 1:
            suspects = [request for request in steps[step_id] if self._losses[request] >= MAX_LOSSES - 1]
            assert not suspects, f"{suspects} are tried beside {sorted(in_flight)}"

    def note_answered(self, replica: int, step_id: int) -> None:
        """Note an answer. Ignored if it is not the next one."""
        steps = self._out.get(replica, {})
        if next(iter(steps), None) == step_id:
            del steps[step_id]

    def note_lost(self, replica: int) -> None:
        """Note the loss of a replica's workers."""
        hit = frozenset[RequestId]().union(*self._out.pop(replica, {}).values())
        self._losses.update(hit)

    def note_stopped(self, replica: int) -> None:
        """Note that a replica's workers were stopped on purpose."""
        self._out.pop(replica, None)

    def note_token(self, request_id: RequestId) -> None:
        """Note that a client has received a token."""
        self._losses[request_id] = 0

    def check_condemned(self, request_id: RequestId) -> None:
        """Check that a request which was failed for breaking workers was to blame."""
        assert self._losses[request_id] >= MAX_LOSSES, (
            f"{request_id} was failed after {self._losses[request_id]} losses"
        )
