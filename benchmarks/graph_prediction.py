"""What the planner predicts for ONNX graphs, and what then happens: `python benchmarks/graph_prediction.py`.

Every split of two cores (one worker with two threads; two copies, two stages, two shards with one thread each) of
real models: predicted by measuring anew, as `shoal plan --refresh` does, then run: micro-batches as a stream, results
dropped as they come. Runs of all splits take turns.

ROUNDS=3 sets the number of rounds, SECONDS=2 about how long each run takes.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from real_inputs import detector_rows, export_minilm, ocr_detector, ocr_recognizer, recognizer_rows, sentence_rows
from report import write_result

import shoal
from shoal.cluster.graph_planning import plan_graph
from shoal.config import GraphLaunchConfig, PlanningConfig
from shoal.planner.graph_choice.candidate import GraphCandidate

_MEDIAN_ERROR, _WORST_ERROR = 0.10, 0.25
"""Targets."""
_TIE = 0.05
"""Splits whose measured speeds are closer than this have no order."""
_SIDE = 320
"""Pixels of a page's sides."""

Rows = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and the micro-batch that it is given."""

    name: str
    path: Path
    micro_batch: Rows

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.micro_batch.values())))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One split of one case."""

    split: str
    predicted: float
    """rows/s"""
    measured: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1.0


def main() -> None:
    """Predict, measure, print and write the result file."""
    rounds, seconds = int(os.environ.get("ROUNDS", "3")), float(os.environ.get("SECONDS", "2"))
    lines: list[str] = []
    errors: list[float] = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for case in _cases(Path(name)):
            candidates, planning_s = _predict(case)
            outcomes = _measure(case, candidates, rounds, seconds)
            errors += [abs(one.error) for one in outcomes]
            wrong += _misplaced(case, outcomes)
            lines += [*_table(case, outcomes), "", f"Measuring and planning took {planning_s:.1f} s.", ""]
    text = [
        f"Rows/s, medians of {rounds} rounds. Errors: median {statistics.median(errors):.1%} (target "
        f"{_MEDIAN_ERROR:.0%}), worst {max(errors):.1%} (target {_WORST_ERROR:.0%}), over {len(errors)} plans.",
        f"Order of the splits of a model, where more than {_TIE:.0%} lie between them: "
        f"{'right' if not wrong else 'wrong for ' + '; '.join(wrong)}.",
        "",
        *lines,
    ]
    print("\n".join(text))
    command = f"ROUNDS={rounds} SECONDS={seconds:g} python benchmarks/graph_prediction.py"
    print(write_result("graph-prediction", text, command=command))


def _cases(folder: Path) -> list[Case]:
    minilm = export_minilm(folder)
    return [
        Case(name="MiniLM, 1 x 32 tokens", path=minilm, micro_batch=sentence_rows(1, 32)),
        Case(name="MiniLM, 8 x 32 tokens", path=minilm, micro_batch=sentence_rows(8, 32)),
        Case(name="OCR recognizer, 1 line", path=ocr_recognizer(), micro_batch={"x": recognizer_rows(1)}),
        Case(name="OCR detector, 1 page", path=ocr_detector(), micro_batch={"x": detector_rows(1, _SIDE)}),
    ]


def _predict(case: Case) -> tuple[list[GraphCandidate], float]:
    """Every split that there is, and how long that took."""
    planning = PlanningConfig(objective="throughput", refresh=True)
    config = GraphLaunchConfig(model=str(case.path), split="auto", planning=planning, micro_batch=case.num_rows)
    started_s = time.perf_counter()
    auto = plan_graph(config, case.micro_batch).auto
    assert auto is not None
    found = [one.candidate for one in auto.choice.alternatives if one.candidate is not None]
    return found, time.perf_counter() - started_s


def _measure(case: Case, candidates: Sequence[GraphCandidate], rounds: int, seconds: float) -> list[Outcome]:
    rates: dict[str, list[float]] = {}
    with ExitStack() as models:
        loaded = {
            str(one.spec): models.enter_context(
                shoal.load(case.path, split=str(one.spec), threads=one.threads, example_inputs=dict(case.micro_batch))
            )
            for one in candidates
        }
        for round_number in range(rounds + 1):
            for one in candidates:
                count = max(8, round(seconds * one.prediction.rows_per_s / case.num_rows))
                rate = _stream(loaded[str(one.spec)], case, count)
                if round_number:  # the first run of a shape plans its memory
                    rates.setdefault(str(one.spec), []).append(rate)
    return [
        Outcome(
            split=str(one.spec),
            predicted=one.prediction.rows_per_s,
            measured=statistics.median(rates[str(one.spec)]),
        )
        for one in candidates
    ]


def _stream(model: shoal.Model, case: Case, count: int) -> float:
    started_s = time.perf_counter()
    for _ in model.stream(case.micro_batch for _ in range(count)):
        pass
    return count * case.num_rows / (time.perf_counter() - started_s)


def _table(case: Case, outcomes: Sequence[Outcome]) -> list[str]:
    rows = [
        f"| {one.split} | {one.predicted:.1f} | {one.measured:.1f} | {one.error:+.1%} |"
        for one in sorted(outcomes, key=lambda one: -one.measured)
    ]
    return [f"| {case.name} | predicted | measured | error |", "|---|---|---|---|", *rows]


def _misplaced(case: Case, outcomes: Sequence[Outcome]) -> list[str]:
    """Pairs that were predicted the wrong way round."""
    return [
        f"{case.name} {one.split} and {other.split}"
        for one, other in combinations(outcomes, 2)
        if abs(one.measured / other.measured - 1.0) > _TIE
        and (one.measured > other.measured) != (one.predicted > other.predicted)
    ]


if __name__ == "__main__":
    main()
