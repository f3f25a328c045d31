"""The load of the last hour: a bounded ring of samples of `/status`, taken every few seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any

import numpy as np

PERIOD_S = 5.0
"""Time between two samples. A judgment: a loss and its recovery, a second or two, still lower a sample's rate."""
NUM_SAMPLES = 720
"""Samples of each model: an hour."""
MAX_MODELS = 64
"""Further models, in the order of `/status`, have no samples: 26 KB each."""
FIELDS = ("in_per_s", "out_per_s", "running", "waiting", "kv_usage", "serving", "losses")
"""Fields of a sample: prompt tokens and output tokens (of a graph: rows) a second since the previous sample, requests,
fraction of the KV blocks in use, replicas that have their workers, and losses so far."""

_logger = logging.getLogger("shoal.server")
Describe = Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]


@dataclass(slots=True)
class _Ring:
    """The samples of one model."""

    rows: np.ndarray[Any, np.dtype[np.float32]] = field(
        default_factory=lambda: np.full((NUM_SAMPLES, len(FIELDS)), nan, dtype=np.float32)
    )
    times_s: np.ndarray[Any, np.dtype[np.float64]] = field(default_factory=lambda: np.zeros(NUM_SAMPLES))
    count: int = 0
    """Samples so far, including overwritten ones."""

    def add(self, now_s: float, values: Sequence[float]) -> None:
        """Add a sample; the oldest one is overwritten."""
        at = self.count % NUM_SAMPLES
        self.rows[at], self.times_s[at] = values, now_s
        self.count += 1

    def in_order(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Indices of the samples, the oldest first."""
        first = max(0, self.count - NUM_SAMPLES)
        return np.arange(first, self.count) % NUM_SAMPLES


class LoadHistory:
    """Takes samples while the server runs. Belongs to its event loop."""

    def __init__(self, describe: Describe, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            describe: `Status.describe`.
            clock: monotonic seconds.
        """
        self._describe, self._clock = describe, clock
        self._rings: dict[str, _Ring] = {}
        self._before: dict[str, tuple[float, Mapping[str, float]]] = {}
        """When each model was last sampled, and its counters at that time."""
        self._task: asyncio.Task[None] | None = None
        self._has_tried = asyncio.Event()
        """Whether the first sample has been taken, or could not be."""

    def start(self) -> None:
        """Take samples from now on, in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Take no more samples. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def sample(self) -> None:
        """Sample every model once; models that no longer exist are removed."""
        models = (await self._describe())[:MAX_MODELS]
        now_s = self._clock()
        names = {model["name"] for model in models}
        for name in [name for name in self._rings if name not in names]:
            del self._rings[name]
            self._before.pop(name, None)
        for model in models:
            name, counters = model["name"], model.get("counters", {})
            values = _values(model, self._before.get(name), now_s)
            self._rings.setdefault(name, _Ring()).add(now_s, values)
            self._before[name] = now_s, counters

    async def first_sample(self) -> None:
        """Wait for the first sample after `start`, but no longer than until the next one is due."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._has_tried.wait(), PERIOD_S)

    def series(self) -> list[dict[str, Any]]:
        """For each model: `name`, `age_s` of each sample, the oldest first, and values by `FIELDS`; None: unknown."""
        now_s = self._clock()
        return [
            {
                "name": name,
                "age_s": [round(now_s - float(time_s), 1) for time_s in ring.times_s[ring.in_order()]],
                **{what: _plain(ring.rows[ring.in_order(), column]) for column, what in enumerate(FIELDS)},
            }
            for name, ring in self._rings.items()
        ]

    async def _run(self) -> None:
        while True:
            try:
                await self.sample()
            except Exception:  # the outermost loop of this task: a curve with a gap is better than none
                _logger.exception("cannot sample the load for the page's history")
            self._has_tried.set()
            await asyncio.sleep(PERIOD_S)


def _values(model: Mapping[str, Any], before: tuple[float, Mapping[str, float]] | None, now_s: float) -> list[float]:
    """One sample, in the order of `FIELDS`."""
    counters, replicas = model.get("counters", {}), model.get("replicas", ())  # empty: it is not loaded
    usages = [one["kv_usage"] for one in replicas if one.get("kv_usage") is not None]
    return [
        _rate("prompt_tokens", counters, before, now_s),
        _rate("rows" if "rows" in counters else "generation_tokens", counters, before, now_s),
        counters.get("running", nan),
        counters.get("waiting", nan),
        sum(usages) / len(usages) if usages else nan,
        sum(one["state"] == "serving" for one in replicas) if replicas else nan,
        counters.get("losses", nan),
    ]


def _rate(
    name: str, counters: Mapping[str, float], before: tuple[float, Mapping[str, float]] | None, now_s: float
) -> float:
    """Growth of a counter per second. A counter that has become smaller counts from 0 again, because the server of the
    model has been restarted."""
    if before is None or name not in counters or name not in before[1] or now_s <= before[0]:
        return nan
    known = before[1][name] if counters[name] >= before[1][name] else 0
    return (counters[name] - known) / (now_s - before[0])


def _plain(values: np.ndarray[Any, np.dtype[np.float32]]) -> list[float | None]:
    return [None if isnan(value) else round(float(value), 3) for value in values]
