"""Readiness of a server: a token was produced recently, or a canary request produces one now."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """How long evidence of readiness is valid."""

    window_s: float
    """Seconds for which a token proves that the server works, > 0."""
    canary_deadline_s: float
    """Seconds within which a canary must produce its token, > 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthState:
    """The evidence of readiness; times are on one monotonic clock."""

    last_token_s: float | None = None
    """When any request, including canaries, last produced a token."""
    canary_sent_s: float | None = None
    """When the latest canary was sent; None before the first one and after one that failed with an error."""


class Readiness(Enum):
    """What the caller should do."""

    READY = auto()
    RUN_CANARY = auto()
    """Send a canary, then wait for it."""
    AWAIT_CANARY = auto()
    """Wait for a canary that may still answer."""
    NOT_READY = auto()


def decide_readiness(config: HealthConfig, state: HealthState, now_s: float) -> Readiness:
    """Decide what /ready should answer, or do before it answers.

    Once a canary's deadline has passed, the answer is NOT_READY until any request produces a token: a second canary
    would only queue behind the first.
    """
    if state.last_token_s is not None and now_s - state.last_token_s <= config.window_s:
        return Readiness.READY
    if not _is_canary_out(state):
        return Readiness.RUN_CANARY
    assert state.canary_sent_s is not None
    in_time = now_s - state.canary_sent_s <= config.canary_deadline_s
    return Readiness.AWAIT_CANARY if in_time else Readiness.NOT_READY


def _is_canary_out(state: HealthState) -> bool:
    """Whether a canary was sent and no token has been produced since."""
    if state.canary_sent_s is None:
        return False
    return state.last_token_s is None or state.last_token_s < state.canary_sent_s
