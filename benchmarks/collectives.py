"""All-reduce in shared memory and over TCP, beside gloo, a raw TCP round trip and a copy of memory.

`python benchmarks/collectives.py`; `--rounds 5 --ranks 2 3 4` change the run. Every round measures every contender in
turn, in the same processes, so that a ratio compares runs of the same minutes. Rank r is pinned to a core of its own
where there are enough, as workers are; the threads of gloo are not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

from collective_ranks import COPY, GLOO, RAW, RAW_POLLING, SHARED_MEMORY, SWITCHES, TCP, Key, Samples, measure_group
from report import write_result

_KIB, _MIB = 1 << 10, 1 << 20
_SIZES_BYTES = (4 * _KIB, 64 * _KIB, _MIB, 16 * _MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A number to reach, and what every round reached."""

    what: str
    values: Sequence[float]
    at_most: float = float("inf")
    at_least: float = 0.0

    def row(self) -> str:
        """One line of the table."""
        median = statistics.median(self.values)
        target = f"at least {self.at_least:g}" if self.at_least else f"at most {self.at_most:g}"
        reached = "yes" if self.at_least <= median <= self.at_most else "no"
        span = f"{min(self.values):.2f} to {max(self.values):.2f}"
        return f"| {self.what} | {target} | {median:.2f} | {span} | {reached} |"


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4])
    given = parser.parse_args()
    samples: Samples = {}
    for num_ranks in given.ranks:
        print(f"{num_ranks} ranks", file=sys.stderr, flush=True)
        samples |= measure_group(num_ranks, given.rounds, _SIZES_BYTES)
    lines = [*_goal_table(samples), "", *_size_table(samples, given.ranks), "", *_switch_lines(samples, given.ranks)]
    lines += ["", f"gloo is that of torch {version('torch')}" if find_spec("torch") else "torch is not installed"]
    print("\n".join(lines))
    command = f"python benchmarks/collectives.py --rounds {given.rounds} --ranks {' '.join(map(str, given.ranks))}"
    print(write_result("collectives", lines, command=command))


def _goal_table(samples: Samples) -> list[str]:
    """The targets for two ranks, beside what was measured; those of contenders that are missing are left out."""
    shared, tcp, gloo = ((name, 2, 4 * _KIB) for name in (SHARED_MEMORY, TCP, GLOO))
    raw, large, copy = (RAW, 2, 4 * _KIB), (SHARED_MEMORY, 2, 16 * _MIB), (COPY, 2, 16 * _MIB)
    goals: list[Goal] = []
    if shared in samples:
        goals = [
            Goal(what="4 KB, shared memory, us", values=[s * 1e6 for s in samples[shared]], at_most=10),
            Goal(what="4 KB, TCP vs raw round trip, times as long", values=_ratios(samples, tcp, raw), at_most=1.5),
            Goal(what="16 MB, shared memory vs copying it", values=_ratios(samples, copy, large), at_least=0.5),
            Goal(what="measuring the switch, shared memory, ms", values=_switch_ms(samples), at_most=50),
        ]
    if gloo in samples:
        goals += [
            Goal(what="4 KB, shared memory vs gloo, times as fast", values=_ratios(samples, gloo, shared), at_least=50),
            Goal(what="4 KB, TCP vs gloo, times as fast", values=_ratios(samples, gloo, tcp), at_least=5),
        ]
    head = [
        "| all-reduce, 2 ranks | target | measured (median) | lowest to highest | reached |",
        "|---|---|---|---|---|",
    ]
    return [*head, *(goal.row() for goal in goals)]


def _ratios(samples: Samples, numerator: Key, denominator: Key) -> list[float]:
    return [above / below for above, below in zip(samples[numerator], samples[denominator], strict=True)]


def _switch_ms(samples: Samples) -> list[float]:
    return [took_s * 1e3 for took_s in samples[SWITCHES[SHARED_MEMORY], 2, 0]]


def _size_table(samples: Samples, ranks: Sequence[int]) -> list[str]:
    """Medians of the rounds; GB/s is the tensor's bytes over the time."""
    names = (SHARED_MEMORY, TCP, GLOO)
    lines = ["| ranks | bytes | " + " | ".join(f"{name}, us (GB/s)" for name in names) + " |", "|---" * 5 + "|"]
    for num_ranks in ranks:
        for num_bytes in _SIZES_BYTES:
            cells = [_cell(samples.get((name, num_ranks, num_bytes)), num_bytes) for name in names]
            lines.append(f"| {num_ranks} | {num_bytes} | " + " | ".join(cells) + " |")
    return lines


def _cell(times_s: Sequence[float] | None, num_bytes: int) -> str:
    if times_s is None:
        return "not installed"
    median_s = statistics.median(times_s)
    return f"{median_s * 1e6:.1f} ({num_bytes / median_s / 1e9:.2f})"


def _switch_lines(samples: Samples, ranks: Sequence[int]) -> list[str]:
    """What was measured beside the sums."""
    lines = ["| ranks | " + " | ".join(f"switch in {name}, bytes" for name in SWITCHES) + " |", "|---|---|---|"]
    for num_ranks in ranks:
        switches = (f"{samples[name, num_ranks, 0][0]:.0f}" for name in SWITCHES)
        lines.append(f"| {num_ranks} | " + " | ".join(switches) + " |")
    for what, num_bytes in ((RAW, 4 * _KIB), (RAW_POLLING, 4 * _KIB), (COPY, 16 * _MIB)):
        medians = (f"{statistics.median(samples[what, n, num_bytes]) * 1e6:.1f} (with {n} ranks)" for n in ranks)
        lines.append(f"\n{what}, {num_bytes} bytes, us: {', '.join(medians)}")
    return lines


if __name__ == "__main__":
    main()
