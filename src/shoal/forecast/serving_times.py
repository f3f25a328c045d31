"""Processor time of the server's head and of a load generator, measured by serving a model here for a few seconds.

Processor time is measured instead of elapsed time, because other processes hardly influence it. The loads differ in one
property each, so that the times of requests, steps and tokens can be separated.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import httpx
import psutil

from shoal.bench.load import Load
from shoal.bench.load_generator import RequestOutcome, run_requests
from shoal.errors import ConfigError, WorkerLost
from shoal.json_cache import ProfileCache, profile_folder
from shoal.measure.machine import this_machine
from shoal.planner.speeds.serving import ServingTimes
from shoal.planner.speeds.speeds import Curve

MEASURED_NAME = "measured"
_START_WITHIN_S, _END_WITHIN_S = 600.0, 30.0
_PROMPT_TOKENS = 16
_LONG_TOKENS, _MANY = 48, 8
_NUM_SHORT, _NUM_LONG, _NUM_TOGETHER = 24, 6, 32
"""Numbers of requests with one token each, with many tokens one after the other, and with many tokens several at once:
a few tenths of a second of the head's time for each load, a few seconds in all for a small model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Processor time during a load."""

    head_s: float
    client_s: float


def serving_times(model: str, vocab_size: int, turn: Curve, *, refresh: bool = False) -> ServingTimes:
    """Processor time of a model's requests and tokens on this machine, measured unless it is known.

    Args:
        model: the model as a user names it, with weights.
        vocab_size: the size of its vocabulary.
        turn: seconds of the head for a step with so many sequences, which are not part of the result.
        refresh: whether to measure again.

    Raises:
        WorkerLost: the server does not start.
        ConfigError: the server does not answer.
    """
    ids = plain_ids(vocab_size)
    kept = ProfileCache(profile_folder(), ServingTimes)
    key = {"what": "serving", "machine": asdict(this_machine()), "model": model}
    return kept.get_or_measure(key, lambda: _measure(model, ids, turn), refresh=refresh)


def solve(short: Spent, long: Spent, together: Spent, turn: Curve) -> ServingTimes:
    """Solve for the times of requests, steps and tokens from three loads, see `_measure`; none is negative."""
    one_token_s = short.head_s / _NUM_SHORT
    step_and_token_s = max(0.0, long.head_s / _NUM_LONG - one_token_s) / (_LONG_TOKENS - 1)
    request_s = max(0.0, one_token_s - step_and_token_s)
    in_batch_s = max(0.0, together.head_s / _NUM_TOGETHER - request_s) / _LONG_TOKENS
    whole_step_s = max(0.0, step_and_token_s - in_batch_s) / (1 - 1 / _MANY)
    whole_step_s = min(whole_step_s, step_and_token_s)
    client_token_s = max(0.0, long.client_s / _NUM_LONG - short.client_s / _NUM_SHORT) / (_LONG_TOKENS - 1)
    return ServingTimes(
        request_s=request_s,
        step_s=max(0.0, whole_step_s - turn.at(1.0)),
        token_s=step_and_token_s - whole_step_s,
        client_request_s=max(0.0, short.client_s / _NUM_SHORT - client_token_s),
        client_token_s=client_token_s,
    )


def plain_ids(vocab_size: int) -> tuple[int, int]:
    """[first, last) token ids that any vocabulary of this size has, without most special tokens."""
    return min(1000, vocab_size // 4), max(1, min(20_000, vocab_size * 3 // 4))


def send(load: Load) -> Sequence[RequestOutcome]:
    """Send a load to a server. Raises ConfigError if a request fails."""
    outcomes, _ = run_requests(load)
    for one in outcomes:
        if one.error is not None:
            raise ConfigError(f"the server by which requests are measured did not answer: {one.error}")
    return outcomes


def _measure(model: str, ids: tuple[int, int], turn: Curve) -> ServingTimes:
    """Measure three loads: requests of one token, one by one (a request, a step and a token each); long ones, one by
    one (as many steps as tokens); and long ones together (a step has a token of each)."""
    with serving(model, ("--split", "1")) as (url, process):
        short = _spent(url, process, ids, clients=1, requests=_NUM_SHORT, tokens=1)
        long = _spent(url, process, ids, clients=1, requests=_NUM_LONG, tokens=_LONG_TOKENS)
        together = _spent(url, process, ids, clients=_MANY, requests=_NUM_TOGETHER, tokens=_LONG_TOKENS)
    return solve(short, long, together, turn)


def _spent(url: str, head: psutil.Process, ids: tuple[int, int], *, clients: int, requests: int, tokens: int) -> Spent:
    load = Load(
        base_url=url,
        model=MEASURED_NAME,
        concurrency=clients,
        num_prompts=requests,
        prompt_tokens=_PROMPT_TOKENS,
        output_tokens=tokens,
        num_warmups=0,
        seed=tokens,
        token_id_range=ids,
    )
    before_s, own_before_s = _processor_s(head), time.process_time()
    send(load)
    return Spent(head_s=_processor_s(head) - before_s, client_s=time.process_time() - own_before_s)


def _processor_s(process: psutil.Process) -> float:
    """Processor time of all threads of a process, without its children."""
    times = process.cpu_times()
    return times.user + times.system


@contextmanager
def serving(model: str, options: Sequence[str]) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a model under `MEASURED_NAME`; yields the server's address and process, and ends it with its workers.

    Args:
        model: the model as a user names it, with weights.
        options: options of `shoal serve` besides name and address.

    Raises:
        WorkerLost: the server does not start.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    own = ("--name", MEASURED_NAME, "--port", str(port), "--host", "127.0.0.1", "--no-access-log")
    command = [sys.executable, "-m", "shoal", "serve", model, *options, *own]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        try:
            if not _is_ready_in_time(process, f"{url}/ready"):
                said.seek(0)
                words = said.read().decode(errors="replace").strip().splitlines()
                why = f": {words[-1]}" if words else ""
                raise WorkerLost(f"the server with which requests are measured did not start{why}")
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_ready_in_time(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline_s = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            if httpx.get(url, timeout=5.0).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
