"""Counts of a model's requests, as in Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

from shoal.errors import CapacityError, DeadlineExceeded, ShoalError, WorkerLost

FailureReason = Literal["REJECTED", "CANCELED", "BACKEND", "OTHER"]
"""Source: Triton, metric `nv_inference_request_failure`, label `reason`."""

FAILURE_REASONS: tuple[FailureReason, ...] = get_args(FailureReason)


@dataclass(slots=True, kw_only=True)
class RequestCounts:
    """Counts of one model's requests. Mutable."""

    num_succeeded: int = 0
    success_s: float = 0.0
    """Seconds from arrival to result, summed over succeeded requests."""
    num_failed: dict[FailureReason, int] = field(default_factory=lambda: dict.fromkeys(FAILURE_REASONS, 0))
    failure_s: float = 0.0
    """Seconds from arrival to the error, summed over failed requests."""
    last_success_unix_s: float = 0.0
    """The wall-clock time of the latest result; 0 before the first."""

    @contextmanager
    def counted(self, clock: Callable[[], float]) -> Generator[None, None, None]:
        """Count the outcome of a block that answers one request: a result or an error.

        `clock`: gives monotonic seconds.
        """
        arrival_s = clock()
        try:
            yield
        except ShoalError as error:
            self.fail(reason_of(error), clock() - arrival_s)
            raise
        except asyncio.CancelledError:
            self.fail("CANCELED", clock() - arrival_s)
            raise
        self.succeed(clock() - arrival_s, time.time())

    def succeed(self, elapsed_s: float, unix_s: float) -> None:
        """Count a result."""
        self.num_succeeded += 1
        self.success_s += elapsed_s
        self.last_success_unix_s = unix_s

    def fail(self, reason: FailureReason, elapsed_s: float) -> None:
        """Count a request that ended with an error."""
        self.num_failed[reason] += 1
        self.failure_s += elapsed_s


def reason_of(error: ShoalError) -> FailureReason:
    """The reason under which an error is counted."""
    match error:
        case CapacityError() | DeadlineExceeded():
            return "REJECTED"
        case WorkerLost():
            return "BACKEND"
        case _:
            return "OTHER"
