"""The MiniLM encoder behind HTTP: Shoal's server, or the same session as a Ray Serve deployment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from closed_loop import Answer, Connection
from infer_requests import http_post, infer_request, only_output
from processes import SHOAL, free_port, running
from real_inputs import sentence_rows

NAME = "minilm"
OUTPUT = "sentence_embedding"
_TOLERANCE = 1e-5
"""Of numbers of at most 1: batches of other sizes take fp32 sums in another order."""


@contextmanager
def shoal_server(model: Path, *options: str) -> Iterator[int]:
    """`shoal serve` while the block runs; gives the port."""
    port = free_port()
    command = [*SHOAL, "serve", str(model), "--name", NAME, "--port", str(port), *options]
    with running(command, health_url=f"http://127.0.0.1:{port}/ready"):
        yield port


@contextmanager
def ray_server(python: str, model: Path, *options: str) -> Iterator[int]:
    """The Ray Serve deployment while the block runs, in the environment of another Python; gives the port."""
    port = free_port()
    script = Path(__file__).with_name("ray_encoder.py")
    command = [python, str(script), "--model", str(model), "--port", str(port), *options]
    with running(command, health_url=f"http://127.0.0.1:{port}/"):
        yield port


def plain_session(model: Path, threads: int) -> ort.InferenceSession:
    """The whole file in this process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model, options)


def sentences(num_clients: int, tokens: int) -> list[dict[str, npt.NDArray[np.int64]]]:
    """One sentence for every client, all of one length, so that they can share a batch."""
    rows = sentence_rows(num_clients, tokens)
    return [{name: array[[row]] for name, array in rows.items()} for row in range(num_clients)]


def shoal_requests(inputs: Sequence[dict[str, npt.NDArray[np.int64]]]) -> list[bytes]:
    """For the server's infer endpoint."""
    return [infer_request(NAME, each) for each in inputs]


def ray_requests(inputs: Sequence[dict[str, npt.NDArray[np.int64]]]) -> list[bytes]:
    """Bare bytes, ids and mask: Ray Serve has no tensor protocol of its own, and this is the cheapest."""
    return [http_post("/", b"".join(array.tobytes() for array in each.values())) for each in inputs]


def check_shoal(port: int, model: Path, inputs: dict[str, npt.NDArray[np.int64]]) -> None:
    """The server's answer is the bare session's."""
    _check(only_output(_ask(port, infer_request(NAME, inputs))), model, inputs)


def check_ray(port: int, model: Path, inputs: dict[str, npt.NDArray[np.int64]]) -> None:
    """The deployment's answer is the bare session's."""
    answer = _ask(port, ray_requests([inputs])[0])
    _check(np.frombuffer(answer.body, dtype=np.float32), model, inputs)


def num_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def _ask(port: int, request: bytes) -> Answer:
    connection = Connection(port)
    answer = connection.ask(request)
    connection.close()
    return answer


def _check(answered: npt.NDArray[np.float32], model: Path, inputs: dict[str, npt.NDArray[np.int64]]) -> None:
    (expected,) = plain_session(model, 1).run([OUTPUT], inputs)
    np.testing.assert_allclose(answered, np.asarray(expected)[0], rtol=0, atol=_TOLERANCE)
