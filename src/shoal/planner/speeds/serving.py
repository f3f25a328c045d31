"""Processor time of requests and tokens beside the model: in the server's head and in the load generator."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingTimes:
    """Seconds of processor time. Forming steps is not included, see `Fleet.turn`."""

    request_s: float = 0.0
    """Seconds of the head per request, whatever its length: HTTP, JSON, checks, the last event."""
    step_s: float = 0.0
    """Seconds of the head per step with results, whatever their number: waking the thread that answers clients."""
    token_s: float = 0.0
    """Seconds of the head per output token: text, event, socket."""
    client_request_s: float = 0.0
    """Seconds of the load generator per request."""
    client_token_s: float = 0.0
    """Seconds of the load generator per output token."""

    def without_clients(self) -> ServingTimes:
        """The times if clients run on other machines."""
        return ServingTimes(request_s=self.request_s, step_s=self.step_s, token_s=self.token_s)


NO_SERVING = ServingTimes()
"""The times if nothing was measured: all 0."""
