"""A drill's requests to an ONNX graph, over the Open Inference Protocol."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from shoal.arrays import Array
from shoal.bench.chaos.answer import ChaosAnswer
from shoal.bench.chaos.config import ChaosConfig
from shoal.bench.chaos.inferences import InferenceQuestions
from shoal.bench.drill.clients import DrillClients
from shoal.bench.drill.pauses import ClientPace
from shoal.errors import ConfigError
from shoal.server.oip.datatypes import DTYPES

_QUESTIONS = 64
"""Number of different requests, which are repeated."""


class DrillInferences(DrillClients):
    """Clients that send one request with rows after the other."""

    def __init__(
        self, http: httpx.AsyncClient, url: str, model: str, inputs: Mapping[str, Array], *, count: int
    ) -> None:
        """
        Args:
            http: an HTTP client with the server's key.
            url: the server's address.
            model: the model's name on the server.
            inputs: see `InferenceQuestions`.
            count: the number of clients.

        Raises:
            ConfigError: an input has no rows.
        """
        super().__init__(count)
        config = ChaosConfig(model=model, clients=1, requests=_QUESTIONS)
        self._questions = InferenceQuestions(http, config, url, model, inputs)
        self._answers: list[list[ChaosAnswer]] = [[] for _ in range(count)]

    def errors(self) -> Sequence[str | None]:
        """See `DrillClients.errors`."""
        return [one.error for answers in self._answers for one in answers]

    def arrivals(self) -> list[Sequence[float]]:
        """See `DrillClients.arrivals`."""
        return [[one.ended_s for one in answers] for answers in self._answers]

    def pace(self, since_s: float) -> ClientPace | None:
        """See `DrillClients.pace`."""
        gap_s = self.median_gap_s([[at_s for at_s in times if at_s >= since_s] for times in self.arrivals()])
        return None if gap_s is None else ClientPace(gap_s=gap_s, again_s=gap_s)

    def again(self, num_running: int) -> float:
        """See `DrillClients.again`. A request is computed again as a whole."""
        return 1.0

    async def ask(self, index: int) -> bool:
        """See `DrillClients.ask`."""
        answers = self._answers[index]
        answer = await self._questions.ask((len(answers) + index) % len(self._questions), time.perf_counter)
        answer.outputs = {}  # unused, and a drill may take long
        answers.append(answer)
        return answer.error is None


def made_up_inputs(metadata: Mapping[str, Any]) -> dict[str, Array]:
    """Make up one row for a model, with length 1 for open axes.

    Args:
        metadata: the model's metadata from the server.

    Raises:
        ConfigError: no values can be made up for an input's type.
    """
    rng = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    for one in metadata["inputs"]:
        dtype = DTYPES.get(one["datatype"])
        if dtype is None:
            raise ConfigError(
                f"no row can be made up for input {one['name']!r} of type {one['datatype']}: give rows with --inputs"
            )
        shape = [size if size > 0 else 1 for size in one["shape"]]
        inputs[one["name"]] = rng.random(shape).astype(dtype)
    return inputs
