"""The load generator and the server understand each other."""

from __future__ import annotations

from shoal.bench.load import Load
from shoal.bench.load_generator import run_load
from tests.server.fakes import FakeEngine, ids
from tests.server.running_server import MODEL, run_server


def test_every_token_is_counted_on_both_sides() -> None:
    engine = FakeEngine(reply=lambda request: ids("hello"))
    with run_server(engine) as running:
        load = Load(
            base_url=running.url,
            model=MODEL,
            concurrency=4,
            num_prompts=8,
            prompt_tokens=20,
            output_tokens=30,
            token_id_range=(0, 256),
        )
        report = run_load(load)
    assert (report.num_successful, report.first_error) == (8, None)
    assert report.total_input_tokens == 8 * 20
    assert report.total_output_tokens == 8 * 30
    assert {(len(request.prompt_ids), request.max_tokens) for request in engine.requests} == {(20, 30)}
    assert all(not request.stop_token_ids for request in engine.requests)
