"""What the commands print: plan tables, progress bars, one JSON object, one line of error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from shoal.core.plan import Plan, ShardPlan, StagePlan

_MB = 1e6


def note(text: str) -> None:
    """A line for the person, on stderr."""
    print(text, file=sys.stderr, flush=True)


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
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def print_plan(plan: Plan) -> None:
    """The plan as a small table on stderr, and what is worth knowing about it."""
    table = Table(title=f"{plan.model}  split {plan.split}  precision {plan.precision}", title_justify="left")
    is_sharded = any(len(stage.shards) > 1 for replica in plan.replicas for stage in replica.stages)
    parts = ("KV heads", "MLP columns", "vocabulary") if is_sharded else ()
    for column in ("worker", "layers", *parts, "threads", "cores", "weights", "KV cache"):
        table.add_column(column, justify="left" if column == "worker" else "right")
    for name, stage, shard in _workers(plan):
        part = shard.part
        table.add_row(
            name,
            _span(stage.first_layer, stage.last_layer),
            *(_span(*span) for span in (part.kv_heads, part.columns, part.vocabulary) if is_sharded),
            str(shard.threads),
            ",".join(map(str, shard.cores)) or "any",
            f"{shard.weight_bytes / _MB:.0f} MB",
            f"{shard.kv_bytes / _MB:.0f} MB",
        )
    Console(stderr=True).print(table)
    for line in plan.notes:
        note(line)


def plan_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    return {
        "split": plan.split,
        "precision": plan.precision,
        "max_context": plan.max_context,
        "max_seqs": plan.max_seqs,
        "notes": list(plan.notes),
        "workers": [
            {
                "replica": r,
                "stage": s,
                "shard": rank,
                "first_layer": stage.first_layer,
                "last_layer": stage.last_layer,
                "kv_heads": list(shard.part.kv_heads),
                "columns": list(shard.part.columns),
                "vocabulary": list(shard.part.vocabulary),
                "threads": shard.threads,
                "cores": list(shard.cores),
                "weight_bytes": shard.weight_bytes,
                "kv_bytes": shard.kv_bytes,
            }
            for r, replica in enumerate(plan.replicas)
            for s, stage in enumerate(replica.stages)
            for rank, shard in enumerate(stage.shards)
        ],
    }


def _workers(plan: Plan) -> Iterator[tuple[str, StagePlan, ShardPlan]]:
    """Every worker with its name."""
    for r, replica in enumerate(plan.replicas):
        for s, stage in enumerate(replica.stages):
            for rank, shard in enumerate(stage.shards):
                yield f"replica {r} stage {s}" + (f" shard {rank}" if len(stage.shards) > 1 else ""), stage, shard


def _span(first: int, last: int) -> str:
    """A [first, last) range as a person counts."""
    return f"{first}-{last - 1}" if last > first else "none"
