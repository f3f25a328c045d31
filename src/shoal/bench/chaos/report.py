"""The report of a chaos run, as JSON and as a table like those of NVIDIA Dynamo's fault tests."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shoal.bench.chaos.answer import ChaosAnswer
from shoal.bench.chaos.killer import Kill
from shoal.bench.chaos.resources import Resources
from shoal.bench.percentiles import Distribution, distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerComparison:
    """The answer to a request while workers were killed, and the one without kills."""

    answer: ChaosAnswer
    undisturbed: ChaosAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosReport:
    """All figures of a run. Latencies are those of successful requests."""

    success: int
    failed: int
    mismatched: int
    """Successful requests whose answers differ from those without kills."""
    kills: int
    tokens_replayed: int
    recovery_s_p50: float
    """Seconds for which a replica had no workers; 0: none was rebuilt."""
    recovery_s_max: float
    recoveries: int
    losses: int
    """Times that a replica lost workers; several kills may be one loss."""
    requests_replayed: int
    max_difference: float
    """Largest difference of log-probabilities or output elements of equal answers."""
    first_error: str | None
    latency_before: Distribution
    """Latency of whole requests without kills."""
    latency_after: Distribution
    """Latency of whole requests with kills."""
    pause_s_p50: float
    """Seconds from a kill to the next token, of the stream that waited longest; 0: no stream was in flight."""
    pause_s_max: float
    moved_pause_s_p50: float
    """The same for kills after which streams could move to another replica."""
    moved_pause_s_max: float
    noticed_s_max: float | None
    """Seconds from stopping a worker until the server killed it, for workers in use; None: workers were killed instead,
    or no stop was noticed."""
    duration_s: float
    resources_before: Resources
    resources_after: Resources
    server_exit_status: int

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return asdict(self)


def pauses_s(kills: Sequence[Kill], answers: Sequence[ChaosAnswer]) -> list[float]:
    """For each kill during streams, seconds until the next piece of the stream that waited longest.

    A stream counts if it had begun before the kill and continued after it.
    """
    longest: list[float] = []
    for kill in kills:
        waits_s = [wait_s for answer in answers if (wait_s := _wait_s(kill.at_s, answer.arrivals_s)) is not None]
        if waits_s:
            longest.append(max(waits_s))
    return longest


def _wait_s(at_s: float, arrivals_s: Sequence[float]) -> float | None:
    place = bisect.bisect_right(arrivals_s, at_s)
    return arrivals_s[place] - at_s if 0 < place < len(arrivals_s) else None


def summarize(
    comparisons: Sequence[AnswerComparison],
    undisturbed: Sequence[ChaosAnswer],
    kills: Sequence[Kill],
    *,
    recoveries_s: Sequence[float],
    num_losses: int,
    num_replays: int,
    tokens_replayed: int,
    resources: tuple[Resources, Resources],
    server_exit_status: int,
    is_stopping: bool,
) -> ChaosReport:
    """The report of a run.

    Args:
        comparisons: the answers to all requests that were sent while workers were killed.
        undisturbed: all answers without kills.
        kills: all kills, in order.
        recoveries_s: seconds of each recovery.
        num_losses, num_replays, tokens_replayed: the server's counts.
        resources: the server's resources before the first kill and after the last recovery.
        server_exit_status: the server's exit status after SIGTERM.
        is_stopping: whether workers were stopped instead of killed.
    """
    good = [one for one in comparisons if one.answer.error is None]
    equal = [one for one in good if one.answer.equals(one.undisturbed)]
    errors = [one.answer.error for one in comparisons if one.answer.error is not None]
    answers = [one.answer for one in comparisons]
    pauses, moved = pauses_s(kills, answers), pauses_s([kill for kill in kills if kill.leaves_others], answers)
    noticed_s = [kill.gone_s - kill.at_s for kill in kills if kill.gone_s is not None and kill.is_first]
    return ChaosReport(
        success=len(good),
        failed=len(errors),
        mismatched=len(good) - len(equal),
        kills=len(kills),
        tokens_replayed=tokens_replayed,
        recovery_s_p50=distribution(recoveries_s).median_s,
        recovery_s_max=max(recoveries_s, default=0.0),
        recoveries=len(recoveries_s),
        losses=num_losses,
        requests_replayed=num_replays,
        max_difference=max((one.answer.difference(one.undisturbed) for one in equal), default=0.0),
        first_error=errors[0] if errors else None,
        latency_before=distribution([answer.latency_s for answer in undisturbed]),
        latency_after=distribution([one.answer.latency_s for one in good]),
        pause_s_p50=distribution(pauses).median_s,
        pause_s_max=max(pauses, default=0.0),
        moved_pause_s_p50=distribution(moved).median_s,
        moved_pause_s_max=max(moved, default=0.0),
        noticed_s_max=max(noticed_s, default=None) if is_stopping else None,
        duration_s=max((answer.ended_s for answer in answers), default=0.0)
        - min((answer.started_s for answer in answers), default=0.0),
        resources_before=resources[0],
        resources_after=resources[1],
        server_exit_status=server_exit_status,
    )


def format_report(report: ChaosReport) -> str:
    """The report as a Markdown table, followed by further lines."""
    before, after = report.resources_before, report.resources_after
    cells = {
        "Success": f"{report.success}",
        "Failed": f"{report.failed}",
        "Mismatched": f"{report.mismatched}",
        "Kills": f"{report.kills}",
        "Latency before": f"{report.latency_before.median_s:.2f} s",
        "Latency after": f"{report.latency_after.median_s:.2f} s",
        "Recovery p50 / max": f"{report.recovery_s_p50:.2f} / {report.recovery_s_max:.2f} s",
        "Tokens replayed": f"{report.tokens_replayed}",
    }
    lines = [
        "| " + " | ".join(cells) + " |",
        "|" + "---|" * len(cells),
        "| " + " | ".join(cells.values()) + " |",
        *_pause_line(report),
        f"server: fds {before.fds} -> {after.fds}, threads {before.threads} -> {after.threads}, children "
        f"{before.children} -> {after.children}, shared memory {before.memfds} -> {after.memfds} pieces, RSS "
        f"{before.rss_bytes / 1e6:.1f} -> {after.rss_bytes / 1e6:.1f} MB; exit status {report.server_exit_status}",
    ]
    if report.noticed_s_max is not None:
        lines.append(f"a hung worker was noticed after {report.noticed_s_max:.2f} s at most")
    if report.first_error is not None:
        lines.append(f"first error: {report.first_error}")
    return "\n".join(lines)


def _pause_line(report: ChaosReport) -> Iterator[str]:
    """No line where no kill fell into the middle of a stream: answers of graphs come in one piece."""
    pauses = {
        "": (report.pause_s_p50, report.pause_s_max),
        "with another replica to go to: ": (report.moved_pause_s_p50, report.moved_pause_s_max),
    }
    seen = [f"{what}p50 {p50_s:.3f} s, max {max_s:.3f} s" for what, (p50_s, max_s) in pauses.items() if max_s]
    if seen:
        yield f"from a kill to the next token, slowest stream: {'; '.join(seen)}"
