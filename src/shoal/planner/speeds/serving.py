"""What requests and tokens cost the processor beside the model: in the server's head, and in who sends them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingTimes:
    """Seconds of processor time. What the head does to form a step is not among them: see `Fleet.turn`."""

    request_s: float = 0.0
    """of the head for a request, whatever its length: HTTP, JSON, checks, the last event"""
    step_s: float = 0.0
    """of the head for a step's results, whatever their number: waking the thread that answers clients"""
    token_s: float = 0.0
    """of the head for an output token: text, event, socket"""
    client_request_s: float = 0.0
    """of the load generator for a request"""
    client_token_s: float = 0.0
    """of the load generator for an output token"""

    def without_clients(self) -> ServingTimes:
        """The same for clients on other machines."""
        return ServingTimes(request_s=self.request_s, step_s=self.step_s, token_s=self.token_s)


NO_SERVING = ServingTimes()
"""Of a head that costs nothing: not measured."""
