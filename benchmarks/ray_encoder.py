"""A Ray Serve deployment of one ONNX session with dynamic batching, for `onnx_serving.py`. Runs in Ray's environment.

Body of a request: token ids, then the mask, as int64. Body of the answer: the vector as float32.
"""

from __future__ import annotations

import argparse
import signal
import tempfile

import numpy as np
import onnxruntime as ort
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response


def main() -> None:
    """Deploy, then wait for a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True, help="of each replica's session")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--max-batch", type=int, required=True)
    parser.add_argument("--batch-wait", type=float, default=0.0, help="seconds")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    with tempfile.TemporaryDirectory(prefix="shoal-ray-", ignore_cleanup_errors=True) as folder:
        ray.init(include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": options.port})
            deployment = _deployment(options.max_batch, options.batch_wait, options.replicas)
            serve.run(deployment.bind(options.model, options.threads))
            signal.pause()
        finally:
            ray.shutdown()


def _stop(*_: object) -> None:
    """Leave through Ray's own cleaning up, which ends the processes that it started."""
    raise SystemExit(0)


def _deployment(max_batch: int, batch_wait_s: float, num_replicas: int) -> serve.Deployment:
    @serve.deployment(num_replicas=num_replicas, max_ongoing_requests=4 * max_batch)
    class Encoder:
        def __init__(self, model: str, threads: int) -> None:
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads
            self._session = ort.InferenceSession(model, options)

        @serve.batch(max_batch_size=max_batch, batch_wait_timeout_s=batch_wait_s)
        async def _encode(self, rows: list[np.ndarray]) -> list[np.ndarray]:
            ids_2BS = np.stack(rows, axis=1)
            (vectors_BH,) = self._session.run(None, {"input_ids": ids_2BS[0], "attention_mask": ids_2BS[1]})
            return list(vectors_BH)

        async def __call__(self, request: Request) -> Response:
            if request.method == "GET":  # the start of the benchmark waits for this
                return PlainTextResponse("ready")
            row = np.frombuffer(await request.body(), dtype=np.int64).reshape(2, -1)
            vector = await self._encode(row)
            return Response(vector.tobytes(), media_type="application/octet-stream")

    return Encoder


if __name__ == "__main__":
    main()
