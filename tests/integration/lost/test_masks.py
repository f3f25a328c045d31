"""Workers are lost between a step and its masks: guided requests go on, with the tokens that they would have had."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.core.sequences.request import Request
from shoal.launch.launch import LoadedModel
from shoal.protocol.language_messages import Sampling
from tests.integration.running import PATIENT, QUICK, Transcript, executors, launch_tiny, make_requests
from tests.integration.running import transcribe as finish
from tests.sampling import in_turn

VOCABULARY = 320
REQUESTS = make_requests(3, max_tokens=24, sampling=Sampling(temperature=1.0, seed=5, num_logprobs=1))
SPLITS = ("pp=2", "tp=2", "dp=2,pp=2", "tp=2,pp=2")
STRIKES = ((-1, signal.SIGKILL), (0, signal.SIGKILL), (0, signal.SIGSTOP), (-1, signal.SIGSTOP))
"""which worker, and what becomes of it"""


class ThirdsGuide:
    """Forbids every third token, other ones after each output. `strike` is called in the place of one answer's wait:
    the step is with the workers then, and its masks are not."""

    def __init__(self) -> None:
        self.strike: Callable[[], None] | None = None
        self.strikes_at = 0

    def allowed(self, outputs: Sequence[int], /) -> bytes:
        if self.strike is not None and len(outputs) >= self.strikes_at:
            strike, self.strike = self.strike, None
            strike()
        bits = sum(1 << token for token in range(VOCABULARY) if (token + len(outputs)) % 3)
        return bits.to_bytes(VOCABULARY // 8, "little")


def guided(guide: ThirdsGuide) -> list[Request]:
    """The first is not guided."""
    return [REQUESTS[0], *(replace(request, guide=guide) for request in REQUESTS[1:])]


@pytest.fixture(scope="module")
def expected(unsplit: LoadedModel) -> Transcript:
    return finish(unsplit.engine, guided(ThirdsGuide()))


def check(loaded: LoadedModel, transcript: Transcript, expected: Transcript) -> None:
    assert transcript.tokens == expected.tokens
    assert {end.reason for end in transcript.ends.values()} == {"length"}
    transcript.follow(loaded.engine, lambda: not loaded.engine.stats().num_recovering)
    assert loaded.engine.stats().num_replicas == len(loaded.plan.replicas)


def test_every_output_keeps_to_its_masks(expected: Transcript) -> None:
    for request in REQUESTS[1:]:
        assert all((token + index) % 3 for index, token in enumerate(expected.tokens[request.request_id]))
    free = expected.tokens[REQUESTS[0].request_id]
    assert not all((token + index) % 3 for index, token in enumerate(free))


@pytest.mark.sample(every=len(STRIKES))
@pytest.mark.parametrize(
    ("split", "dies", "number"),
    [
        pytest.param(split, *strike, id=f"{split}-{strike[0]}-{strike[1].name}")
        for split, strike in in_turn(SPLITS, STRIKES)
    ],
)
def test_a_worker_lost_between_a_step_and_its_masks(
    split: str, dies: int, number: signal.Signals, tiny_model: Path, expected: Transcript
) -> None:
    guide = ThirdsGuide()
    with launch_tiny(tiny_model, split=split, recovery=PATIENT if number == signal.SIGKILL else QUICK) as loaded:
        for strikes_at in (0, 7):
            num_losses = loaded.engine.stats().num_losses
            pids = [pid for executor in executors(loaded) for pid in executor.worker_pids()]
            guide.strikes_at, guide.strike = strikes_at, lambda pid=pids[dies]: os.kill(pid, number)
            transcript = finish(loaded.engine, guided(guide))
            assert guide.strike is None
            check(loaded, transcript, expected)
            assert loaded.engine.stats().num_losses > num_losses


def test_a_client_that_goes_away_while_masks_are_on_their_way(tiny_model: Path, expected: Transcript) -> None:
    """Its rows are computed to the end; the other rows' masks are not mistaken for theirs."""
    with launch_tiny(tiny_model, split="pp=2", recovery=PATIENT) as loaded:
        transcript, (_, gone, stays) = Transcript(), guided(ThirdsGuide())
        for request in (gone, stays):
            loaded.engine.add(request)
        transcript.follow(loaded.engine, lambda: len(transcript.tokens.get(gone.request_id, ())) >= 3)
        loaded.engine.cancel(gone.request_id)
        transcript.finish(loaded.engine)
        assert transcript.ends[gone.request_id].reason == "cancelled"
        assert transcript.tokens[stays.request_id] == expected.tokens[stays.request_id]
