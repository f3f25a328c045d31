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

from shoal.core.plan import Plan

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
    """The plan as a small table on stderr."""
    table = Table(title=f"{plan.model}  split {plan.split}  precision {plan.precision}", title_justify="left")
    for column in ("worker", "layers", "threads", "cores", "weights", "KV cache"):
        table.add_column(column, justify="left" if column == "worker" else "right")
    for r, replica in enumerate(plan.replicas):
        for s, stage in enumerate(replica.stages):
            table.add_row(
                f"replica {r} stage {s}",
                f"{stage.first_layer}-{stage.last_layer - 1}",
                str(stage.threads),
                ",".join(map(str, stage.cores)) or "any",
                f"{stage.weight_bytes / _MB:.0f} MB",
                f"{stage.kv_bytes / _MB:.0f} MB",
            )
    Console(stderr=True).print(table)


def plan_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    return {
        "split": plan.split,
        "precision": plan.precision,
        "max_context": plan.max_context,
        "max_seqs": plan.max_seqs,
        "workers": [
            {
                "replica": r,
                "stage": s,
                "first_layer": stage.first_layer,
                "last_layer": stage.last_layer,
                "threads": stage.threads,
                "cores": list(stage.cores),
                "weight_bytes": stage.weight_bytes,
                "kv_bytes": stage.kv_bytes,
            }
            for r, replica in enumerate(plan.replicas)
            for s, stage in enumerate(replica.stages)
        ],
    }
