"""`shoal serve` over a folder with an encoder: vectors stay the same while workers die."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import openai
import pytest

from tests.integration.running import kill
from tests.integration.served import Served, wait_until
from tests.model.encoder.tiny_encoders import WORDS, make_encoder

TEXTS = [" ".join(WORDS[first : first + count]) for first in range(4) for count in range(1, 13)]
NUM_REQUESTS = 40


@contextmanager
def served_encoder(folder: Path, *options: str, name: str | None = "tiny") -> Generator[Served, None, None]:
    """`name`: None: as the folder says."""
    named = () if name is None else ("--name", name)
    command = ("serve", str(folder), "--port", "0", *named, "--threads", "1", "--no-access-log")
    with subprocess.Popen(
        [sys.executable, "-m", "shoal.cli.main", *command, *options], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if line.startswith("serving "))
            yield Served(url=line.split()[-1].removesuffix("/v2"), process=process)
        finally:
            process.kill()


@pytest.mark.parametrize("split", ["dp=2"])
def test_vectors_stay_the_same_when_workers_die(tmp_path: Path, split: str) -> None:
    folder = make_encoder(tmp_path / "model")
    with (
        served_encoder(folder, "--split", split) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
        ThreadPoolExecutor(4) as threads,
    ):

        def ask(place: int) -> np.ndarray:
            answer = client.embeddings.create(model="tiny", input=TEXTS[place % 7 :])
            return np.array([one.embedding for one in answer.data])

        undisturbed = ask(0)
        assert np.linalg.norm(undisturbed, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)
        asked = [threads.submit(ask, place) for place in range(NUM_REQUESTS)]
        first = server.workers()[0]
        kill(first)
        asked += [threads.submit(ask, place) for place in range(NUM_REQUESTS)]
        for place, one in enumerate(asked):
            np.testing.assert_allclose(one.result(), undisturbed[place % NUM_REQUESTS % 7 :], atol=1e-5)
        wait_until(lambda: first not in server.workers() and len(server.workers()) == 2 and ask(0).size > 0)
