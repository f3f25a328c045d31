"""Options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LANGUAGE = "Language models"
GRAPH = "ONNX graphs"
SPEECH = "Speech"
DEVICES = "Devices"
PLANNING = "Planning (--split auto)"

DEVICE_OPTIONS = ("device", "provider_option", "device_memory", "device_precision", "worker_python")
"""Names of the options that say what workers compute on."""

LanguageModel = Annotated[
    str,
    typer.Argument(help="A .gguf file, a Hugging Face directory, hf:org/name, or pkg:NAME (a model inside a package)."),
]
Model = Annotated[
    str,
    typer.Argument(
        help="An .onnx file; or a language model: a .gguf file, a Hugging Face directory, hf:org/name, or pkg:NAME "
        "(a model inside a package)."
    ),
]
ServedAs = Annotated[
    str,
    typer.Option(
        "--as",
        help="What an ONNX graph with past keys and values is: auto (a language model, where its settings and its "
        "tokenizer lie beside it), or graph (plain tensors).",
        metavar="auto|graph",
        autocompletion=lambda: ["auto", "graph"],
    ),
]
Split = Annotated[
    str,
    typer.Option(
        help="How to split: auto (measure and choose), 1, tp=2, pp=2, dp=2, or several as in dp=2,tp=2; tp=3:1 gives "
        "shares of every layer, ep=3:1 deals whole experts out to shards, pp=10:20 layers per stage (of an ONNX graph: "
        "shares of the time).",
        metavar="SPEC",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help="Precision of the weights: auto keeps that of a quantized file; or fp32, int8, int4.",
        metavar="P",
        rich_help_panel=LANGUAGE,
    ),
]
Activations = Annotated[
    str,
    typer.Option(
        help="Precision of activations beside quantized weights: int8, or exact (15 bits, slower; keys and values "
        "stay fp32).",
        metavar="int8|exact",
        rich_help_panel=LANGUAGE,
        autocompletion=lambda: ["int8", "exact"],
    ),
]
NoWeightCache = Annotated[
    bool,
    typer.Option(
        "--no-weight-cache",
        help="Pack weights anew, into each worker's own memory, and keep none under ~/.cache/shoal.",
        rich_help_panel=LANGUAGE,
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        help="A LoRA adapter, by the name that requests ask for: a directory that PEFT has written, or a GGUF file. "
        "Repeatable.",
        metavar="NAME=DIR",
        rich_help_panel=LANGUAGE,
    ),
]
Mmproj = Annotated[
    str | None,
    typer.Option(
        help="The vision part of a model in a GGUF file, which llama.cpp calls a multimodal projector: a .gguf file or "
        "hf:org/name/file.gguf. Without it, the one mmproj file beside the model, if there is one.",
        metavar="FILE",
        rich_help_panel=LANGUAGE,
    ),
]
VisionSplit = Annotated[
    str,
    typer.Option(
        help="Split of the vision part of a model that sees, in workers of its own: `1`, `dp=2`, `pp=2`, ...",
        metavar="SPLIT",
        rich_help_panel=LANGUAGE,
    ),
]
MergeLora = Annotated[
    Path | None,
    typer.Option(
        help="Add this LoRA adapter to the model's weights as they are read.",
        metavar="DIR",
        rich_help_panel=LANGUAGE,
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        help="The adapter of --lora to compute with. Default: the only one.", metavar="NAME", rich_help_panel=LANGUAGE
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Compute threads per worker. Default: the cores shared evenly.")
]
Device = Annotated[
    str | None,
    typer.Option(
        help="What workers compute on: cpu, gpu, a provider of ONNX Runtime such as webgpu or cuda:1 (shoal devices "
        "lists them), or one for each worker in the order of the plan, as in cpu,webgpu; auto: whatever is best, for "
        "--split auto. Default: auto with --split auto, otherwise cpu.",
        metavar="auto|cpu|gpu|PROVIDER[:INDEX],...",
        rich_help_panel=DEVICES,
    ),
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(
        help="An option for the provider of the device. Repeatable.", metavar="KEY=VALUE", rich_help_panel=DEVICES
    ),
]
DeviceMemory = Annotated[
    str | None,
    typer.Option(
        help="Memory that a worker may take of its device, such as 4G.", metavar="BYTES", rich_help_panel=DEVICES
    ),
]
DevicePrecision = Annotated[
    str,
    typer.Option(
        help="What a language model's floats are on devices, keys and values among them: fp32 or fp16, half the memory "
        "and quicker on most GPUs.",
        metavar="fp32|fp16",
        rich_help_panel=DEVICES,
    ),
]
WorkerPython = Annotated[
    list[str] | None,
    typer.Option(
        help="The Python of another environment with Shoal, whose ONNX Runtime has the device's provider; with "
        "PROVIDER= for the workers of one provider. Repeatable.",
        metavar="[PROVIDER=]PATH",
        rich_help_panel=DEVICES,
    ),
]
MaxSeqs = Annotated[
    int, typer.Option(min=1, help="Sequences of one replica that may run at once.", rich_help_panel=LANGUAGE)
]
BeamSize = Annotated[
    int,
    typer.Option(
        min=1,
        help="Hypotheses of a text that are followed side by side; 1: the likeliest token is taken every time.",
        rich_help_panel=SPEECH,
    ),
]
KvMemory = Annotated[
    str | None,
    typer.Option(
        help="Memory for the KV cache of all replicas together, such as 512M or 4G.",
        metavar="BYTES",
        rich_help_panel=LANGUAGE,
    ),
]
MaxContext = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Longest sequence in tokens, prompt and output. Default: the model's own.",
        rich_help_panel=LANGUAGE,
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option(
        help="Arrays: an .npz file with the graph's input names, or an .npy file for a graph with one input.",
        rich_help_panel=GRAPH,
    ),
]
BatchDim = Annotated[
    list[str] | None,
    typer.Option(
        help="Batch axis of an input or output where the graph does not tell, such as state=1; NAME=none: an input "
        "without rows; none: no batch at all. Repeatable.",
        metavar="NAME=AXIS|none",
        rich_help_panel=GRAPH,
    ),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Rows that go through the graph at once. Default: enough pieces for all workers.",
        rich_help_panel=GRAPH,
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", help="A plan from `shoal plan -o FILE`, in the place of --split.", metavar="FILE"),
]
Objective = Annotated[
    str,
    typer.Option(
        help="throughput: most tokens/s (of a graph: rows/s) under the load; latency: the fastest lone request; "
        "balanced: both.",
        metavar="GOAL",
        rich_help_panel=PLANNING,
        autocompletion=lambda: ["throughput", "latency", "balanced"],
    ),
]
Streams = Annotated[
    int, typer.Option(min=1, help="Requests that are always under way.", rich_help_panel=PLANNING, metavar="N")
]
PromptTokens = Annotated[
    int, typer.Option(min=1, help="Prompt tokens of a typical request.", rich_help_panel=PLANNING, metavar="N")
]
OutputTokens = Annotated[
    int, typer.Option(min=1, help="Output tokens of a typical request.", rich_help_panel=PLANNING, metavar="N")
]
LatencySlo = Annotated[
    float | None,
    typer.Option(help="Seconds that a whole request may take under that load.", rich_help_panel=PLANNING, metavar="S"),
]
Cluster = Annotated[
    Path | None,
    typer.Option(
        help="Machines to use: ray takes those of the running Ray cluster (docs/cluster.md), FILE is YAML that "
        "describes them (docs/planning.md). Default: this machine.",
        metavar="ray|FILE",
        rich_help_panel=PLANNING,
    ),
]
LinkPrecision = Annotated[
    str,
    typer.Option(
        help="Precision of hidden states between machines: fp32, fp16, int8, or auto, which goes below fp32 where "
        "--split auto finds that links are the limit.",
        metavar="auto|P",
        rich_help_panel=PLANNING,
        autocompletion=lambda: ["auto", "fp32", "fp16", "int8"],
    ),
]
ToolParser = Annotated[
    str,
    typer.Option(
        help="How the model writes calls of tools: auto (by its chat template), hermes, llama3_json, mistral, openai, "
        "qwen3_coder, glm45, minimax_m2, kimi_k2, deepseek_v3, phi4_mini_json or granite.",
        metavar="FORMAT",
        rich_help_panel=LANGUAGE,
    ),
]
ReasoningParser = Annotated[
    str,
    typer.Option(
        help="How the model writes what it thinks before it answers: auto (by its chat template), think (between "
        "<think> tags) or none.",
        metavar="FORMAT",
        rich_help_panel=LANGUAGE,
    ),
]
PrecisionFloor = Annotated[
    str | None,
    typer.Option(
        help="Let stages go down to this precision (int8, int4) where that pays.",
        metavar="P",
        rich_help_panel=PLANNING,
    ),
]
Refresh = Annotated[
    bool, typer.Option("--refresh", help="Measure anew what was measured before.", rich_help_panel=PLANNING)
]
LogLevel = Annotated[
    str,
    typer.Option(
        help="The least that is logged to stderr: debug, info, warning or error.",
        metavar="LEVEL",
        autocompletion=lambda: ["debug", "info", "warning", "error"],
    ),
]
LogJson = Annotated[bool, typer.Option("--log-json", help="Log one JSON object a line.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
