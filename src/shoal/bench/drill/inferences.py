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
"""Different requests; they are asked again and again."""


class DrillInferences(DrillClients):
    """Clients that send rows, one request after the other."""

    def __init__(
        self, http: httpx.AsyncClient, url: str, model: str, inputs: Mapping[str, Array], *, count: int
    ) -> None:
        """
        Args:
            http: with the server's key.
            url: of the server.
            model: its name there.
            inputs: see `InferenceQuestions`.
            count: of clients.

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
        """A request begins from its start."""
        return 1.0

    async def ask(self, index: int) -> bool:
        """See `DrillClients.ask`."""
        answers = self._answers[index]
        answer = await self._questions.ask((len(answers) + index) % len(self._questions), time.perf_counter)
        answer.outputs = {}  # nobody looks at them, and a drill may last
        answers.append(answer)
        return answer.error is None


def made_up_inputs(metadata: Mapping[str, Any]) -> dict[str, Array]:
    """One row for a model; axes of any length are 1 long.

    Args:
        metadata: of the model, as the server tells it.

    Raises:
        ConfigError: an input has elements for which nothing can be made up.
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
