"""What is counted, what is a pause, and what the table says."""

from __future__ import annotations

import json

from shoal.bench.chaos.answer import ChaosAnswer
from shoal.bench.chaos.killer import Kill
from shoal.bench.chaos.report import AnswerComparison, ChaosReport, format_report, pauses_s, summarize
from shoal.bench.chaos.resources import Resources

HELD = Resources(fds=20, threads=5, children=4, memfds=0, memfd_bytes=0, shm_files=0, rss_bytes=150_000_000)


def answer(text: str = "abc", *arrivals_s: float, error: str | None = None) -> ChaosAnswer:
    times_s = list(arrivals_s) or [1.0]
    return ChaosAnswer(
        started_s=times_s[0] - 1.0,
        ended_s=times_s[-1],
        arrivals_s=times_s,
        text=text,
        finish_reason="length",
        num_tokens=3,
        error=error,
    )


def kill(at_s: float, *, serving: int = 2, recovering: int = 0, gone_s: float | None = None) -> Kill:
    return Kill(pid=1, at_s=at_s, num_serving=serving, num_recovering=recovering, gone_s=gone_s)


def report(*answers: ChaosAnswer, kills: tuple[Kill, ...] = (), is_stopping: bool = False) -> ChaosReport:
    return summarize(
        [AnswerComparison(answer=one, undisturbed=answer()) for one in answers],
        [answer()],
        kills,
        recoveries_s=[0.5, 2.5, 1.0],
        num_losses=3,
        num_replays=4,
        tokens_replayed=50,
        resources=(HELD, HELD),
        server_exit_status=0,
        is_stopping=is_stopping,
    )


def test_every_request_is_a_success_or_a_failure_and_may_differ() -> None:
    made = report(answer(), answer("abd"), answer(error="HTTP 503"), answer("", error="gone"))
    assert (made.success, made.failed, made.mismatched, made.first_error) == (2, 2, 1, "HTTP 503")
    assert (made.recovery_s_p50, made.recovery_s_max, made.recoveries) == (1.0, 2.5, 3)


def test_the_json_has_the_promised_keys() -> None:
    fields = json.loads(json.dumps(report(answer()).to_dict()))
    promised = {"success", "failed", "mismatched", "kills", "tokens_replayed", "recovery_s_p50", "recovery_s_max"}
    assert promised <= fields.keys()
    assert fields["tokens_replayed"] == 50


def test_a_pause_is_that_of_the_stream_which_waited_longest() -> None:
    streams = [answer("a", 1.0, 2.0, 2.5), answer("b", 1.0, 2.75), answer("not begun", 3.0, 4.0), answer("over", 0.5)]
    assert pauses_s([kill(2.25)], streams) == [0.5]
    assert pauses_s([kill(9.0)], streams) == []


def test_only_kills_that_leave_another_replica_count_as_moves() -> None:
    streams = (answer("a", 1.0, 2.5, 5.0, 8.0),)
    kills = (kill(2.0), kill(4.0, serving=1, recovering=1), kill(6.0, serving=1))
    made = report(*streams, kills=kills)
    assert made.pause_s_max == 2.0
    assert made.moved_pause_s_max == 0.5
    assert made.kills == 3


def test_when_a_hung_worker_was_noticed() -> None:
    kills = (kill(1.0, gone_s=3.25), kill(2.0, recovering=1, gone_s=12.0), kill(5.0))
    assert report(answer(), kills=kills, is_stopping=True).noticed_s_max == 2.25
    assert report(answer(), kills=kills).noticed_s_max is None
    assert report(answer(), kills=kills[2:], is_stopping=True).noticed_s_max is None


def test_the_table() -> None:
    text = format_report(report(answer(), answer("abd"), kills=(kill(1.5),)))
    assert "| 2 | 0 | 1 | 1 | 1.00 s | 1.00 s | 1.00 / 2.50 s | 50 |" in text
    assert "RSS 150.0 -> 150.0 MB; exit status 0" in text
    assert "first error" not in text
    assert "next token" not in text, "no stream was under way when the worker was killed"


def test_a_pause_without_another_replica() -> None:
    lines = format_report(report(answer("a", 1.0, 2.5), kills=(kill(2.0, serving=1),))).splitlines()
    assert "from a kill to the next token, slowest stream: p50 0.500 s, max 0.500 s" in lines


def test_pauses_with_another_replica() -> None:
    text = format_report(report(answer("a", 1.0, 2.5), kills=(kill(2.0, serving=2),)))
    assert "p50 0.500 s, max 0.500 s; with another replica to go to: p50 0.500 s, max 0.500 s" in text


def test_a_run_in_which_nothing_worked() -> None:
    made = report(answer("", error="refused"))
    assert (made.success, made.latency_after.median_s) == (0, 0.0)
    assert "first error: refused" in format_report(made)
