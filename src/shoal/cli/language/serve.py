"""`shoal serve` for a language model: the OpenAI API over one engine."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.cli.shared.log import announce
from shoal.cli.show.output import describe_drain
from shoal.core.generation.admission import AdmissionConfig
from shoal.errors import WorkerLost
from shoal.generation.data_plane import DataPlane
from shoal.launch.launch import LoadedModel
from shoal.launch.running.expert_heat import heat_dicts
from shoal.model.file_states import model_states
from shoal.planner.files.plan_data import plan_dict
from shoal.server.app import create_app
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.http.draining import Drain
from shoal.server.http.serve import serve_app
from shoal.server.http.tls import TlsFiles
from shoal.server.ollama.card import ModelCard
from shoal.server.openai.answers import AnswerForms


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageServeOptions:
    """How to serve."""

    name: str
    """that clients ask for"""
    api_key: str | None
    """what clients must send; None: nothing"""
    max_queue: int | None
    """requests that may wait, >= 1; None: the default"""
    request_timeout_s: float | None
    """the most time that a request may take, > 0; None: any"""
    tool_parser: str
    """how the model writes calls of tools, one of `FORMAT_NAMES`"""
    reasoning_parser: str
    """how it writes what it thinks, one of `REASONING_NAMES`"""
    tls: TlsFiles | None
    """of HTTPS; None: HTTP"""
    allowed_hosts: Sequence[str] | None
    """see `create_app`"""
    cors_origins: Sequence[str] = ()
    """see `create_app`"""
    strict_fields: bool = False
    """refuse fields of bodies that nobody knows"""
    drain_timeout_s: float
    """how long open requests may take after a signal, >= 0"""


def serve_language(loaded: LoadedModel, sock: socket.socket, options: LanguageServeOptions) -> None:
    """Serve a loaded model until a signal comes. Raises WorkerLost: its workers are gone for good."""
    metrics = ServerMetrics(options.name, loaded.plan.predicted)
    metrics.expose_experts(loaded.expert_heats)
    data_plane = DataPlane(
        loaded.engine,
        loaded.tokenizer,
        metrics=metrics,
        admission=AdmissionConfig() if options.max_queue is None else AdmissionConfig(max_queue=options.max_queue),
        request_timeout_s=options.request_timeout_s,
    )
    app = create_app(
        data_plane,
        metrics,
        model_name=options.name,
        api_key=options.api_key,
        plan=lambda: plan_dict(loaded.running_plan) | {"experts": heat_dicts(loaded.expert_heats())},
        machines=_ClusterState(loaded),
        allowed_hosts=options.allowed_hosts,
        cors_origins=options.cors_origins,
        strict_fields=options.strict_fields,
        answers=AnswerForms.of(loaded.tokenizer, options.tool_parser, options.reasoning_parser),
        card=ModelCard(
            family=loaded.decoder.family,
            format="safetensors" if loaded.path.is_dir() else "gguf",
            precision=loaded.plan.precision,
            files=model_states(loaded.path),
        ),
    )
    drain: Drain = app.state.drain
    if loaded.joining is not None:
        loaded.joining.on_headless(drain.leave)
    serve_app(
        app,
        sock,
        tls=options.tls,
        on_ready=lambda url: announce(f"serving {options.name} at {url}"),
        drain_timeout_s=options.drain_timeout_s,
        on_drain=lambda num_open: announce(describe_drain(num_open, options.drain_timeout_s)),
    )
    if drain.reason is not None:
        raise WorkerLost(drain.reason)


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
