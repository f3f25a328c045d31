"""What `shoal plan` prints: the choice in two lines, the table of every kind, one JSON object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from shoal.cli.show.links import links_between
from shoal.cli.show.output import counted, note, print_table
from shoal.planner.files.plan_data import plan_dict

if TYPE_CHECKING:  # what a split said by hand does without
    from shoal.launch.language.auto_plan import AutoPlan, Chosen
    from shoal.planner.choice.candidate import Candidate, ChosenStage
    from shoal.planner.choice.choose import PlanChoice
    from shoal.planner.choice.compare import Alternative
    from shoal.planner.device_options import DeviceOption
    from shoal.planner.speeds.figures import Figures

_MB = 1e6


def print_choice(auto: AutoPlan) -> None:
    """What was chosen, what is expected of it, and how much better anything could be."""
    best, workload, choice = auto.choice.best, auto.workload, auto.choice
    predicted = best.prediction
    clips_per_s = predicted.output_tokens_per_s / workload.output_tokens
    clips = f"{clips_per_s:.2f} clips/s, " if workload.hypotheses > 1 else ""
    note(
        f"{best.kind}: {clips}{predicted.output_tokens_per_s:.1f} tokens/s with {counted(workload.streams, 'stream')} "
        f"of {workload.prompt_tokens} + {workload.output_tokens} tokens, first token after {predicted.ttft_s:.3f} s, "
        f"then one every {predicted.tpot_s * 1e3:.1f} ms (predicted); it waits for {predicted.bottleneck}"
    )
    note(
        f"no plan for these workers exceeds {choice.bound_tokens_per_s:.1f} tokens/s by the same measurements "
        f"(gap {choice.gap:.1%}); planned in {auto.planning_s:.2f} s"
    )


def note_figures(figures: Figures, model: str) -> None:
    """Why what was measured may be wrong, and what to do about it; nothing where it may not."""
    if figures.is_rough:
        note(
            f"these predictions come from a quick look at this machine; `shoal plan {model}` measures it "
            "thoroughly, once, for later runs"
        )
    if figures.is_disturbed:
        note(
            f"warning: other processes took {figures.others_share:.0%} of the processor while this machine "
            f"was measured, so the measurements may be wrong; `shoal plan {model} --refresh` measures again"
        )


def print_explanation(auto: AutoPlan) -> None:
    """The best plan of every kind beside the chosen one."""
    table = Table(title=f"the best of each kind; chosen by {auto.goal.objective}", title_justify="left")
    for column in ("kind", "split", "tokens/s", "first token", "per token", "alone", "largest", ""):
        table.add_column(column, justify="left" if column in ("kind", "split", "") else "right")
    for alternative in auto.choice.alternatives:
        table.add_row(alternative.kind, *_cells(alternative.candidate), alternative.reason or "chosen")
    print_table(table, to_stderr=True)
    note("alone: a request's time while it is the only one; largest: memory of the worker that needs the most")
    if auto.devices:
        _print_devices(auto)


def _print_devices(auto: AutoPlan) -> None:
    """The ways to use the devices of the machine beside the chosen one."""
    table = Table(title=f"with and without devices; chosen by {auto.goal.objective}", title_justify="left")
    for column in ("workers", "split", "tokens/s", "first token", "per token", "alone", ""):
        table.add_column(column, justify="left" if column in ("workers", "split", "") else "right")
    for option in auto.devices:
        best = None if option.choice is None else option.choice.choice.best
        table.add_row(option.what, *_cells(best)[:5], option.reason or "chosen")
    print_table(table, to_stderr=True)


def choice_dict(auto: AutoPlan) -> dict[str, Any]:
    """The choice as plain data."""
    return {
        "plan": plan_dict(auto.plan),
        **chosen_dict(auto.choice),
        "objective": auto.goal.objective,
        "planning_s": auto.planning_s,
        "figures": asdict(auto.figures),
        "links": links_between(auto.placed.fleet, auto.placed.places),
        "devices": [_device_option(one) for one in auto.devices],
    }


def chosen_dict(choice: PlanChoice) -> dict[str, Any]:
    """What was chosen, and from what, as plain data."""
    return {
        "kind": choice.best.kind,
        "split": describe_candidate(choice.best),
        "predicted": _predicted(choice.best),
        "bound_tokens_per_s": choice.bound_tokens_per_s,
        "gap": choice.gap,
        "alternatives": [_alternative(one) for one in choice.alternatives if one.candidate is not choice.best],
    }


def _device_option(option: DeviceOption[Chosen]) -> dict[str, Any]:
    found = {"workers": option.what, "rejected": option.reason}
    if option.choice is None:
        return found
    best = option.choice.choice.best
    return found | {"split": describe_candidate(best), "predicted": _predicted(best)}


def _alternative(alternative: Alternative[Candidate]) -> dict[str, Any]:
    found = {"kind": alternative.kind, "rejected": alternative.reason}
    if alternative.candidate is None:
        return found
    return found | {"split": describe_candidate(alternative.candidate), "predicted": _predicted(alternative.candidate)}


def _predicted(candidate: Candidate) -> dict[str, Any]:
    predicted = candidate.prediction
    return {
        "output_tokens_per_s": predicted.output_tokens_per_s,
        "ttft_s": predicted.ttft_s,
        "tpot_s": predicted.tpot_s,
        "lone_request_s": candidate.lone_request_s,
        "memory_bytes": list(predicted.memory_bytes),
        "bottleneck": predicted.bottleneck,
    }


def _cells(candidate: Candidate | None) -> tuple[str, ...]:
    if candidate is None:
        return ("",) * 6
    predicted = candidate.prediction
    return (
        describe_candidate(candidate),
        f"{predicted.output_tokens_per_s:.1f}",
        f"{predicted.ttft_s:.3f} s",
        f"{predicted.tpot_s * 1e3:.1f} ms",
        f"{candidate.lone_request_s:.2f} s",
        f"{max(predicted.memory_bytes) / _MB:.0f} MB",
    )


def describe_candidate(candidate: Candidate) -> str:
    """The split, and the workers by class."""
    texts = [_describe_replica(replica) for replica in candidate.replicas]
    split = " + ".join(dict.fromkeys(texts))
    if len(texts) > 1:
        split = f"dp={len(texts)}" if split == "1" else f"dp={len(texts)},{split}"
    names = [
        candidate.fleet.classes[index].name
        for replica in candidate.replicas
        for stage in replica
        for index in stage.group.members
    ]
    workers = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in Counter(names).items())
    return f"{split} on {workers}"


def _describe_replica(replica: Sequence[ChosenStage]) -> str:
    layers = ":".join(str(stage.last_layer - stage.first_layer) for stage in replica)
    parts = [f"pp={layers}"] if len(replica) > 1 else []
    shards = dict.fromkeys(_describe_group(stage) for stage in replica)
    parts += ["|".join(shards)] if any(stage.shares for stage in replica) else []
    return ",".join(parts) or "1"


def _describe_group(stage: ChosenStage) -> str:
    if stage.shares is None:
        return "1"
    return f"{'ep' if stage.group.deals_experts else 'tp'}={':'.join(map(str, stage.shares.columns))}"
