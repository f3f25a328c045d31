"""A worker whose step has guided rows: it computes first and reads behind the step what may be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.errors import WorkerLost
from shoal.protocol.codec import Message
from shoal.protocol.language_messages import SampleRow, Sampling, Step, StepId, StepMasks, StepResult
from shoal.protocol.worker_messages import Generation, LinkLost, Progress, Shutdown, Wire, Wired
from shoal.worker.life import WorkerLife
from shoal.worker.links import StageLinks
from tests.model.tiny_models import make_tiny_gguf
from tests.worker.scripted_link import ScriptedLink
from tests.worker.test_life import WIRE, ScriptedConnector, fail_worker, load_message, make_step, run_worker

VOCABULARY = 320
LATER = Wire(generation=Generation(4))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("model"), quant="F32")


def guided(*rows: int, **changes: object) -> Step:
    """Five rows, of which those given are guided and drawn, and row 0 is drawn from all tokens."""
    samples = [SampleRow(row=0, token_index=0, sampling=Sampling(temperature=0.0))]
    samples += [SampleRow(row=row, token_index=0, sampling=Sampling(seed=row), is_guided=True) for row in rows]
    return make_step(samples=tuple(samples), **changes)


def mask(*tokens: int) -> bytes:
    return sum(1 << token for token in tokens).to_bytes(VOCABULARY // 8, "little")


def masks(*allowed: bytes, step_id: int = 0, generation: int = 3) -> StepMasks:
    return StepMasks(step_id=StepId(step_id), generation=Generation(generation), allowed=allowed)


def heard(messages: list[Message | bytes], *links: StageLinks) -> list[Message]:
    """What the head hears once the worker is wired for the first time."""
    answers = [one for one in run_worker(messages, *links) if not isinstance(one, Progress)]
    assert isinstance(answers[1], Wired)
    return answers[2:]


def test_masks_behind_a_step_draw_what_masks_within_it_draw(model: Path) -> None:
    allowed = mask(3, 44, 250), mask(*range(100, 320))
    within = make_step(
        1,
        samples=(
            SampleRow(row=0, token_index=0, sampling=Sampling(temperature=0.0)),
            SampleRow(row=2, token_index=0, sampling=Sampling(seed=2), allowed=allowed[0]),
            SampleRow(row=4, token_index=0, sampling=Sampling(seed=4), allowed=allowed[1]),
        ),
    )
    behind, plain = heard([load_message(model), WIRE, guided(2, 4), masks(*allowed), within, Shutdown()])
    assert isinstance(behind, StepResult)
    assert isinstance(plain, StepResult)
    assert behind.tokens == plain.tokens
    assert behind.tokens[1].token_id in (3, 44, 250)


def test_only_the_last_stage_waits_for_masks(model: Path) -> None:
    between = ScriptedLink()
    messages = [load_message(model, last_layer=2), WIRE, guided(4), guided(4, step_id=1), Shutdown()]
    assert heard(messages, StageLinks(consumers=[(1, between)])) == []
    assert len(between.sent) == 2


@pytest.mark.parametrize(
    "came",
    [
        [masks(mask(1), step_id=1)],
        [masks(mask(1), generation=2)],
        [masks()],
        [masks(mask(1), mask(2))],
        [masks(b"")],
        [masks(bytes(VOCABULARY // 8) + b"\1")],
        [make_step(1)],
        [],
    ],
    ids=[
        "another step",
        "another time",
        "too few",
        "too many",
        "empty",
        "beyond the vocabulary",
        "a step",
        "new links",
    ],
)
def test_a_step_whose_masks_do_not_come_is_given_up(model: Path, came: list[Message]) -> None:
    """The worker says so, passes over what belongs to that time, and works with others without loading again."""
    fresh = guided(4, step_id=7, generation=Generation(4))
    late = masks(mask(1))
    messages: list[Message | bytes] = [load_message(model), WIRE, guided(4), *came, LATER]
    messages += [late, fresh, masks(mask(5), step_id=7, generation=4), Shutdown()]
    lost, wired, result = heard(messages, StageLinks(), StageLinks())
    assert isinstance(lost, LinkLost)
    assert lost.generation == 3
    assert isinstance(wired, Wired)
    assert isinstance(result, StepResult)
    assert (result.step_id, result.tokens[1].token_id) == (7, 5)


def test_a_worker_that_waits_for_masks_can_be_told_to_end(model: Path) -> None:
    (lost,) = heard([load_message(model), WIRE, guided(4), Shutdown()])
    assert isinstance(lost, LinkLost)


def test_a_head_that_is_gone_between_a_step_and_its_masks_ends_the_worker(model: Path) -> None:
    fail_worker([load_message(model), WIRE, guided(4)], WorkerLost)


def test_a_head_that_hangs_between_a_step_and_its_masks_is_not_waited_for_without_end(model: Path) -> None:
    class SilentLink(ScriptedLink):
        """Says nothing more once its messages are through, for as long as anybody waits with a deadline."""

        def receive(self, *, timeout_s: float) -> memoryview | None:
            waited_s.append(timeout_s)
            return super().receive(timeout_s=timeout_s) if self._incoming else None

        def send(self, parts: object, *, timeout_s: float) -> None:
            super().send(parts, timeout_s=timeout_s)  # type: ignore[arg-type]
            if isinstance(self.messages[-1], LinkLost):
                self._incoming.append(b"\x91\x07")  # Shutdown

    waited_s: list[float] = []
    control = SilentLink([load_message(model), WIRE, guided(4)])
    WorkerLife(control, ScriptedConnector(StageLinks())).run()
    lost = control.messages[-1]
    assert isinstance(lost, LinkLost)
    assert lost.message == "no masks for step 0 within 600 s"
    assert waited_s[-2] == 600.0


def test_waiting_for_masks_is_no_computing(model: Path) -> None:
    """A worker is not slow because its head is."""

    class SlowLink(ScriptedLink):
        def receive(self, *, timeout_s: float) -> memoryview | None:
            frame = super().receive(timeout_s=timeout_s)
            if frame is not None and frame[:2] == b"\x94\x0c":  # StepMasks
                clock.append(100.0)
            return frame

    clock: list[float] = []
    control = SlowLink([load_message(model), WIRE, guided(4), masks(mask(1)), Shutdown()])
    with pytest.MonkeyPatch.context() as patch:
        real_s = __import__("time").perf_counter
        patch.setattr("shoal.worker.language.decoder_runner.time.perf_counter", lambda: real_s() + sum(clock))
        WorkerLife(control, ScriptedConnector(StageLinks())).run()
    result = control.messages[-1]
    assert isinstance(result, StepResult)
    assert clock
    assert result.compute_s[0] < 50.0


def test_hidden_states_of_a_guided_row_are_refused(model: Path) -> None:
    row = SampleRow(row=4, token_index=0, sampling=Sampling(), is_guided=True, want_hidden=True)
    failed = fail_worker([load_message(model), WIRE, make_step(samples=(row,))], Exception, "guided")
    assert failed
