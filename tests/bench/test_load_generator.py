"""The load generator against a server that speaks by script: other servers' habits, and every way to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from statistics import mean, stdev
from typing import Any

import pytest

from shoal.bench.event_stream import parse_endpoint
from shoal.bench.load import Load, arrival_times, prompts
from shoal.bench.load_generator import run_load
from shoal.bench.serve_report import format_report
from shoal.errors import ConfigError

CHUNK = b'data: {"choices":[{"text":"x"}],"usage":null}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"

Script = Callable[[int], tuple[int, Sequence[bytes]]]
"""Number of the request (0, 1, ...) -> status and the pieces of the body, each a chunk of its own."""


@contextmanager
def scripted_server(script: Script, *, serial: bool = True) -> Generator[tuple[str, list[dict[str, Any]]], None, None]:
    """Its URL and the bodies that it got. `serial`: the script is asked for one request at a time."""
    bodies: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            with lock:
                bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                number = len(bodies) - 1
                answer = script(number) if serial else None
            status, pieces = answer or script(number)
            self.send_response(status)
            self.send_header("content-type", "text/event-stream" if status == 200 else "application/json")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            if pieces:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", bodies
        finally:
            server.shutdown()
            thread.join()


def load(url: str, **changes: Any) -> Load:
    fields: dict[str, Any] = {"model": "m", "concurrency": 2, "num_prompts": 4, "prompt_tokens": 5, "output_tokens": 3}
    return Load(**{"base_url": url, **fields, **changes})


def test_counts_and_latencies_of_a_clean_run() -> None:
    progress: list[int] = []
    with scripted_server(lambda _: (200, [CHUNK, CHUNK, CHUNK, USAGE, DONE])) as (url, bodies):
        report = run_load(load(url), on_progress=progress.append)
    assert (report.num_successful, report.num_failed, report.first_error) == (4, 0, None)
    assert (report.total_input_tokens, report.total_output_tokens) == (28, 12)
    assert report.output_tokens_per_s == pytest.approx(12 / report.duration_s)
    assert 0 < report.ttft.median_s <= report.e2el.median_s
    assert report.e2el.mean_s <= report.duration_s
    assert progress == [1, 2, 3, 4]
    assert len(bodies) == 5, "four and the warm-up"
    for body in bodies:
        assert len(body["prompt"]) == 5
        assert (body["max_tokens"], body["ignore_eos"], body["stream"]) == (3, True, True)


def test_events_cut_anywhere_and_lines_that_are_not_events() -> None:
    stream = (
        b": a comment\n\n" + CHUNK + CHUNK.replace(b"\n", b"\r\n") + CHUNK.replace(b"data: ", b"data:") + USAGE + DONE
    )
    pieces = [stream[at : at + 3] for at in range(0, len(stream), 3)]
    with scripted_server(lambda _: (200, pieces)) as (url, _):
        report = run_load(load(url, num_prompts=1))
    assert (report.num_successful, report.total_output_tokens) == (1, 3)


def test_a_server_that_tells_no_usage_is_counted_by_chunks() -> None:
    with scripted_server(lambda _: (200, [CHUNK, CHUNK, DONE])) as (url, _):
        report = run_load(load(url, num_prompts=1))
    assert (report.total_input_tokens, report.total_output_tokens) == (5, 2)


@pytest.mark.parametrize(
    ("status", "pieces", "message"),
    [
        (503, [b'{"error": "full"}'], 'HTTP 503: {"error": "full"}'),
        (200, [CHUNK, b'data: {"error": {"message": "lost"}}\n\n', DONE], "lost"),
        (200, [DONE], "no tokens"),
        (200, [CHUNK, b"data: {not json\n\n"], "DecodeError"),
        (200, [], "closed the connection"),
    ],
)
def test_failures_are_counted_and_shown(status: int, pieces: Sequence[bytes], message: str) -> None:
    good = (200, [CHUNK, USAGE, DONE])
    with scripted_server(lambda number: (status, pieces) if number == 2 else good) as (url, _):
        report = run_load(load(url))
    assert (report.num_successful, report.num_failed) == (3, 1)
    assert report.first_error is not None
    assert message in report.first_error
    assert report.total_output_tokens == 9


def test_a_server_that_does_not_serve_fails_at_once() -> None:
    with (
        scripted_server(lambda _: (404, [b"no such model"])) as (url, bodies),
        pytest.raises(ConfigError, match="HTTP 404: no such model"),
    ):
        run_load(load(url))
    assert len(bodies) == 1


def test_nobody_listens() -> None:
    with scripted_server(lambda _: (200, [])) as (url, _):
        pass
    with pytest.raises(ConfigError, match="did not serve the warm-up"):
        run_load(load(url))


def test_prompts_are_reproducible_and_share_no_prefix() -> None:
    one, two = prompts(load("http://x", concurrency=1)), prompts(load("http://x", concurrency=2))
    assert one == prompts(load("http://x", concurrency=1))
    assert len({tuple(prompt[:3]) for prompt in [*one, *two]}) == len(one) + len(two)
    assert all(1000 <= token_id < 20_000 for prompt in one for token_id in prompt)


def test_text_prompts_have_about_the_length() -> None:
    assert [len(prompt.split()) for prompt in prompts(load("http://x", prompt_kind="text"))] == [5] * 5


def test_an_open_loop_sends_in_its_own_time_whatever_is_answered() -> None:
    all_there = threading.Event()

    def script(number: int) -> tuple[int, Sequence[bytes]]:
        if number == 6:
            all_there.set()
        return 200, [CHUNK, USAGE, DONE] if number == 0 or all_there.wait(30.0) else []

    with scripted_server(script, serial=False) as (url, bodies):
        report = run_load(load(url, concurrency=None, request_rate=500.0, num_prompts=6))
    assert (report.num_successful, report.num_failed, len(bodies)) == (6, 0, 7)
    assert (report.concurrency, report.request_rate) == (None, 500.0)
    assert "Request rate configured (RPS):           500.00" in format_report(report)


def test_a_request_that_could_not_be_sent_in_time_counts_from_when_it_was_due() -> None:
    """Else a generator that falls behind would flatter the server."""
    with scripted_server(lambda _: (200, [CHUNK, USAGE, DONE])) as (url, _):
        report = run_load(load(url, concurrency=None, request_rate=1e6, num_prompts=30))
    assert report.e2el.p99_s > 0.5 * report.duration_s


def test_arrivals_are_a_reproducible_poisson_process() -> None:
    times = arrival_times(5.0, 4000, seed=1)
    gaps = [later - earlier for earlier, later in pairwise([0.0, *times])]
    assert times == arrival_times(5.0, 4000, seed=1)
    assert times != arrival_times(5.0, 4000, seed=2)
    assert min(gaps) > 0
    assert mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert stdev(gaps) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_rate": 1.0}, "either a concurrency or a request rate"),
        ({"concurrency": None}, "either a concurrency or a request rate"),
        ({"concurrency": None, "request_rate": 0.0}, "more than 0"),
        ({"concurrency": None, "request_rate": float("inf")}, "more than 0"),
        ({"concurrency": None, "request_rate": float("nan")}, "more than 0"),
    ],
)
def test_a_loop_that_is_neither_closed_nor_open_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_load(load("http://x", **changes))


@pytest.mark.parametrize("field", ["concurrency", "num_prompts", "prompt_tokens", "output_tokens"])
def test_a_load_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        run_load(load("http://x", **{field: 0}))


def test_base_urls() -> None:
    plain = parse_endpoint("http://host:8000", "/v1/completions")
    assert plain == parse_endpoint("http://host:8000/v1/", "/v1/completions")
    assert (plain.host, plain.port, plain.path, plain.tls) == ("host", 8000, "/v1/completions", False)
    behind = parse_endpoint("https://host/llm/v1", "/v1/completions")
    assert (behind.port, behind.path, behind.tls) == (443, "/llm/v1/completions", True)


@pytest.mark.parametrize("url", ["host:8000", "ftp://host", "http://", "http://host:port"])
def test_base_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="--base-url"):
        parse_endpoint(url, "/v1/completions")
