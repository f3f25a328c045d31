"""Whether, when and with which workers a lost replica is started again.

A failure is a loss of workers that neither answered a step nor served for a while: they could not load, died in their
first step, or were killed too soon. Workers that did their work and then died are restarted at once, however often that
happens, and no request fails because of it. Failures in a row are a crash loop: each restart waits twice as long as the
one before, and after enough of them in a long enough time the replica is given up. That is final, even for the last
replica: the server ends, and its supervisor can do more than this process can.

If one worker fails to load again and again, the replica is planned again without it. If its machine accepts no
connections, that happens at once, since every attempt would only wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.recovery.config import RecoveryConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A loss of a replica's workers."""

    was_well: bool
    """Whether they had answered a step or served for `settled_s`."""
    was_loading: bool
    """Whether they were loading."""
    at_s: float
    """The time of the loss, on a monotonic clock."""
    worker: int | None = None
    """The worker to blame, counted stage by stage and rank by rank; None: not known."""
    is_unreachable: bool = False
    """Whether that worker's machine accepts no connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureHistory:
    """The current row of failures."""

    num_failures: int = 0
    worker: int | None = None
    """The worker that failed to load in the latest failures; None: not known."""
    num_worker_failures: int = 0
    """How many of the latest failures were those of `worker`."""
    is_unreachable: bool = False
    """Whether the latest failure showed that the machine of `worker` accepts no connections."""
    first_s: float = 0.0
    """The time of the first failure in the row."""
    last_s: float = 0.0

    def after(self, loss: Loss) -> FailureHistory:
        """The history after one more loss."""
        if loss.was_well:
            return FailureHistory(num_failures=1, first_s=loss.at_s, last_s=loss.at_s)
        worker = loss.worker if loss.was_loading else None
        return FailureHistory(
            num_failures=self.num_failures + 1,
            worker=worker,
            num_worker_failures=0 if worker is None else self.num_worker_failures * (worker == self.worker) + 1,
            is_unreachable=loss.is_unreachable and worker is not None,
            first_s=self.first_s if self.num_failures else loss.at_s,
            last_s=loss.at_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Start the replica's workers again."""

    delay_s: float
    without: int | None
    """The worker without which the replica is planned again; None: the plan stays as it is."""


def decide_restart(config: RecoveryConfig, history: FailureHistory) -> Restart | None:
    """Decide how to restart after the latest loss in the history; None: give the replica up."""
    if history.num_failures >= config.max_failures and history.last_s - history.first_s >= config.crash_loop_s:
        return None
    is_newly_unreachable = history.is_unreachable and history.num_worker_failures == 1
    num_waits = 0 if is_newly_unreachable else history.num_failures - 1
    delay_s = 0.0 if num_waits <= 0 else min(config.max_backoff_s, config.backoff_s * 2.0 ** (num_waits - 1))
    is_hopeless = history.is_unreachable or history.num_worker_failures >= config.replan_after
    return Restart(delay_s=delay_s, without=history.worker if is_hopeless else None)
