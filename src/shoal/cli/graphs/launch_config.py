"""What the command line says of an ONNX graph, as the configuration that loads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import typer

from shoal.api.options import devices_config
from shoal.cli.shared import option_values
from shoal.config import GraphLaunchConfig, PlanningConfig
from shoal.errors import ConfigError

_NONE = "none"


def graph_config(
    context: typer.Context, model: str, *, objective: str | None = None, in_process: bool = True
) -> GraphLaunchConfig:
    """The configuration for the options that a command has.

    Args:
        context: of the command.
        model: as the user named it.
        objective: that a command without such an option plans for.
        in_process: see `GraphLaunchConfig`.

    Raises:
        ConfigError: an option's value makes no sense, or two options contradict each other.
    """
    said = context.params
    batch = parse_batch_dims(said.get("batch_dim"))
    return GraphLaunchConfig(
        model=model,
        split=said.get("split", "auto"),
        plan_file=option_values.given_plan(context, said.get("plan")),
        planning=PlanningConfig(
            objective=objective or said.get("objective", "balanced"),
            latency_slo_s=said.get("latency_slo"),
            cluster=option_values.text(said.get("cluster")),
            refresh=said.get("refresh", False),
        ),
        devices=devices_config(said),
        threads=said.get("threads"),
        batch_dims=batch.dims,
        is_batched=batch.is_batched,
        micro_batch=said.get("micro_batch"),
        in_process=in_process,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDims:
    """What `--batch-dim` says."""

    dims: Mapping[str, int | None]
    """axis by the name of an input or output; None: an input without rows"""
    is_batched: bool
    """whether there is a batch at all"""


def parse_batch_dims(items: Sequence[str] | None) -> BatchDims:
    """`--batch-dim NAME=AXIS`, `NAME=none` or `none`, repeated. Raises ConfigError."""
    axes: dict[str, int | None] = {}
    for item in items or ():
        name, _, axis = item.rpartition("=")
        if item == _NONE:
            continue
        if not name or not (axis == _NONE or axis.removeprefix("-").isdecimal()):
            raise ConfigError(f"--batch-dim {item}: give NAME=AXIS, such as state=1, NAME=none, or none")
        axes[name] = None if axis == _NONE else int(axis)
    is_batched = _NONE not in (items or ())
    if axes and not is_batched:
        raise ConfigError("--batch-dim none says that there is no batch: leave out the others")
    return BatchDims(dims=axes, is_batched=is_batched)
