"""A server hands its spans to a collector, which is a real HTTP server that reads OpenTelemetry's own messages."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.integration.running import EXIT_S
from tests.integration.served import served

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[tuple[str, queue.Queue[bytes]]]:
    """Its URL, and the bodies that it is sent."""
    bodies: queue.Queue[bytes] = queue.Queue()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()
        thread.join(EXIT_S)


def test_a_call_its_requests_and_their_phases_are_one_trace(
    tiny_model: Path, collector: tuple[str, queue.Queue[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, bodies = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    with served(tiny_model, "--split", "pp=2") as server:
        response = httpx.post(
            f"{server.url}/v1/completions",
            json={"prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True, "model": "tiny"},
            headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"},
            timeout=EXIT_S,
        )
        assert response.status_code == 200
        httpx.get(f"{server.url}/health", timeout=EXIT_S)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(EXIT_S) == 0
    spans = {}
    while not bodies.empty():
        message = trace_service.ExportTraceServiceRequest.FromString(bodies.get())
        (resource,) = message.resource_spans
        assert any(
            one.key == "service.name" and one.value.string_value == "shoal" for one in resource.resource.attributes
        )
        spans |= {span.span_id.hex(): span for scope in resource.scope_spans for span in scope.spans}
    named = {span.name: span for span in spans.values()}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE_ID}
    assert set(named) == {"POST /v1/completions", "generate", "queue", "prefill", "decode", "stage 0", "stage 1"}
    call, request = named["POST /v1/completions"], named["generate"]
    assert call.parent_span_id.hex() == PARENT_ID
    assert request.parent_span_id == call.span_id
    for name in ("queue", "prefill", "decode"):
        assert named[name].parent_span_id == request.span_id
    assert {spans[named[f"stage {stage}"].parent_span_id.hex()].name for stage in (0, 1)} <= {"prefill", "decode"}
    assert call.start_time_unix_nano <= request.start_time_unix_nano
    assert request.end_time_unix_nano <= call.end_time_unix_nano + 50_000_000
    usage = {one.key: one.value.int_value for one in request.attributes}
    assert (usage["gen_ai.usage.input_tokens"], usage["gen_ai.usage.output_tokens"]) == (3, 4)
