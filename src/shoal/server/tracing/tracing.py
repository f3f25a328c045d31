"""Starts and ends the traces of a server."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette

from shoal.errors import MissingExtra
from shoal.server.tracing.settings import exporter_name

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from shoal.server.tracing.request_spans import RequestSpans

_PROBES = "/health,/ready,/metrics,/status"
"""Paths whose calls have no spans, because monitoring calls them every few seconds."""


class Tracing:
    """Makes the spans of a server. OpenTelemetry is imported only if they are asked for."""

    def __init__(self, provider: TracerProvider) -> None:
        """`provider`: exports spans."""
        self._provider = provider

    def trace_calls(self, app: Starlette) -> None:
        """Every call of the app becomes a span, a child of the one in its `traceparent` header."""
        asgi: Any = import_module("opentelemetry.instrumentation.asgi")  # the module has no type annotations

        app.add_middleware(
            asgi.OpenTelemetryMiddleware,
            tracer_provider=self._provider,
            excluded_urls=_PROBES,
            exclude_spans=["receive", "send"],
        )

    def request_spans(self, model_name: str) -> RequestSpans:
        """Spans of a language model's requests. `model_name`: as clients ask for it."""
        from shoal.server.tracing.request_spans import RequestSpans

        return RequestSpans(self._provider.get_tracer("shoal"), model_name)


@contextmanager
def open_tracing() -> Generator[Tracing | None, None, None]:
    """Tracing until the block ends, when the remaining spans are exported; None if no variable asks for it.

    OpenTelemetry's variables set the sampler, the endpoint, headers, batches and time limits.

    Raises:
        ConfigError: the variables ask for something that is not supported.
        MissingExtra: its packages are missing.
    """
    name = exporter_name(os.environ)
    if name is None:
        yield None
        return
    provider = _provider(name)
    try:
        yield Tracing(provider)
    finally:
        provider.shutdown()


def _provider(name: str) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    except ImportError as error:
        needed = "OpenTelemetry's variables ask for traces (OTEL_SDK_DISABLED=true takes that back)"
        raise MissingExtra(needed, "otel") from error
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "shoal")})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter() if name == "otlp" else ConsoleSpanExporter()))
    return provider
