"""What the planner predicts for ONNX graphs, and what then happens: `python benchmarks/graph_prediction.py`.

Every split of two cores (one worker with two threads; two copies, two stages, two shards with one thread each) of
real models: predicted by measuring anew, as `shoal plan --refresh` does, then run: micro-batches as a stream, results
dropped as they come. A round predicts and then runs every split, so that an error compares the same half minute.

ROUNDS=3 sets the number of rounds, SECONDS=1 about how long each run takes.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from real_inputs import detector_rows, export_minilm, ocr_detector, ocr_recognizer, recognizer_rows, sentence_rows
from report import write_result

import shoal
from shoal.config import GraphLaunchConfig, PlanningConfig
from shoal.launch.graph.planning import plan_graph
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
    error: float
    """median over the rounds"""


def main() -> None:
    """Predict, measure, print and write the result file."""
    rounds, seconds = int(os.environ.get("ROUNDS", "3")), float(os.environ.get("SECONDS", "1"))
    lines: list[str] = []
    errors: list[float] = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        for case in _cases(Path(name)):
            outcomes = _measure(case, rounds, seconds)
            errors += [abs(one.error) for one in outcomes]
            wrong += _misplaced(case, outcomes)
            lines += [*_table(case, outcomes), ""]
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
    return [
        Case(name="MiniLM, 1 x 32 tokens", path=export_minilm(folder), micro_batch=sentence_rows(1, 32)),
        Case(name="OCR recognizer, 1 line", path=ocr_recognizer(), micro_batch={"x": recognizer_rows(1)}),
        Case(name="OCR detector, 1 page", path=ocr_detector(), micro_batch={"x": detector_rows(1, _SIDE)}),
    ]


def _predict(case: Case) -> dict[str, GraphCandidate]:
    """Every split that there is, measured anew."""
    planning = PlanningConfig(objective="throughput", refresh=True)
    config = GraphLaunchConfig(model=str(case.path), split="auto", planning=planning, micro_batch=case.num_rows)
    auto = plan_graph(config, case.micro_batch).auto
    assert auto is not None
    found = [one.candidate for one in auto.choice.alternatives if isinstance(one.candidate, GraphCandidate)]
    return {str(one.spec): one for one in found}


def _measure(case: Case, rounds: int, seconds: float) -> list[Outcome]:
    predicted: dict[str, list[float]] = defaultdict(list)
    measured: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for split, candidate in _predict(case).items():
            per_s = candidate.prediction.rows_per_s
            count = max(8, round(seconds * per_s / case.num_rows))
            given = dict(case.micro_batch)
            with shoal.load(case.path, split=split, threads=candidate.threads, example_inputs=given) as model:
                _stream(model, case, count // 4)  # the first run of a shape plans its memory
                measured[split].append(_stream(model, case, count))
            predicted[split].append(per_s)
            print(f"{case.name} {split}: {per_s:.1f}, {measured[split][-1]:.1f} rows/s", file=sys.stderr, flush=True)
    return [_outcome(split, predicted[split], measured[split]) for split in predicted]


def _outcome(split: str, predicted: Sequence[float], measured: Sequence[float]) -> Outcome:
    errors = [one / other - 1.0 for one, other in zip(predicted, measured, strict=True)]
    return Outcome(
        split=split,
        predicted=statistics.median(predicted),
        measured=statistics.median(measured),
        error=statistics.median(errors),
    )


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
