"""Engines compared on the same loads, all of them once in every round."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engines.model_files import file_bytes
from engines.reading import Reading, Readings
from processes import Failed
from ratios import Limit, Target, limit_table, ratio_table

SHOAL = "Shoal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One engine in one setting."""

    name: str
    engine: str = SHOAL
    model: Path
    """the file or directory that it reads"""
    measure: Callable[[], Readings]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A ratio to tell, and perhaps to reach, under one load."""

    contender: str | None = None
    """None: the best of Shoal's by the medians"""
    reference: str
    load: str
    at_least: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """A value that one contender must not exceed under one load."""

    contender: str
    load: str
    at_most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is measured together and compared."""

    title: str
    unit: str
    contenders: Sequence[Contender]
    goals: Sequence[Goal] = ()
    ceilings: Sequence[Ceiling] = ()
    num_warm_ups: int = 0
    """rounds that are not counted"""
    flops_per_token: float | None = None
    """of the model; None: speed is not what is compared"""
    is_lone_decode: bool = False
    """whether a token a second is one pass over the weights a second"""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came out. Mutable: filled in round by round."""

    comparison: Comparison
    readings: dict[str, list[Readings]] = field(default_factory=dict)
    """by contender, one a round"""
    failures: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """As Markdown."""
        samples = {
            _key(name, load): self._values(name, load) for name, rounds in self.readings.items() for load in rounds[0]
        }
        lines = ["", f"## {self.comparison.title}", ""]
        if targets := self._targets():
            lines += [*ratio_table(samples, targets), ""]
        if limits := self._limits():
            lines += [*limit_table(samples, limits), ""]
        return [*lines, *self._reading_table(), *(f"\n{failure}" for failure in self.failures)]

    def _targets(self) -> list[Target]:
        targets: list[Target] = []
        for goal in self.comparison.goals:
            contender = goal.contender or self._best(goal.load)
            if contender in self.readings and goal.reference in self.readings:
                what, key = f"{contender} over {goal.reference}, {goal.load}", _key(goal.reference, goal.load)
                targets.append(
                    Target(what=what, contender=_key(contender, goal.load), reference=key, at_least=goal.at_least)
                )
        return targets

    def _limits(self) -> list[Limit]:
        keys = [(_key(ceiling.contender, ceiling.load), ceiling) for ceiling in self.comparison.ceilings]
        return [Limit(what=key, contender=key, at_most=ceiling.at_most) for key, ceiling in keys]

    def _best(self, load: str) -> str:
        """Shoal's contender of the largest median; empty: none was measured."""
        own = [contender.name for contender in self.comparison.contenders if contender.engine == SHOAL]
        measured = [name for name in own if name in self.readings]
        return max(measured, key=lambda name: statistics.median(self._values(name, load)), default="")

    def _values(self, name: str, load: str) -> list[float]:
        return [readings[load].value for readings in self.readings[name]]

    def _reading_table(self) -> list[str]:
        """Every round's number and its circumstances."""
        speed = self.comparison.flops_per_token is not None
        head = ["contender", "load", f"{self.comparison.unit} (median)", "rounds"]
        head += ["PSS, MB", "processes", "PSS over its file", *(["GFLOP/s"] if speed else [])]
        head += ["file read, GB/s"] if self.comparison.is_lone_decode else []
        lines = [_row(head), "|---" * len(head) + "|"]
        for contender in self.comparison.contenders:
            rounds = self.readings.get(contender.name, [])
            for load in rounds[0] if rounds else ():
                cells = self._cells(contender, [readings[load] for readings in rounds])
                lines.append(_row([contender.name, load, *cells]))
        return lines

    def _cells(self, contender: Contender, readings: Sequence[Reading]) -> list[str]:
        """From the median on."""
        size = file_bytes(contender.model)
        value = statistics.median(reading.value for reading in readings)
        middle = sorted(readings, key=lambda reading: reading.memory.pss_bytes)[len(readings) // 2].memory
        cells = [_digits(value), ", ".join(_digits(reading.value) for reading in readings)]
        cells += [f"{middle.pss_bytes / 1e6:.0f}", str(middle.num_processes), f"{middle.pss_bytes / size:.2f}"]
        if self.comparison.flops_per_token is not None:
            computed = statistics.median(reading.computed_tokens_per_s or 0.0 for reading in readings)
            cells.append(f"{computed * self.comparison.flops_per_token / 1e9:.0f}")
        return [*cells, f"{value * size / 1e9:.1f}"] if self.comparison.is_lone_decode else cells


def compare(comparison: Comparison, rounds: int) -> Outcome:
    """Run all rounds. Who fails once is left out from then on."""
    outcome = Outcome(comparison=comparison)
    able = list(comparison.contenders)
    for number in range(1 - comparison.num_warm_ups, rounds + 1):
        for contender in list(able):
            try:
                readings = contender.measure()
            except (Failed, OSError, subprocess.SubprocessError) as error:
                outcome.failures.append(f"{contender.name} failed: {error}")
                print(outcome.failures[-1], file=sys.stderr, flush=True)
                able.remove(contender)
                outcome.readings.pop(contender.name, None)
                continue
            said = ", ".join(f"{load}: {_digits(reading.value)}" for load, reading in readings.items())
            print(f"round {number} of {rounds}: {contender.name}: {said}", file=sys.stderr, flush=True)
            if number > 0:
                outcome.readings.setdefault(contender.name, []).append(readings)
    return outcome


def _key(contender: str, load: str) -> str:
    return f"{contender}, {load}"


def _digits(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
