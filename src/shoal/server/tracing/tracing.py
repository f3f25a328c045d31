"""Starts and ends the traces of a server."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette

from shoal.errors import ConfigError, MissingExtra
from shoal.server.tracing.settings import exporter_name
from shoal.server.tracing.span_names import details_by_route

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from shoal.server.tracing.request_spans import RequestSpans

_PROBES = r"^\w+://[^/]*/((v2/)?health|ready|metrics|status|v2/models/.+/ready$)(/|$)"
"""URLs whose calls have no spans, because monitoring calls them every few seconds. Models may be named like them."""
_HAND_ON_S = 5.0
"""Time for which a server that ends waits for its last spans to be sent. A judgment: it is killed 15 s after the drain
(deploy/)."""


class Tracing:
    """Makes the spans of a server. OpenTelemetry is imported only if they are asked for."""

    def __init__(self, provider: TracerProvider) -> None:
        """`provider`: exports spans."""
        self._provider = provider

    def trace_calls(self, app: Starlette, *, hands_on: bool = False) -> None:
        """Every call of the app becomes a span, a child of the one in its `traceparent` header.

        `hands_on`: whether the app forwards calls to other servers, with its own span as their `traceparent`.
        """
        asgi: Any = import_module("opentelemetry.instrumentation.asgi")  # the module has no type annotations

        if hands_on:
            from shoal.server.tracing.span_headers import SpanInHeaders

            app.add_middleware(SpanInHeaders)
        app.add_middleware(
            asgi.OpenTelemetryMiddleware,
            tracer_provider=self._provider,
            excluded_urls=_PROBES,
            exclude_spans=["receive", "send"],
            default_span_details=details_by_route(app),
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
        _hand_on(provider)


def _hand_on(provider: TracerProvider) -> None:
    """Sends the remaining spans. If the collector does not answer, OpenTelemetry itself would wait half a minute."""
    sending = threading.Thread(target=provider.shutdown, name="shoal-last-spans", daemon=True)
    sending.start()
    sending.join(_HAND_ON_S)


def _provider(name: str) -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    except ImportError as error:
        needed = "OpenTelemetry's variables ask for traces (OTEL_SDK_DISABLED=true takes that back)"
        raise MissingExtra(needed, "otel") from error
    provider = TracerProvider(resource=service_resource(), shutdown_on_exit=False)
    exporter = OTLPSpanExporter() if name == "otlp" else ConsoleSpanExporter()
    try:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except ValueError as error:
        raise ConfigError(f"OpenTelemetry's variables OTEL_BSP_* make no sense: {error}") from error
    return provider


def service_resource() -> Resource:
    """Attributes of this process in every span. Its name is `shoal` unless a standard variable sets another."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    is_named = "service.name" in OTELResourceDetector().detect().attributes
    return Resource.create({} if is_named else {"service.name": "shoal"})
