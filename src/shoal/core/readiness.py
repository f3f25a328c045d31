"""Whether the server is ready: a token was really produced lately, or a canary request produces one now."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """How long evidence counts."""

    window_s: float
    """a token this recent proves that the server works, > 0"""
    canary_deadline_s: float
    """a canary must have produced its token by then, > 0"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthState:
    """The evidence, on one monotonic clock."""

    last_token_s: float | None = None
    """when any request last produced a token, canaries included"""
    canary_sent_s: float | None = None
    """when the latest canary was sent; None before the first and after one that failed with an error"""


class Readiness(Enum):
    """What the asker should do."""

    READY = auto()
    RUN_CANARY = auto()
    """send a canary, then wait for it"""
    AWAIT_CANARY = auto()
    """one is out and may still answer"""
    NOT_READY = auto()


def decide_readiness(config: HealthConfig, state: HealthState, now_s: float) -> Readiness:
    """What /ready should answer, or do before it answers.

    A canary whose deadline has passed keeps the answer at NOT_READY until a token comes, whoever asked for it: a second
    canary would only queue behind the first.
    """
    if state.last_token_s is not None and now_s - state.last_token_s <= config.window_s:
        return Readiness.READY
    if not _is_canary_out(state):
        return Readiness.RUN_CANARY
    assert state.canary_sent_s is not None
    in_time = now_s - state.canary_sent_s <= config.canary_deadline_s
    return Readiness.AWAIT_CANARY if in_time else Readiness.NOT_READY


def _is_canary_out(state: HealthState) -> bool:
    """A canary was sent and no token has come since."""
    if state.canary_sent_s is None:
        return False
    return state.last_token_s is None or state.last_token_s < state.canary_sent_s
