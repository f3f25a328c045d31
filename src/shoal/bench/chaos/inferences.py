"""Inference requests with comparable answers: a few rows of given inputs each, as binary tensors."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import msgspec
import numpy as np

from shoal.arrays import Array
from shoal.bench.chaos.answer import ChaosAnswer
from shoal.bench.chaos.config import ChaosConfig
from shoal.errors import ConfigError, InvalidRequest
from shoal.server.oip.datatypes import datatype_of_array
from shoal.server.oip.tensor_bytes import array_from_bytes, bytes_of_array

_SIZE_HEADER = "inference-header-content-length"
_MOST_ROWS = 4
"""Most rows of a request. Their numbers vary, so that batches differ."""
_TIMEOUT_S = 300.0
_NUM_COMPARED = 4096
"""Elements of each output that are kept and compared, evenly spaced, as outputs may have millions."""


class InferenceQuestions:
    """Implements `bench.chaos.questions.Questions`."""

    metrics_prefix = "shoal:inference_"

    def __init__(
        self, client: httpx.AsyncClient, config: ChaosConfig, url: str, model: str, inputs: Mapping[str, Array]
    ) -> None:
        """
        Args:
            client: an HTTP client with as many connections as there are clients in the run.
            config: the settings of the run.
            url: the server's address.
            model: the model's name on the server.
            inputs: arrays by name, with rows along the first axis. If the arrays have different numbers of rows, each
                request sends all of them unchanged.

        Raises:
            ConfigError: an input has no rows.
        """
        if empty := [name for name, array in inputs.items() if array.ndim and not len(array)]:
            raise ConfigError(f"input {empty[0]!r} has no rows")
        lengths = {len(array) if array.ndim else None for array in inputs.values()}
        num_rows = lengths.pop() if len(lengths) == 1 else None
        rng = random.Random(f"{config.seed}/rows")
        self._spans = [None if num_rows is None else _some_rows(rng, num_rows) for _ in range(config.num_requests)]
        self._inputs = inputs
        self._client = client
        self._url = f"{url}/v2/models/{model}/infer"

    def __len__(self) -> int:
        return len(self._spans)

    async def ask(self, index: int, clock: Callable[[], float]) -> ChaosAnswer:
        """See `Questions.ask`."""
        answer = ChaosAnswer(started_s=clock())
        span = self._spans[index]
        head, content = _body({name: array if span is None else array[span] for name, array in self._inputs.items()})
        try:
            reply = await self._client.post(
                self._url, content=content, headers={_SIZE_HEADER: str(head)}, timeout=_TIMEOUT_S
            )
            if reply.status_code == 200:
                answer.outputs = {name: _some(array) for name, array in _outputs(reply).items()}
            else:
                answer.error = f"HTTP {reply.status_code}: {reply.text[:500]}"
        except (httpx.HTTPError, msgspec.MsgspecError, InvalidRequest) as error:
            answer.error = f"{type(error).__name__}: {error}"
        answer.ended_s = clock()
        answer.arrivals_s.append(answer.ended_s)
        return answer


def _some_rows(rng: random.Random, num_rows: int) -> slice:
    first = rng.randrange(num_rows)
    return slice(first, min(num_rows, first + rng.randint(1, _MOST_ROWS)))


class _OutputParameters(msgspec.Struct):
    binary_data_size: int


class _Output(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: _OutputParameters


class _Reply(msgspec.Struct):
    outputs: list[_Output]


def _body(inputs: Mapping[str, Array]) -> tuple[int, bytes]:
    """Bytes of the JSON part, and all bytes."""
    raw = {name: bytes(bytes_of_array(array)) for name, array in inputs.items()}
    fields: dict[str, Any] = {
        "inputs": [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype_of_array(array),
                "parameters": {"binary_data_size": len(raw[name])},
            }
            for name, array in inputs.items()
        ],
        "parameters": {"binary_data_output": True},
    }
    head = msgspec.json.encode(fields)
    return len(head), b"".join([head, *raw.values()])


def _outputs(reply: httpx.Response) -> dict[str, Array]:
    size = int(reply.headers[_SIZE_HEADER])
    outputs: dict[str, Array] = {}
    rest = memoryview(reply.content)[size:]
    for one in msgspec.json.decode(reply.content[:size], type=_Reply).outputs:
        num_bytes = one.parameters.binary_data_size
        outputs[one.name] = array_from_bytes(one.name, one.datatype, one.shape, rest[:num_bytes])
        rest = rest[num_bytes:]
    return outputs


def _some(array: Array) -> Array:
    flat = array.reshape(-1)
    return np.array(flat[:: max(1, -(-flat.size // _NUM_COMPARED))])
