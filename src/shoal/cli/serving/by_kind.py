"""Which server the models of `shoal serve` want, and which of its options mean nothing there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from shoal.cli.shared import option_values, options
from shoal.cli.shared.model_kind import is_chain, is_graph, is_language_graph
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.cli.shared.server_options import ServerOptions

_LANGUAGE_ONLY = (
    "lora",
    "merge_lora",
    "precision",
    "device_precision",
    "activations",
    "no_weight_cache",
    "max_seqs",
    "kv_memory",
    "max_context",
    "routing",
    "precision_floor",
    "prompt_tokens",
    "output_tokens",
    "request_timeout",
    "strict_fields",
    "tool_parser",
    "reasoning_parser",
    "mmproj",
    "vision_split",
    "allow_remote_media",
    "worker_timeout",
    "streams",
    "link_precision",
)
_SEVERAL_ONLY = ("max_loaded", "idle_unload")
_SPEECH_ONLY = ("max_audio", "beam_size")
_NOT_OF_SPEECH = (
    *("max_context", "precision_floor", "prompt_tokens", "output_tokens", "tool_parser", "reasoning_parser"),
    *("mmproj", "vision_split", "allow_remote_media"),
)
_GRAPH_ONLY = (
    "grpc_port",
    "max_batch",
    "batch_delay",
    "max_request",
    "batch_dim",
    "inputs",
    "allow_load",
    "model_config",
)


def serve_by_kind(context: typer.Context, models: list[str], server: ServerOptions) -> None:
    """Serve the models until a signal ends it. What the others need is not imported.

    Raises:
        ConfigError: an option that was given means nothing for such models, or they cannot be served together.
    """
    from shoal.model.encoder.find import encoder_name, find_encoder_folder

    encoder = find_encoder_folder(models[0]) if len(models) == 1 else None
    if encoder is not None:
        others = (name for name in _LANGUAGE_ONLY if name != "strict_fields")
        option_values.refuse(context, (*others, *_SPEECH_ONLY, *_SEVERAL_ONLY), "encoders of texts")
        from shoal.cli.graphs import serve_command

        serve_command.load_and_serve_encoder(context, encoder, server, encoder_name(models[0], encoder))
        return
    is_language = all(is_language_graph(model, context.params["served_as"]) for model in models)
    if not is_language and all(is_graph(model) or is_chain(model) or _is_repository(model) for model in models):
        option_values.refuse(context, (*_LANGUAGE_ONLY, *_SPEECH_ONLY, *_SEVERAL_ONLY), "ONNX graphs")
        from shoal.cli.graphs import serve_command

        serve_command.load_and_serve(context, models, server)
    elif len(models) > 1:
        if not is_language and any(is_graph(model) or is_chain(model) for model in models):
            raise ConfigError(
                "a server serves either language models or ONNX graphs and chains: start one server for each kind"
            )
        _serve_several(context, models, server)
    else:
        _serve_one(context, models[0], server)


def _serve_several(context: typer.Context, models: list[str], server: ServerOptions) -> None:
    """Language models behind one address."""
    option_values.refuse(context, (*_GRAPH_ONLY, *_SPEECH_ONLY, *options.DEVICE_OPTIONS), "several language models")
    from shoal.model.formats.speech_files import is_speech_model

    if heard := next((model for model in models if is_speech_model(model)), None):
        raise ConfigError(f"{heard} is a model of speech and needs a server of its own: start one for it")
    from shoal.cli.language import serve_several

    serve_several.load_and_serve(context, models, server)


def _serve_one(context: typer.Context, model: str, server: ServerOptions) -> None:
    """A language model, or one of speech."""
    from shoal.executor.process.fork_server import LANGUAGE_WORKER, expect_workers

    option_values.refuse(context, _SEVERAL_ONLY, "one model")
    expect_workers(LANGUAGE_WORKER)
    from shoal.cli.language.serve import load_and_serve
    from shoal.model.formats.speech_files import is_speech_model

    if is_speech := is_speech_model(model):
        of_graphs = tuple(name for name in _GRAPH_ONLY if name != "max_request")
        option_values.refuse(context, (*of_graphs, *options.DEVICE_OPTIONS, *_NOT_OF_SPEECH), "a model of speech")
    else:
        option_values.refuse(context, (*_GRAPH_ONLY, *_SPEECH_ONLY), "a language model")
    load_and_serve(context, model, server, is_speech=is_speech)


def _is_repository(model: str) -> bool:
    """A folder with .onnx files in it, or in its folders."""
    folder = Path(model)
    return folder.is_dir() and next(folder.glob("**/*.onnx"), None) is not None
