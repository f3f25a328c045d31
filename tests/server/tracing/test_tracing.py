"""Spans of calls, as OpenTelemetry's own exporter has them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from shoal.errors import ConfigError
from shoal.server.tracing.tracing import Tracing, open_tracing, service_resource

trace = pytest.importorskip("opentelemetry.sdk.trace")
exporting = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
pytest.importorskip("opentelemetry.instrumentation.asgi")

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


async def headers(request: Request) -> JSONResponse:
    return JSONResponse(dict(request.headers))


def spans_of(
    path: str, given: Mapping[str, str] | None = None, *, hands_on: bool = False, route: str = "/{path:path}"
) -> tuple[Any, Any]:
    """The headers that an app sees of a call, and the call's spans."""
    spans = memory.InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(exporting.SimpleSpanProcessor(spans))
    app = Starlette(routes=[Route(route, headers)])
    Tracing(provider).trace_calls(app, hands_on=hands_on)
    with TestClient(app) as client:
        answer = client.get(path, headers=given)
    return answer.json() if answer.is_success else None, spans.get_finished_spans()


@pytest.mark.parametrize("given", [{}, {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "Baggage": "a=b"}])
def test_a_call_that_is_handed_on_names_its_own_span(given: dict[str, str]) -> None:
    seen, (span,) = spans_of("/", given, hands_on=True)
    own = span.get_span_context()
    assert seen["traceparent"].startswith(f"00-{own.trace_id:032x}-{own.span_id:016x}-")
    assert not given or (f"{own.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert seen.get("baggage") == given.get("Baggage")


@pytest.mark.parametrize(
    ("path", "is_traced"),
    [
        ("/health", False),
        ("/status/page", False),
        ("/metrics", False),
        ("/v2/health/ready", False),
        ("/v2/models/x/versions/1/ready", False),
        ("/v2/models/readynet/infer", True),
        ("/v2/models/metrics/infer", True),
        ("/v1/models/health", True),
    ],
)
def test_probes_are_no_spans_whatever_models_are_called(path: str, is_traced: bool) -> None:
    _, spans = spans_of(path)
    assert bool(spans) is is_traced


@pytest.mark.parametrize(
    ("route", "path", "name"),
    [
        ("/v1/models/{name:path}", "/v1/models/" + "a" * 500, "GET /v1/models/{name:path}"),
        ("/v1/models", "/v1/models", "GET /v1/models"),
        ("/v1/models", "/%0a%ff", "GET"),
        ("/{path:path}", "/a" * 100, "GET"),
    ],
)
def test_names_of_spans_are_few(route: str, path: str, name: str) -> None:
    _, (span,) = spans_of(path, route=route)
    assert span.name == name


def test_a_collector_that_does_not_answer_holds_no_end_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setattr("shoal.server.tracing.tracing._HAND_ON_S", 0.0)
    is_answered, has_ended = threading.Event(), threading.Event()

    def never(self: Any) -> None:
        assert is_answered.wait(60)
        has_ended.set()

    monkeypatch.setattr(trace.TracerProvider, "shutdown", never)
    with open_tracing():
        pass
    assert not has_ended.is_set()
    is_answered.set()
    assert has_ended.wait(60)


def test_sizes_of_batches_that_make_no_sense_are_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
    with pytest.raises(ConfigError, match="max_export_batch_size"), open_tracing():
        pass


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "shoal"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours,deployment.environment=test"}, "ours"),
        ({"OTEL_SERVICE_NAME": "mine", "OTEL_RESOURCE_ATTRIBUTES": "service.name=ours"}, "mine"),
    ],
)
def test_a_service_is_named_by_the_standard_variables(
    variables: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert service_resource().attributes["service.name"] == name
