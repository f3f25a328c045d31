"""`shoal serve` for a language model: the OpenAI API over one engine."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import PurePath

import typer
from starlette.applications import Starlette

from shoal.api.options import LaunchOptions
from shoal.api.speech import window_transcriber
from shoal.api.work.vision_tower import VisionOptions, attach_vision, vision_options
from shoal.cli.language.launch_config import language_config, speech_options
from shoal.cli.language.loading import load_planned, plan_for
from shoal.cli.language.plan_book import LanguagePlanBook
from shoal.cli.shared.log import announce
from shoal.cli.shared.option_values import check_beams, parse_bytes
from shoal.cli.shared.server_options import ServerOptions
from shoal.cli.show.output import describe_drain
from shoal.core.generation.admission import AdmissionConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.errors import ConfigError, WorkerLost
from shoal.executor.remote.strikes import Strike
from shoal.generation.data_plane import DataPlane
from shoal.launch.launch import LoadedModel
from shoal.launch.running.expert_heat import heat_dicts
from shoal.model.encoder.decoder_settings import read_decoder_settings
from shoal.model.file_states import model_states
from shoal.planner.files.plan_data import plan_dict
from shoal.server.app import create_app
from shoal.server.assembly import AppOptions
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.http.draining import Drain
from shoal.server.http.serve import bind, serve_app
from shoal.server.ollama.card import ModelCard
from shoal.server.openai.answers import AnswerForms, check_parsers
from shoal.server.speech.app import SpeechSettings, create_speech_app
from shoal.server.web.routes import PageOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageServeOptions:
    """How to serve."""

    server: ServerOptions
    name: str
    """that clients ask for"""
    max_queue: int | None
    """requests that may wait, >= 1; None: the default"""
    request_timeout_s: float | None
    """the most time that a request may take, > 0; None: any"""
    tool_parser: str
    """how the model writes calls of tools, one of `FORMAT_NAMES`"""
    reasoning_parser: str
    """how it writes what it thinks, one of `REASONING_NAMES`"""
    speech: SpeechSettings
    """of a model of speech"""
    strict_fields: bool = False
    """refuse fields of bodies that nobody knows"""
    vision: VisionOptions | None = field(default_factory=VisionOptions)
    """of a model that sees; None: it takes texts alone"""


def load_and_serve(context: typer.Context, model: str, server: ServerOptions, *, is_speech: bool = False) -> None:
    """Load the model of `shoal serve`, and serve it until a signal comes.

    The address is taken before anything is loaded, and what the options say is checked before that.

    Args:
        context: of the command, for its other options.
        model: as the user named it.
        server: where to listen.
        is_speech: whether it is a model of speech.

    Raises:
        ConfigError: an option makes no sense, or the address cannot be had.
        ModelLoadError, CapacityError, WorkerLost: as `launch`.
    """
    said = context.params
    check_parsers(said["tool_parser"], said["reasoning_parser"])
    own = speech_options(context) if is_speech else LaunchOptions()
    config = language_config(context, model, in_process=False, **own)
    if is_speech:
        check_beams(said["beam_size"], config.max_seqs)
    options = LanguageServeOptions(
        server=server,
        name=said["name"] or default_name(model),
        max_queue=said["max_queue"],
        request_timeout_s=said["request_timeout"],
        strict_fields=said["strict_fields"],
        vision=vision_options(said),
        tool_parser=said["tool_parser"],
        reasoning_parser=said["reasoning_parser"],
        speech=SpeechSettings(
            max_upload_bytes=parse_bytes(said["max_request"], "--max-request") or 0,
            max_audio_s=said["max_audio"],
            beam_size=said["beam_size"],
        ),
    )
    if options.name in config.adapters:
        raise ConfigError(
            f"--lora {options.name}=...: the model itself has that name; give the adapter another one, or rename "
            "the model with --name"
        )
    recovery = RecoveryConfig(worker_timeout_s=said["worker_timeout"])
    with bind(server.host, server.port) as sock:
        planned = plan_for(config, quiet=said["log_json"])
        page = server.page(LanguagePlanBook(planned.auto))
        with load_planned(planned, quiet=said["log_json"], recovery=recovery) as loaded:
            serve_language(loaded, sock, options, page)


def default_name(model: str) -> str:
    """What a model is called where nobody says: as its file or folder."""
    name = PurePath(model.removeprefix("pkg:").removeprefix("hf:")).name
    return name.removesuffix(".gguf").removesuffix(".onnx")


def serve_language(
    loaded: LoadedModel, sock: socket.socket, options: LanguageServeOptions, page: PageOptions | None = None
) -> None:
    """Serve a loaded model until a signal comes. Raises WorkerLost: its workers are gone for good."""
    metrics = ServerMetrics(options.name, loaded.plan.predicted)
    metrics.expose_experts(loaded.expert_heats)
    tracing = options.server.tracing
    spans = None if tracing is None else tracing.request_spans(options.name)
    if spans is not None:
        loaded.engine.trace(spans.end)
    data_plane = DataPlane(
        loaded.engine,
        loaded.tokenizer,
        metrics=metrics,
        adapters=loaded.adapters,
        admission=AdmissionConfig() if options.max_queue is None else AdmissionConfig(max_queue=options.max_queue),
        request_timeout_s=options.request_timeout_s,
        observer=spans,
    )
    if options.vision is not None:
        attach_vision(data_plane, loaded, options.vision)
    app = _make_app(loaded, data_plane, metrics, options, page)
    if tracing is not None:
        tracing.trace_calls(app)
    drain: Drain = app.state.drain
    if loaded.joining is not None:
        loaded.joining.on_headless(drain.leave)
    serve_app(
        app,
        sock,
        tls=options.server.tls,
        on_ready=lambda url: announce(f"serving {options.name} at {url}"),
        drain_timeout_s=options.server.drain_timeout_s,
        on_drain=lambda num_open: announce(describe_drain(num_open, options.server.drain_timeout_s)),
    )
    if drain.reason is not None:
        raise WorkerLost(drain.reason)


def _make_app(
    loaded: LoadedModel,
    data_plane: DataPlane,
    metrics: ServerMetrics,
    options: LanguageServeOptions,
    page: PageOptions | None,
) -> Starlette:
    """The application for the kind of model that was loaded."""
    guards = AppOptions(
        api_key=options.server.api_key,
        plan=lambda: plan_dict(loaded.running_plan) | {"experts": heat_dicts(loaded.expert_heats())},
        machines=_ClusterState(loaded),
        allowed_hosts=options.server.allowed_hosts,
        cors_origins=options.server.cors_origins,
        page=page,
    )
    if loaded.decoder.encoder is not None:
        return create_speech_app(
            data_plane,
            metrics,
            window_transcriber(loaded, data_plane),
            model_name=options.name,
            options=guards,
            settings=options.speech,
            strict_fields=options.strict_fields,
        )
    return create_app(
        data_plane,
        metrics,
        model_name=options.name,
        options=guards,
        strict_fields=options.strict_fields,
        sentences=read_decoder_settings(loaded.path),
        answers=AnswerForms.of(loaded.tokenizer, options.tool_parser, options.reasoning_parser),
        card=ModelCard(
            family=loaded.decoder.family,
            format="safetensors" if loaded.path.is_dir() else loaded.path.suffix[1:],
            precision="+".join(sorted({stage.precision for one in loaded.plan.replicas for stage in one.stages})),
            files=model_states(loaded.path),
        ),
    )


class _ClusterState:
    """Implements `server.generation.generation_status.MachineState`."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    @property
    def trouble(self) -> str | None:
        """Why this process will end soon."""
        return None if self._loaded.joining is None else self._loaded.joining.trouble

    def describe(self) -> list[dict[str, str]]:
        """What each machine does."""
        return self._loaded.describe_machines()

    def strike(self, machine: str, strike: Strike) -> None:
        """What a drill asks for."""
        self._loaded.strike(machine, strike)
