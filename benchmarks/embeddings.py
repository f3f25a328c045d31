"""Vectors of texts over HTTP against sentence-transformers' own batched encode: `python benchmarks/embeddings.py`.

MiniLM, 32 clients that each send one text of their own (4 to 96 words) again and again, against
`SentenceTransformer.encode` on all cores in two forms. In one it is given what the clients hold at a time, 32 texts a
call, as a server around it would: they are one batch, padded to the longest. In the other it knows all texts of the run
from the beginning, which no server does, and sorts them: as each text is there many times, the texts of a batch are all
alike and nothing is padded. All in turn, ROUNDS times. First all vectors are compared: they must be equal to 1e-5.

SPLIT=dp=2, THREADS=1, REQUESTS=1280 (of all clients, a round), ROUNDS=7 and TEXTS=1 (of each request) change the run.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from urllib.parse import urlsplit

import httpx
import msgspec
import numpy as np
from closed_loop import closed_loop
from ratios import Target, measure_rounds, ratio_table, sample_table
from real_inputs import minilm_folder
from report import command_line, write_result
from sentence_transformers import SentenceTransformer

from shoal.server.switch.server_process import MODEL_NAME, running_server

SPLIT = os.environ.get("SPLIT", "dp=2")
THREADS = os.environ.get("THREADS", "1")
NUM_REQUESTS = int(os.environ.get("REQUESTS", "1280"))
ROUNDS = int(os.environ.get("ROUNDS", "7"))
NUM_TEXTS = int(os.environ.get("TEXTS", "1"))
_CLIENTS = 32
_AT_LEAST = 1.5
_AS_HELD = "sentence-transformers, a call of the texts that clients hold"
_ALL_KNOWN = "sentence-transformers, one call of all texts"
_MOST_DIFFERENCE = 1e-5
_WORDS = "time year people way day man thing woman life child world school state family student group country problem"


def make_texts() -> list[list[str]]:
    """Of each client."""
    rng = random.Random(0)
    words = _WORDS.split()
    return [[" ".join(rng.choices(words, k=rng.randint(4, 96))) for _ in range(NUM_TEXTS)] for _ in range(_CLIENTS)]


def request_of(port: int, texts: list[str]) -> bytes:
    """A whole HTTP request, base64 as the official client asks for it."""
    body = msgspec.json.encode({"model": MODEL_NAME, "input": texts, "encoding_format": "base64"})
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def largest_difference(url: str, texts: list[list[str]], reference: SentenceTransformer) -> float:
    """Between the server's vectors and sentence-transformers'."""
    flat = [text for one in texts for text in one]
    answer = httpx.post(f"{url}/v1/embeddings", json={"input": flat}, timeout=60.0).json()
    vectors = np.array([one["embedding"] for one in answer["data"]], np.float32)
    return float(np.abs(vectors - reference.encode(flat)).max())


def main() -> None:
    """Serve, measure, print and write the result file."""
    texts = make_texts()
    reference = SentenceTransformer(str(minilm_folder()), device="cpu")
    with asyncio.Runner() as runner:
        serving = running_server(str(minilm_folder()), ("--split", SPLIT, "--threads", THREADS))
        server = runner.run(serving.__aenter__())
        try:
            port = urlsplit(server.url).port or 0
            difference = largest_difference(server.url, texts, reference)
            if difference > _MOST_DIFFERENCE:
                raise SystemExit(f"vectors differ by {difference:.1e}")
            requests = [request_of(port, one) for one in texts]
            held, repeats = [text for one in texts for text in one], NUM_REQUESTS // _CLIENTS

            def served() -> float:
                result = closed_loop(port, requests, num_requests=NUM_REQUESTS)
                return result.requests_per_s * NUM_TEXTS

            def encoded(calls: list[list[str]]) -> float:
                started_s = time.perf_counter()
                for call in calls:
                    reference.encode(call, batch_size=32)
                return sum(map(len, calls)) / (time.perf_counter() - started_s)

            contenders = {
                "Shoal": served,
                _AS_HELD: lambda: encoded([held] * repeats),
                _ALL_KNOWN: lambda: encoded([held * repeats]),
            }
            for warm_up in contenders.values():
                warm_up()
            samples = measure_rounds(contenders, ROUNDS, "texts/s")
        finally:
            runner.run(serving.__aexit__(None, None, None))
    targets = [
        Target(
            what=f"texts/s over {reference_name}, {_CLIENTS} clients, {SPLIT}",
            contender="Shoal",
            reference=reference_name,
            at_least=_AT_LEAST,
        )
        for reference_name in (_AS_HELD, _ALL_KNOWN)
    ]
    lines = [
        f"Largest difference of a number of a vector: {difference:.1e}.",
        "",
        *sample_table(samples, "texts/s", 1),
        "",
        *ratio_table(samples, targets),
    ]
    print("\n".join(lines))
    variables = ("SPLIT", "THREADS", "REQUESTS", "ROUNDS", "TEXTS")
    print(write_result("embeddings", lines, command=command_line(__file__, *variables)))


if __name__ == "__main__":
    main()
