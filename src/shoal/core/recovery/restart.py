"""Whether, when and with which workers a lost replica is started again.

A failure is a loss of workers that neither answered a step nor were there for a while: they could not be loaded, died
of their first step, or were killed faster than they could be of use. Workers that did their work and then died are
started again at once, however often that happens; nobody's requests fail of it. Failures in a row are a crash loop:
each restart waits twice as long as the one before, and after enough of them in a long enough time the replica is given
up. That is final, also for the last replica: whoever supervises the server sees it end and can do more than this
process can.

A worker that fails to load again and again is done without: the replica is planned anew over the others. One whose
machine takes no connections is done without at once, since each attempt would only wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.recovery.config import RecoveryConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How a replica's workers were lost."""

    was_well: bool
    """they had answered a step, or were there for `settled_s`"""
    was_loading: bool
    at_s: float
    """on a monotonic clock"""
    worker: int | None = None
    """which of them is to blame, stage by stage, rank by rank; None: not known"""
    is_unreachable: bool = False
    """the machine of that one takes no connections"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureHistory:
    """Failures in a row up to now."""

    num_failures: int = 0
    worker: int | None = None
    """the one that failed to load the last times"""
    num_worker_failures: int = 0
    """how many of the last failures were its"""
    is_unreachable: bool = False
    """the machine of that one takes no connections, which has just been found out"""
    first_s: float = 0.0
    """when the first of them was"""
    last_s: float = 0.0

    def after(self, loss: Loss) -> FailureHistory:
        """With one more loss."""
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
    """leave this worker out: the replica is to be planned anew over the others; None: as it is"""


def decide_restart(config: RecoveryConfig, history: FailureHistory) -> Restart | None:
    """What to do after the latest loss in the history; None: give the replica up."""
    if history.num_failures >= config.max_failures and history.last_s - history.first_s >= config.crash_loop_s:
        return None
    is_newly_unreachable = history.is_unreachable and history.num_worker_failures == 1
    num_waits = 0 if is_newly_unreachable else history.num_failures - 1
    delay_s = 0.0 if num_waits <= 0 else min(config.max_backoff_s, config.backoff_s * 2.0 ** (num_waits - 1))
    is_hopeless = history.is_unreachable or history.num_worker_failures >= config.replan_after
    return Restart(delay_s=delay_s, without=history.worker if is_hopeless else None)
