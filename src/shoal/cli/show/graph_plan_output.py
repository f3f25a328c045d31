"""What is printed of a chosen plan for an ONNX graph: two lines, the table of every kind, one JSON object."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from shoal.cli.show.output import counted, note, print_table
from shoal.core.plan.graph import PredictedRows
from shoal.launch.graph.auto_plan import GraphAutoPlan
from shoal.planner.choice.compare import Alternative
from shoal.planner.files.plan_data import graph_plan_dict
from shoal.planner.graph_choice.choice import GraphChoice, GraphSplit
from shoal.planner.graph_choice.device_choose import GraphDeviceOption
from shoal.planner.graph_choice.fleet_candidate import FleetCandidate

_MB = 1e6


def print_graph_choice(auto: GraphAutoPlan[GraphSplit]) -> None:
    """What was chosen, what is expected of it, and how much better anything could be."""
    best, choice, predicted = auto.choice.best, auto.choice, auto.choice.best.prediction
    note(
        f"{best.kind}: {predicted.rows_per_s:.1f} rows/s with {counted(auto.rows, 'row')} at once, "
        f"{predicted.latency_s * 1e3:.1f} ms for those alone (predicted); it waits for {predicted.bottleneck}"
    )
    note(
        f"no split of these workers exceeds {choice.bound_rows_per_s:.1f} rows/s by the same measurements "
        f"(gap {choice.gap:.1%}); planned in {auto.planning_s:.2f} s"
    )


def print_graph_explanation(auto: GraphAutoPlan[GraphSplit]) -> None:
    """The best split of every kind beside the chosen one."""
    table = Table(title=f"best of each kind, by {auto.goal.objective}", title_justify="left")
    for column in ("kind", "split", "rows/s", "rows alone", "rows in a full pipeline", "largest worker", ""):
        table.add_column(column, justify="left" if column in ("kind", "split", "") else "right")
    for alternative in auto.choice.alternatives:
        table.add_row(alternative.kind, *_cells(alternative.candidate), alternative.reason or "chosen")
    print_table(table, to_stderr=True)
    if auto.devices:
        _print_devices(auto)
    for line in auto.notes:
        note(line)


def _print_devices(auto: GraphAutoPlan[GraphSplit]) -> None:
    """The ways to use the devices of the machine beside the chosen one."""
    table = Table(title=f"with and without devices, by {auto.goal.objective}", title_justify="left")
    for column in ("workers", "split", "rows/s", "rows alone", ""):
        table.add_column(column, justify="right" if column.startswith("rows") else "left")
    for option in auto.devices:
        best = None if option.choice is None else option.choice.best
        table.add_row(option.what, *_cells(best)[:3], option.reason or "chosen")
    print_table(table, to_stderr=True)


def graph_choice_dict(auto: GraphAutoPlan[GraphSplit]) -> dict[str, Any]:
    """The choice as plain data."""
    return {
        "plan": graph_plan_dict(auto.plan),
        "objective": auto.goal.objective,
        "rows": auto.rows,
        **_chosen(auto.choice),
        "devices": [_device_option(one) for one in auto.devices],
        "notes": list(auto.notes),
        "planning_s": auto.planning_s,
    }


def graph_answer_dict(choice: GraphChoice[FleetCandidate]) -> dict[str, Any]:
    """What would be chosen for other machines, as plain data."""
    best = choice.best
    used = {index for replica in best.replicas for stage in replica for index in stage.group.members}
    names = ", ".join(best.fleet.classes[index].name for index in sorted(used))
    return {"split": f"{best.split} on {names}", **_chosen(choice)}


def _chosen(choice: GraphChoice[GraphSplit]) -> dict[str, Any]:
    return {
        "kind": choice.best.kind,
        "predicted": _predicted(choice.best),
        "bound_rows_per_s": choice.bound_rows_per_s,
        "gap": choice.gap,
        "alternatives": [_alternative(one) for one in choice.alternatives if one.candidate is not choice.best],
    }


def predicted_dict(predicted: PredictedRows | None) -> dict[str, float] | None:
    """What a plan was expected to reach; None where nothing was predicted."""
    return predicted and {"rows_per_s": predicted.rows_per_s, "latency_s": predicted.latency_s}


def describe_error(predicted: PredictedRows | None, rows_per_s: float) -> str:
    """The prediction beside what was measured, to stand behind it; empty where there is none."""
    if predicted is None or rows_per_s <= 0:
        return ""
    return f", predicted {predicted.rows_per_s:.1f} ({predicted.rows_per_s / rows_per_s - 1.0:+.0%})"


def _alternative(alternative: Alternative[GraphSplit]) -> dict[str, Any]:
    found = {"kind": alternative.kind, "rejected": alternative.reason}
    if alternative.candidate is None:
        return found
    return found | {"split": alternative.candidate.split, "predicted": _predicted(alternative.candidate)}


def _device_option(option: GraphDeviceOption) -> dict[str, Any]:
    best = None if option.choice is None else option.choice.best
    found = {"workers": option.what, "rejected": option.reason}
    return found if best is None else found | {"split": best.split, "predicted": _predicted(best)}


def _predicted(candidate: GraphSplit) -> dict[str, Any]:
    predicted = candidate.prediction
    return {
        "rows_per_s": predicted.rows_per_s,
        "latency_s": predicted.latency_s,
        "loaded_latency_s": predicted.loaded_latency_s,
        "memory_bytes": list(predicted.memory_bytes),
        "bottleneck": predicted.bottleneck,
    }


def _cells(candidate: GraphSplit | None) -> tuple[str, ...]:
    if candidate is None:
        return ("",) * 5
    predicted = candidate.prediction
    return (
        candidate.split,
        f"{predicted.rows_per_s:.1f}",
        f"{predicted.latency_s * 1e3:.2f} ms",
        f"{predicted.loaded_latency_s * 1e3:.2f} ms",
        f"{max(predicted.memory_bytes) / _MB:.1f} MB",
    )
