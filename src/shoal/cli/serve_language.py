"""`shoal serve` for a language model: the OpenAI API over one engine."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from shoal.cli.output import note, note_drain
from shoal.cluster.launch import LoadedModel
from shoal.core.admission import AdmissionConfig
from shoal.planner.plan_data import plan_dict
from shoal.server.app import create_app
from shoal.server.data_plane import DataPlane
from shoal.server.metrics import ServerMetrics
from shoal.server.serve import serve_app
from shoal.server.tls import TlsFiles


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
    tls: TlsFiles | None
    """of HTTPS; None: HTTP"""
    drain_timeout_s: float
    """how long open requests may take after a signal, >= 0"""


def serve_language(loaded: LoadedModel, sock: socket.socket, options: LanguageServeOptions) -> None:
    """Serve a loaded model until a signal comes. Raises WorkerLost: its workers are gone for good."""
    data_plane = DataPlane(
        loaded.engine,
        loaded.tokenizer,
        metrics=ServerMetrics(options.name, loaded.plan.predicted),
        admission=AdmissionConfig() if options.max_queue is None else AdmissionConfig(max_queue=options.max_queue),
        request_timeout_s=options.request_timeout_s,
    )
    serve_app(
        create_app(
            data_plane,
            model_name=options.name,
            api_key=options.api_key,
            plan=lambda: plan_dict(loaded.running_plan),
        ),
        sock,
        tls=options.tls,
        on_ready=lambda url: note(f"serving {options.name} at {url}"),
        drain_timeout_s=options.drain_timeout_s,
        on_drain=lambda num_open: note_drain(num_open, options.drain_timeout_s),
    )
