"""Whole experts over two unequal workers of one core: the second has half of its core and a third of the memory.

`python benchmarks/unequal_experts.py`; `--rounds 3` is the default. Random weights in Qwen3-MoE's shape scaled to 3 B
at 4 bits (`random_models.py`), 8 of 128 experts a token. *Planned* gives the workers what they can hold and do: three
quarters of the experts and two thirds of everything else to the first. Beside it the even splits, as if there were
memory for them, and columns of every expert in the same shares. Decode is counted without the prompt, 64 tokens after
8, at one stream and at eight.

Beside that, on two whole cores: the experts over both workers against one worker with everything.

A second model has experts that are chosen more often than others, and they begin on the slow worker: what `--replan`
makes of that, the speed before against the speed after. Needs root, for control groups.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from random_models import random_model
from ratios import Target, measure_rounds, ratio_table, sample_table
from report import write_result

from shoal.bench.throughput import measure_throughput
from shoal.config import LaunchConfig
from shoal.core.plan.language import Plan
from shoal.executor.process.cpu_quota import why_not
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import LoadedModel, launch

_PLANNED, _EVEN, _COLUMNS, _EVEN_COLUMNS = "tp=2:1,ep=3:1", "ep=2", "tp=3:1", "tp=2"
_HELD_SHARE = 0.5
_PROMPT_TOKENS, _OUTPUT_TOKENS = 8, 64
_STREAMS = (1, 8)
_REPLAN_S = 300.0


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, metavar="FILE", help="what random_models.py wrote (default: cached)")
    parser.add_argument("--hot-model", type=Path, metavar="FILE", help="the same with hot experts")
    parser.add_argument("--wait", type=float, default=_REPLAN_S, metavar="S", help="the longest to wait for a replan")
    given = parser.parse_args()
    if reason := why_not():
        raise SystemExit(f"no worker can be held to a part of a core here: {reason}")
    model = str(given.model or random_model("qwen3-moe-3b-q4_0"))
    hot_model = str(given.hot_model or random_model("qwen3-moe-3b-hot-q4_0"))
    samples = measure_rounds(_contenders(model), given.rounds, "tokens/s")
    moves = [_replan(hot_model, given.wait) for _ in range(given.rounds)]
    lines = [*ratio_table(samples, [*_targets()]), "", *sample_table(samples, "tokens/s", 1), "", *_move_table(moves)]
    print("\n".join(lines))
    print(
        write_result("unequal-experts", lines, command=f"python benchmarks/unequal_experts.py --rounds {given.rounds}")
    )


def _targets() -> Iterator[Target]:
    yield Target(
        what="1 stream, ep=2 on whole cores vs one worker",
        contender="ep=2 free, 1",
        reference="1 free, 1",
        at_least=1.6,
    )
    for streams in _STREAMS:
        at_least = 1.3 if streams == 1 else None
        for reference in (_EVEN, _EVEN_COLUMNS, _COLUMNS):
            yield Target(
                what=f"{streams} streams, planned experts ({_PLANNED}) vs {reference}",
                contender=f"{_PLANNED}, {streams}",
                reference=f"{reference}, {streams}",
                at_least=at_least if reference == _EVEN else None,
            )


def _contenders(model: str) -> dict[str, Callable[[], float]]:
    def contender(split: str, streams: int, *, is_held: bool = True) -> Callable[[], float]:
        def measure() -> float:
            with _launched(model, split, streams, is_held=is_held) as loaded:
                return _decode(loaded, streams)

        return measure

    splits = (_PLANNED, _EVEN, _COLUMNS, _EVEN_COLUMNS)
    free = {f"{split} free, 1": contender(split, 1, is_held=False) for split in ("1", _EVEN)}
    return free | {f"{split}, {streams}": contender(split, streams) for streams in _STREAMS for split in splits}


def _replan(model: str, wait_s: float) -> tuple[float, float, float]:
    """Tokens/s of eight streams before experts were moved and after, and seconds of load until they were."""
    streams = _STREAMS[-1]
    with _launched(model, _PLANNED, streams, replans=True) as loaded:
        started_s, before = time.monotonic(), loaded.running_plan
        first = _decode(loaded, streams)
        while loaded.running_plan == before and time.monotonic() - started_s < wait_s:
            _decode(loaded, streams)
        took_s = time.monotonic() - started_s
        return first, _decode(loaded, streams), took_s


def _move_table(moves: list[tuple[float, float, float]]) -> list[str]:
    return [
        "| hot experts, 8 streams | before, tokens/s | after | ratio | s of load until moved |",
        "|---|---|---|---|---|",
        *(
            f"| round {index + 1} | {before:.1f} | {after:.1f} | {after / before:.2f} | {took_s:.0f} |"
            for index, (before, after, took_s) in enumerate(moves)
        ),
    ]


@contextmanager
def _launched(
    model: str, split: str, streams: int, *, replans: bool = False, is_held: bool = True
) -> Iterator[LoadedModel]:
    """Workers of one thread. `is_held`: the last has half of its core."""
    config = LaunchConfig(
        model=model,
        split=split,
        threads=1,
        max_seqs=streams,
        max_context=_PROMPT_TOKENS + _OUTPUT_TOKENS + 1,
        replans=replans,
    )
    planned = plan_model(config)
    with launch(replace(planned, plan=_last_held(planned.plan)) if is_held else planned) as loaded:
        yield loaded


def _last_held(plan: Plan) -> Plan:
    (replica,) = plan.replicas
    (stage,) = replica.stages
    shards = (*stage.shards[:-1], replace(stage.shards[-1], cpu_quota=_HELD_SHARE))
    return replace(plan, replicas=(replace(replica, stages=(replace(stage, shards=shards),)),))


def _decode(loaded: LoadedModel, streams: int) -> float:
    """Output tokens/s of all streams, without their prompts."""
    result = measure_throughput(
        loaded.engine,
        vocab_size=loaded.decoder.vocab_size,
        concurrency=streams,
        num_prompts=3 * streams,
        prompt_tokens=_PROMPT_TOKENS,
        output_tokens=_OUTPUT_TOKENS,
    )
    return streams / result.tpot_s


if __name__ == "__main__":
    main()
