"""A chain over two workers, and the same steps called one by one through the same server.

    python benchmarks/chains.py

The chain is examples/ocr_chain over real weights; photos are drawn pages, each of other lines. The client that calls
the steps one by one does what a user does without chains: for one photo after the other it decodes, prepares, asks the
detector, cuts, asks the recognizer for each line, and reads, with Triton's client and the chain's own functions. The
client of the chain sends the files, several at once. Both ask one server with a worker of one thread for each core.
ROUNDS=5 and PHOTOS=32 change the run.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import tritonclient.http
from encoder_server import num_cores
from PIL import Image
from processes import SHOAL, free_port, running
from ratios import Target, measure_rounds, ratio_table, sample_table
from real_inputs import ocr_detector, ocr_recognizer
from report import command_line, write_result

from examples.images import cut, draw_page, prepare, read

CHAIN = Path(__file__).parents[1] / "examples" / "ocr_chain"
CLIENTS = 8
"""Photos that the chain's client has under way."""
LINES = 4
TIMEOUT_S = 300.0
TARGETS = (
    Target(what="photos/s, the chain vs one by one", contender="chain", reference="one by one", at_least=1.5),
    Target(what="photos/s, the chain vs one file at a time", contender="chain", reference="one file", at_least=None),
)


def main() -> None:
    """Run all rounds and write the result."""
    rounds, num_photos = int(os.environ.get("ROUNDS", "5")), int(os.environ.get("PHOTOS", "32"))
    photos = [photo(number) for number in range(num_photos)]
    port = free_port()
    split = ("--split", f"dp={num_cores()}", "--threads", "1")
    command = [*SHOAL, "serve", str(CHAIN), "--port", str(port), *split, "--no-access-log"]
    with running(command, health_url=f"http://127.0.0.1:{port}/ready"), ThreadPoolExecutor(CLIENTS) as pool:
        expected = [one_by_one(port, [each]) for each in photos[:CLIENTS]]
        assert [[lines] for lines in pool.map(lambda each: ask(port, each), photos[:CLIENTS])] == expected

        def chain(num_clients: int) -> float:
            begun_s = time.perf_counter()
            if num_clients == 1:
                answers = [ask(port, each) for each in photos]
            else:
                answers = list(pool.map(lambda each: ask(port, each), photos))
            assert all(len(lines) == LINES for lines in answers)
            return len(photos) / (time.perf_counter() - begun_s)

        def steps() -> float:
            begun_s = time.perf_counter()
            one_by_one(port, photos)
            return len(photos) / (time.perf_counter() - begun_s)

        contenders = {"one by one": steps, "one file": lambda: chain(1), "chain": lambda: chain(CLIENTS)}
        samples = measure_rounds(contenders, rounds, "photos/s")
    lines = [
        f"{num_photos} photos of 640 x 320 with {LINES} lines, PP-OCRv6, {' '.join(split)}; the chain's client has "
        f"{CLIENTS} photos under way.",
        "",
        *ratio_table(samples, TARGETS),
        "",
        *sample_table(samples, "photos/s", digits=2),
    ]
    print("\n".join(lines))
    print(write_result("chains", lines, command=command_line(__file__, "ROUNDS", "PHOTOS")))


def photo(number: int) -> bytes:
    """A picture file of its own lines."""
    file = io.BytesIO()
    draw_page([f"Line {number}.{line} of the log" for line in range(LINES)]).save(file, "jpeg", quality=92)
    return file.getvalue()


def ask(port: int, content: bytes) -> list[str]:
    """One request to the chain."""
    url = f"http://127.0.0.1:{port}/v2/models/ocr/infer"
    answer = httpx.post(url, content=content, headers={"content-type": "image/jpeg"}, timeout=TIMEOUT_S)
    return answer.raise_for_status().json()["outputs"][0]["data"]


def one_by_one(port: int, photos: Sequence[bytes]) -> list[list[str]]:
    """Every step of every photo from here."""
    found: list[list[str]] = []
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=TIMEOUT_S) as client:
        for content in photos:
            image = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            _, pieces = cut(image, _infer(client, ocr_detector().stem, prepare(image)))
            found.append([read(_infer(client, ocr_recognizer().stem, piece)) for piece in pieces])
    return found


def _infer(client: tritonclient.http.InferenceServerClient, model: str, array: np.ndarray) -> np.ndarray:
    given = tritonclient.http.InferInput("x", list(array.shape), "FP32")
    given.set_data_from_numpy(array)
    answered = client.infer(model, [given]).as_numpy("fetch_name_0")
    assert answered is not None
    return answered


if __name__ == "__main__":
    main()
