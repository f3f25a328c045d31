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
    typer.Argument(
        help="A .gguf file, a Hugging Face directory, hf:org/name, or pkg:NAME (a model inside an installed Python "
        "package)."
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        help="An .onnx file; or a language model: a .gguf file, a Hugging Face directory, hf:org/name, or "
        "pkg:NAME (a model inside an installed Python package)."
    ),
]
ServedAs = Annotated[
    str,
    typer.Option(
        "--as",
        help="How to treat an ONNX graph with past keys and values: auto (as a language model if its settings and "
        "its tokenizer lie beside it) or graph (as plain tensors).",
        metavar="auto|graph",
        autocompletion=lambda: ["auto", "graph"],
    ),
]
Split = Annotated[
    str,
    typer.Option(
        help="How to split the model: auto (measure and choose), 1 (one worker), dp=2 (two copies), pp=2 (a "
        "pipeline of two stages), tp=2 (every layer cut over two workers), or a mix such as dp=2,tp=2. "
        "tp=3:1 gives unequal shares of every layer, ep=3:1 deals out whole experts, and pp=10:20 sets the "
        "layers of each stage (of an ONNX graph: its share of the time).",
        metavar="SPEC",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help="Precision of the weights: auto (as the file has them), fp32, int8 or int4.",
        metavar="P",
        rich_help_panel=LANGUAGE,
    ),
]
Activations = Annotated[
    str,
    typer.Option(
        help="Precision of the activations that meet quantized weights: int8, or exact (15 bits; slower, and keys "
        "and values stay in fp32).",
        metavar="int8|exact",
        rich_help_panel=LANGUAGE,
        autocompletion=lambda: ["int8", "exact"],
    ),
]
NoWeightCache = Annotated[
    bool,
    typer.Option(
        "--no-weight-cache",
        help="Pack the weights anew into each worker's own memory instead of sharing packed weights from "
        "~/.cache/shoal.",
        rich_help_panel=LANGUAGE,
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        help="A LoRA adapter and the name by which requests ask for it: a directory written by PEFT, or a GGUF "
        "file. Repeatable.",
        metavar="NAME=DIR",
        rich_help_panel=LANGUAGE,
    ),
]
Mmproj = Annotated[
    str | None,
    typer.Option(
        help="The vision part of a GGUF model, which llama.cpp calls a multimodal projector: a .gguf file or "
        "hf:org/name/file.gguf. Default: the mmproj file beside the model, if there is exactly one.",
        metavar="FILE",
        rich_help_panel=LANGUAGE,
    ),
]
VisionSplit = Annotated[
    str,
    typer.Option(
        help="How to split the vision part of a model that accepts pictures, over workers of its own: `1`, "
        "`dp=2`, `pp=2`, ...",
        metavar="SPLIT",
        rich_help_panel=LANGUAGE,
    ),
]
MergeLora = Annotated[
    Path | None,
    typer.Option(
        help="Add this LoRA adapter to the model's weights while they are loaded.",
        metavar="DIR",
        rich_help_panel=LANGUAGE,
    ),
]
Adapter = Annotated[
    str | None,
    typer.Option(
        help="Which adapter of --lora to compute with. Default: the only one.", metavar="NAME", rich_help_panel=LANGUAGE
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Compute threads of each worker. Default: the cores are shared evenly.")
]
Device = Annotated[
    str | None,
    typer.Option(
        help="What workers compute on: cpu, gpu, an ONNX Runtime provider such as webgpu or cuda:1 (`shoal "
        "devices` lists them), or one name for each worker in the order of the plan, such as cpu,webgpu. "
        "auto lets --split auto choose. Default: auto with --split auto, otherwise cpu.",
        metavar="auto|cpu|gpu|PROVIDER[:INDEX],...",
        rich_help_panel=DEVICES,
    ),
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(
        help="An option that is passed to the device's provider. Repeatable.",
        metavar="KEY=VALUE",
        rich_help_panel=DEVICES,
    ),
]
DeviceMemory = Annotated[
    str | None,
    typer.Option(
        help="The most device memory that a worker may use, such as 4G.", metavar="BYTES", rich_help_panel=DEVICES
    ),
]
DevicePrecision = Annotated[
    str,
    typer.Option(
        help="Precision of a language model's floats on devices, keys and values included: fp32, or fp16, which "
        "takes half the memory and is faster on most GPUs.",
        metavar="fp32|fp16",
        rich_help_panel=DEVICES,
    ),
]
WorkerPython = Annotated[
    list[str] | None,
    typer.Option(
        help="The Python of another environment, with Shoal and an ONNX Runtime that has the device's provider. "
        "With PROVIDER= it applies to the workers of that provider only. Repeatable.",
        metavar="[PROVIDER=]PATH",
        rich_help_panel=DEVICES,
    ),
]
MaxSeqs = Annotated[
    int, typer.Option(min=1, help="The most sequences that one replica may run at once.", rich_help_panel=LANGUAGE)
]
BeamSize = Annotated[
    int,
    typer.Option(
        min=1,
        help="How many hypotheses of a text to follow side by side; 1 always takes the likeliest token.",
        rich_help_panel=SPEECH,
    ),
]
KvMemory = Annotated[
    str | None,
    typer.Option(
        help="Memory for the KV caches of all replicas together, such as 512M or 4G.",
        metavar="BYTES",
        rich_help_panel=LANGUAGE,
    ),
]
MaxContext = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="The longest sequence in tokens, prompt and output together. Default: the model's own limit.",
        rich_help_panel=LANGUAGE,
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option(
        help="Input arrays: an .npz file with the graph's input names, or an .npy file for a graph with one input.",
        rich_help_panel=GRAPH,
    ),
]
BatchDim = Annotated[
    list[str] | None,
    typer.Option(
        help="The batch axis of an input or output, where the graph does not tell, such as state=1. NAME=none "
        "marks an input without rows; none alone says that there is no batch. Repeatable.",
        metavar="NAME=AXIS|none",
        rich_help_panel=GRAPH,
    ),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Rows that go through the graph at once. Default: small enough that all workers have something to do.",
        rich_help_panel=GRAPH,
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", help="A plan written by `shoal plan -o FILE`, to use instead of --split.", metavar="FILE"),
]
Objective = Annotated[
    str,
    typer.Option(
        help="What to optimize: throughput (the most tokens/s under the load, or rows/s of a graph), latency (the "
        "fastest single request), or balanced (both).",
        metavar="GOAL",
        rich_help_panel=PLANNING,
        autocompletion=lambda: ["throughput", "latency", "balanced"],
    ),
]
Streams = Annotated[
    int, typer.Option(min=1, help="Requests that are always in progress.", rich_help_panel=PLANNING, metavar="N")
]
PromptTokens = Annotated[
    int, typer.Option(min=1, help="Prompt tokens of a typical request.", rich_help_panel=PLANNING, metavar="N")
]
OutputTokens = Annotated[
    int, typer.Option(min=1, help="Output tokens of a typical request.", rich_help_panel=PLANNING, metavar="N")
]
LatencySlo = Annotated[
    float | None,
    typer.Option(
        help="The most seconds that a whole request may take under that load.", rich_help_panel=PLANNING, metavar="S"
    ),
]
Cluster = Annotated[
    Path | None,
    typer.Option(
        help="Which machines to use: ray takes those of the running Ray cluster (docs/cluster.md); FILE is YAML "
        "that describes machines (docs/planning.md). Default: this machine.",
        metavar="ray|FILE",
        rich_help_panel=PLANNING,
    ),
]
LinkPrecision = Annotated[
    str,
    typer.Option(
        help="Precision of hidden states between machines: fp32, fp16, int8, or auto, which goes below fp32 where "
        "--split auto finds that links are the bottleneck.",
        metavar="auto|P",
        rich_help_panel=PLANNING,
        autocompletion=lambda: ["auto", "fp32", "fp16", "int8"],
    ),
]
ToolParser = Annotated[
    str,
    typer.Option(
        help="How the model writes tool calls: auto (recognized by its chat template), hermes, llama3_json, "
        "mistral, openai, qwen3_coder, glm45, minimax_m2, kimi_k2, deepseek_v3, phi4_mini_json or granite.",
        metavar="FORMAT",
        rich_help_panel=LANGUAGE,
    ),
]
ReasoningParser = Annotated[
    str,
    typer.Option(
        help="How the model marks its reasoning: auto (recognized by its chat template), think (<think> tags) or none.",
        metavar="FORMAT",
        rich_help_panel=LANGUAGE,
    ),
]
PrecisionFloor = Annotated[
    str | None,
    typer.Option(
        help="The lowest precision (int8 or int4) that a stage may use where that pays off.",
        metavar="P",
        rich_help_panel=PLANNING,
    ),
]
Refresh = Annotated[
    bool,
    typer.Option("--refresh", help="Measure again instead of using stored measurements.", rich_help_panel=PLANNING),
]
LogLevel = Annotated[
    str,
    typer.Option(
        help="The lowest level that is logged to stderr: debug, info, warning or error.",
        metavar="LEVEL",
        autocompletion=lambda: ["debug", "info", "warning", "error"],
    ),
]
LogJson = Annotated[bool, typer.Option("--log-json", help="Write the log as one JSON object per line.")]
Json = Annotated[bool, typer.Option("--json", help="Print a single JSON object on stdout and nothing else.")]
