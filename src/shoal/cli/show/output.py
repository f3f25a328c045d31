"""What the commands print: plan tables, progress bars, one JSON object, one line of error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from shoal.cli.show.plan_rows import brief_split, plan_rows
from shoal.core.plan.language import Plan, PredictedSpeed

_PIPE_WIDTH = 130
"""columns that a table takes where there is no terminal"""
_SILENT_S = 5.0
"""Seconds of silence in a pipe after which a person is told that a plan is still being searched for. A judgment."""


def note(text: str) -> None:
    """A line for the person, on stderr."""
    print(text, file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """A number with its noun, which has an `s` unless there is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def describe_drain(num_open: int, timeout_s: float) -> str:
    """What a person wants to read when a server got a signal and is still there."""
    return f"no new requests; {num_open} open ones may finish within {timeout_s:g} s; another signal ends them now"


def print_json(value: dict[str, Any]) -> None:
    """The one object on stdout."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr if that is a terminal, nothing in a pipe. Yields `update(done, total)`."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task, shown = progress.add_task(what, total=None), (-1, -1)

        def update(done: int, total: int) -> None:
            nonlocal shown
            if shown != (done, total):  # a simulation tells thousands of times a second
                shown = done, total
                progress.update(task, completed=done, total=total)

        yield update


@contextmanager
def measuring(*, quiet: bool = False, way_out: str = "") -> Iterator[Callable[[str], None]]:
    """Yields what is told what is being measured: a spinner on a terminal, a line each in a pipe, nothing if quiet.

    In a pipe, a wait without measurements is explained after some seconds.
    """
    if quiet:
        yield lambda what: None
    elif sys.stderr.isatty():
        with Console(stderr=True).status("planning") as status:
            yield lambda what: status.update(f"measuring this machine with the model, once{way_out}: {what}")
    else:
        has_begun = False
        silence = Timer(_SILENT_S, note, ("still planning; only hundreds of unlike machines take minutes",))
        silence.daemon = True
        silence.start()

        def tell(what: str) -> None:
            nonlocal has_begun
            silence.cancel()
            if not has_begun:
                note(f"measuring this machine with the model; the measurements are kept{way_out}")
            has_begun = True
            note(what)

        try:
            yield tell
        finally:
            silence.cancel()


def print_table(table: Table, *, to_stderr: bool = False) -> None:
    """A table at its full width, also in a pipe. Names are shown as they are: `node[a]` and `:x:` are no markup."""
    terminal = Console(stderr=to_stderr)
    width = terminal.width if terminal.is_terminal else _PIPE_WIDTH
    Console(stderr=to_stderr, width=width, markup=False, emoji=False).print(table)


def print_plan(plan: Plan) -> None:
    """The plan as a small table on stderr, where a large one's alike workers share rows, and what to know about it."""
    split = brief_split(plan.split, plan.num_workers)
    table = Table(title=f"{plan.model}  split {split}  precision {plan.precision}", title_justify="left")
    is_sharded = any(len(stage.shards) > 1 for replica in plan.replicas for stage in replica.stages)
    has_experts = any(shard.part.experts for shard in plan.shards)
    parts = ("KV heads", "MLP columns", *(("experts",) if has_experts else ()), "vocabulary") if is_sharded else ()
    is_mixed = len({stage.precision for replica in plan.replicas for stage in replica.stages}) > 1
    precision = ("precision",) if is_mixed else ()
    for column in ("worker", "layers", *precision, *parts, "threads", "cores", "weights", "KV at most", "process"):
        table.add_column(column, justify="left" if column == "worker" else "right")
    for row in plan_rows(plan):
        table.add_row(
            row.worker,
            row.layers,
            *((row.precision,) if is_mixed else ()),
            *((row.kv_heads, row.columns) if is_sharded else ()),
            *((row.experts,) if has_experts else ()),
            *((row.vocabulary,) if is_sharded else ()),
            *(row.threads, row.cores, row.weights, row.kv, row.process),
        )
    print_table(table, to_stderr=True)
    for line in plan.notes:
        note(line)
    if plan.link_precision != "fp32":
        note(f"hidden states go from machine to machine as {plan.link_precision}")


def compare_speeds(predicted: PredictedSpeed, output_tokens_per_s: float, ttft_s: float, tpot_s: float) -> str:
    """One line: what was predicted beside what was measured."""
    error = predicted.output_tokens_per_s / output_tokens_per_s - 1.0
    return (
        f"predicted {predicted.output_tokens_per_s:.1f} output tokens/s ({error:+.0%}), time to first token "
        f"{predicted.ttft_s:.3f} s (measured {ttft_s:.3f}), time per output token {predicted.tpot_s * 1e3:.1f} ms "
        f"(measured {tpot_s * 1e3:.1f})"
    )
