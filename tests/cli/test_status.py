"""`shoal status` against a server in this process."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

from tests.server.fakes import FakeEngine
from tests.server.running_server import run_server


def shoal(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250.0, stdin=subprocess.DEVNULL)


def shoal_status(*arguments: str) -> subprocess.CompletedProcess[str]:
    return shoal("status", *arguments)


@contextmanager
def answering(content: bytes) -> Generator[str, None, None]:
    """The address of a server that says the same to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_person_and_a_program_read_the_same() -> None:
    with run_server(FakeEngine(), api_key="secret") as running:
        shown = shoal_status(running.url, "--api-key", "secret")
        told = json.loads(shoal_status(running.url, "--api-key", "secret", "--json").stdout)
        refused = shoal_status(running.url)
    assert shown.returncode == 0, shown.stderr
    assert "tiny (language model, split pp=1:1)" in shown.stdout
    assert "a -> b: TLS, hidden states in int8" in shown.stdout
    assert "serving" in shown.stdout
    assert "planned anew" in " ".join(shown.stdout.split())
    assert "shard" not in shown.stdout
    assert "usual" in shown.stdout
    (model,) = told["models"]
    assert model["rates"] == {"prompt_tokens": 0.0, "generation_tokens": 0.0}
    assert (refused.returncode, "--api-key" in refused.stderr) == (2, True)


def test_nobody_there_is_one_line() -> None:
    done = shoal_status("http://127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no server answers at http://127.0.0.1:1" in done.stderr


def test_a_story_is_told_to_people_and_programs() -> None:
    engine = FakeEngine()
    engine.story.note(0.0, 0, "request call-0 came, 3 prompt tokens", request_ids=["call-0"])
    engine.story.note(1.0, 0, "decided", ["1 tokens", "step 1, 3 rows of 1 requests"])
    with run_server(engine) as running:
        shown = shoal_status(running.url, "--story", "0")
        told = json.loads(shoal_status(running.url, "--story", "call", "--json").stdout)
        nothing = shoal_status(running.url, "--story", "7")
        refused = shoal_status(running.url, "--story", "")
    first, second = shown.stdout.splitlines()
    assert first.endswith(" replica 0 request call-0 came, 3 prompt tokens")
    assert second.endswith(" replica 0 decided: 1 tokens; step 1, 3 rows of 1 requests")
    assert [entry["requests"] for entry in told["entries"]] == [["call-0"]]
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "nothing is known of 7" in nothing.stderr
    assert (refused.returncode, "give ?of=" in refused.stderr) == (2, True)


def test_models_that_are_not_loaded_are_shown_and_not_drilled() -> None:
    model = {"name": "b", "kind": "language model", "state": "unloaded"}
    with answering(json.dumps({"version": "1", "models": [model]}).encode()) as url:
        shown, drilled = shoal_status(url), shoal("drill", url)
    assert (shown.returncode, "b (language model): unloaded" in shown.stdout) == (0, True), shown.stderr
    assert (drilled.returncode, drilled.stderr.count("\n")) == (2, 1)
    assert "has no loaded model" in drilled.stderr


def test_a_drill_that_cannot_ask_says_how_to_allow_it() -> None:
    with run_server(FakeEngine()) as running:
        drilled = shoal("drill", running.url)
    assert (drilled.returncode, "--yes" in drilled.stderr) == (2, True)


def test_another_server_is_told_in_one_line() -> None:
    with answering(b"<html>hello") as url:
        for command in ("status", "drill"):
            told = shoal(command, url)
            assert (told.returncode, told.stderr.count("\n")) == (2, 1)
            assert "is not a Shoal server" in told.stderr
