"""`shoal inspect`: what a model is made of and where it can be cut, from its headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.cli.shared import options
from shoal.cli.shared.checked_command import examples
from shoal.cli.shared.model_kind import is_graph

if TYPE_CHECKING:
    from shoal.core.plan.language import Block
    from shoal.model.decoder_config import DecoderConfig
    from shoal.model.graph.inspect import GraphReport

EXAMPLE = examples("shoal inspect model.onnx")

_MB = 1e6


def inspect(model: options.Model, precision: options.Precision = "auto", json: options.Json = False) -> None:
    """Show a model's blocks, weights, FLOPs and cut points, and what can be sharded. Nothing is computed."""
    if is_graph(model):
        from shoal.model.graph.file.graph_file import open_graph
        from shoal.model.graph.inspect import describe_graph

        _show_graph(model, describe_graph(open_graph(Path(model))), as_json=json)
        return
    from shoal.model.find_model import find_model
    from shoal.model.weights import parse_precision

    found = find_model(model)
    if found.is_graph:
        inspect(str(found.path), precision, json)
        return
    _show_decoder(model, found.config, found.blocks(parse_precision(precision)), as_json=json)


def _show_decoder(model: str, config: DecoderConfig, blocks: Sequence[Block], *, as_json: bool) -> None:
    from shoal.cli.show.output import print_json, print_table

    shards = {
        "kv_head_groups": config.num_head_groups,
        "query_heads_per_group": config.num_heads // config.num_head_groups,
        "mlp_columns": config.intermediate_size,
        "vocabulary_rows": config.vocab_size,
    }
    totals = {
        "weight_bytes": sum(block.weight_bytes for block in blocks),
        "flops_per_token": sum(block.flops_per_token for block in blocks),
        "kv_bytes_per_token": sum(block.kv_bytes_per_token for block in blocks),
        "state_bytes_per_sequence": sum(block.state_bytes for block in blocks),
    }
    if as_json:
        rows = [asdict(block) for block in blocks]
        cuts = config.last_cut
        print_json(
            {"model": model, "family": config.family, **totals, "cut_points": cuts, "shards": shards, "blocks": rows}
        )
        return
    from rich.table import Table

    table = Table(title=f"{model}: {config.family}, {config.max_context} tokens of context", title_justify="left")
    for column in ("block", "weights", "MFLOP per token", "KV bytes per token", "bytes across a cut behind it"):
        table.add_column(column, justify="left" if column == "block" else "right")
    for _, group in groupby(blocks, key=_figures):
        same = list(group)
        name = same[0].name if len(same) == 1 else f"{same[0].name} ... {same[-1].name.removeprefix('layer.')}"
        table.add_row(name, *_figures(same[0]))
    table.add_section()
    table.add_row(
        "all",
        f"{totals['weight_bytes'] / _MB:.1f} MB",
        f"{totals['flops_per_token'] / 1e6:.1f}",
        str(totals["kv_bytes_per_token"]),
        "",
    )
    print_table(table)
    can_be_anywhere = config.last_cut == config.num_layers - 1
    where = "between any two layers" if can_be_anywhere else f"before any layer up to {config.last_cut}"
    print(f"cut points: {config.last_cut}, {where}")
    print(
        f"shards: {shards['kv_head_groups']} KV-head groups of {shards['query_heads_per_group']} query heads, "
        f"{shards['mlp_columns']} MLP columns, {shards['vocabulary_rows']} vocabulary rows"
    )
    if config.recurrence is not None:
        state_bytes = totals["state_bytes_per_sequence"] / _MB
        print(
            f"recurrent layers: {len(config.recurrence.layers)}, "
            f"with {state_bytes:.3f} MB of state a sequence or snapshot"
        )


def _figures(block: Block) -> tuple[str, str, str, str]:
    return (
        f"{block.weight_bytes / _MB:.1f} MB",
        f"{block.flops_per_token / 1e6:.1f}",
        str(block.kv_bytes_per_token),
        str(block.output_bytes_per_token),
    )


def _show_graph(model: str, report: GraphReport, *, as_json: bool) -> None:
    from rich.table import Table

    from shoal.cli.show.graph_output import describe, describe_split
    from shoal.cli.show.output import print_json, print_table

    if as_json:
        print_json({"model": model, **asdict(report)})
        return
    opsets = ", ".join(f"{domain} {version}" for domain, version in report.opsets.items())
    table = Table(title=f"{model}: operator sets {opsets}", title_justify="left", show_header=False)
    unsized = f" (without {report.num_unsized} of unknown shape)" if report.num_unsized else ""
    rows = {
        "inputs": "\n".join(map(describe, report.inputs)),
        "outputs": "\n".join(map(describe, report.outputs)),
        "nodes": str(report.num_nodes),
        "operators": ", ".join(f"{name} {count}" for name, count in report.operators.items()),
        "parameters": f"{report.num_parameters:,}",
        "weights": f"{report.weight_bytes / _MB:.1f} MB",
        "arithmetic": f"{report.flops / 1e6:.1f} MFLOP a run, open dimensions counted as 1{unsized}",
        "shards": f"tp=2 {describe_split(report.two_shards)}",
        "cut points": f"{report.num_cuts}: at most pp={report.num_cuts + 1}",
        "narrowest": "\n".join(
            f"before node {cut.node}: {', '.join(map(describe, cut.tensors)) or 'nothing crosses'}"
            for cut in report.narrowest_cuts
        ),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    print_table(table)
