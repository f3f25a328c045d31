"""Samples of the load: rates, gaps, and bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from shoal.server.web import history
from shoal.server.web.history import FIELDS, MAX_MODELS, NUM_SAMPLES, LoadHistory
from tests.server.fakes import FakeEngine
from tests.server.running_server import run_server
from tests.server.web.plans import page


class Watched:
    """Models that say what they are told to, and a clock that is set."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.models: list[dict[str, Any]] = []
        self.history = LoadHistory(self.describe, lambda: self.now_s)

    async def describe(self) -> list[dict[str, Any]]:
        return self.models

    def sample(self, *models: dict[str, Any], after_s: float = 5.0) -> None:
        self.now_s += after_s
        self.models = [*models]
        asyncio.run(self.history.sample())


def language(name: str = "tiny", **counters: int) -> dict[str, Any]:
    replicas = [{"state": "serving", "kv_usage": 0.25}, {"state": "starting", "kv_usage": 0.75}]
    return {"name": name, "counters": counters, "replicas": replicas}


def test_rates_are_of_the_time_between_two_samples() -> None:
    watched = Watched()
    watched.sample(language(prompt_tokens=100, generation_tokens=10, running=2, waiting=1, losses=0))
    watched.sample(language(prompt_tokens=150, generation_tokens=30, running=3, waiting=0, losses=1))
    watched.now_s += 2.0
    assert watched.history.series() == [
        {
            "name": "tiny",
            "age_s": [7.0, 2.0],
            "in_per_s": [None, 10.0],
            "out_per_s": [None, 4.0],
            "running": [2.0, 3.0],
            "waiting": [1.0, 0.0],
            "kv_usage": [0.5, 0.5],
            "serving": [1.0, 1.0],
            "losses": [0.0, 1.0],
        }
    ]


def test_counters_of_a_server_that_was_started_again_count_from_nothing() -> None:
    watched = Watched()
    watched.sample(language(prompt_tokens=100, generation_tokens=10))
    watched.sample(language(prompt_tokens=20, generation_tokens=15))
    (series,) = watched.history.series()
    assert (series["in_per_s"], series["out_per_s"]) == ([None, 4.0], [None, 1.0])


def test_graphs_count_rows_and_an_engine_without_time_leaves_a_gap() -> None:
    watched = Watched()
    for rows in (0, 50):
        watched.sample({"name": "g", "counters": {"rows": rows, "running": 1}, "replicas": [{"state": "serving"}]})
    watched.sample({"name": "g", "counters": {}, "replicas": []})
    (series,) = watched.history.series()
    assert series["out_per_s"] == [None, 10.0, None]
    assert series["serving"] == [1.0, 1.0, None]
    assert series["kv_usage"] == [None] * 3


def test_an_hour_is_kept_and_no_more() -> None:
    watched = Watched()
    for count in range(NUM_SAMPLES + 10):
        watched.sample(language(running=count))
    (series,) = watched.history.series()
    assert all(len(series[what]) == NUM_SAMPLES for what in ("age_s", *FIELDS))
    assert (series["running"][0], series["running"][-1]) == (10.0, NUM_SAMPLES + 9.0)
    assert series["age_s"][0] == pytest.approx(5.0 * (NUM_SAMPLES - 1))


def test_models_that_are_gone_are_forgotten_and_too_many_are_not_sampled() -> None:
    watched = Watched()
    watched.sample(*(language(str(index)) for index in range(MAX_MODELS + 5)))
    assert len(watched.history.series()) == MAX_MODELS
    watched.sample(language("other"))
    assert [one["name"] for one in watched.history.series()] == ["other"]


def test_a_server_samples_itself_from_the_start() -> None:
    with run_server(FakeEngine(), page=page()) as running:
        answer = httpx.get(f"{running.url}/status/history").json()
    assert answer["period_s"] == 5.0
    (series,) = answer["models"]
    assert (series["name"], {*series["running"]}, {*series["kv_usage"]}) == ("tiny", {0.0}, {0.25})


def test_a_first_sample_is_waited_for_but_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "PERIOD_S", 0.01)
    told = asyncio.Event()

    async def describe() -> list[dict[str, Any]]:
        await told.wait()
        return [language()]

    async def ask() -> list[int]:
        counts, watched = [], LoadHistory(describe)
        watched.start()
        for _ in range(2):
            await watched.first_sample()
            counts.append(len(watched.series()))
            told.set()
            await asyncio.sleep(0)
        await watched.close()
        return counts

    assert asyncio.run(ask()) == [0, 1]
