"""A worker's life over scripted links: no process, no socket, a real tiny stage."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typing_extensions import Buffer

from shoal.errors import ModelChanged, ModelLoadError, RemoteProtocolError, ShoalError, WorkerLost
from shoal.model.file_states import CHANGED, model_states
from shoal.protocol.codec import Activations, Message, pack_activations, unpack_activations
from shoal.protocol.language_messages import LoadStage, SampleRow, Sampling, Step, StepId, StepResult
from shoal.protocol.stage_config import StageConfig
from shoal.protocol.worker_messages import (
    PROTOCOL_VERSION,
    Generation,
    LinkLost,
    Progress,
    Shutdown,
    StageFailed,
    StageLoaded,
    Wire,
    Wired,
)
from shoal.worker.life import WorkerLife
from shoal.worker.links import Seat, StageLinks
from tests.model.tiny_models import make_tiny_gguf
from tests.worker.scripted_link import ScriptedLink

NUM_LAYERS, HIDDEN = 4, 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("model"), quant="F32")


def load_message(model: Path, **changes: Any) -> LoadStage:
    """Fields of the message, or of its stage, that are not given are those of a whole tiny model."""
    stage: dict[str, Any] = {
        "first_layer": 0,
        "last_layer": NUM_LAYERS,
        "precision": "fp32",
        "threads": 1,
        "num_blocks": 4,
        "block_size": 16,
        "max_step_tokens": 16,
        "max_context": 64,
    }
    values: dict[str, Any] = {
        "version": PROTOCOL_VERSION,
        "model_path": str(model),
        "stage_index": 0,
        "num_stages": 1,
        "rank": 0,
        "cores": (),
        "num_layers": NUM_LAYERS,
        "num_shards": 1,
    }
    own = {name: changes.pop(name) for name in [*changes] if name in StageConfig.__slots__}
    return LoadStage(stage=StageConfig(**(stage | own)), **(values | changes))


def make_step(step_id: int = 0, **changes: Any) -> Step:
    """Five prompt rows of one sequence; the last is sampled."""
    values: dict[str, Any] = {
        "step_id": StepId(step_id),
        "generation": Generation(3),
        "token_ids": packed([5, 6, 7, 8, 9]),
        "positions": packed(range(5)),
        "query_starts": packed([0, 5]),
        "context_lens": packed([5]),
        "block_tables": packed([0]),
        "samples": (SampleRow(row=4, token_index=0, sampling=Sampling(temperature=0.0)),),
    }
    return Step(**(values | changes))


def packed(values: Any) -> bytes:
    return np.array(list(values), "<i4").tobytes()


class ScriptedConnector:
    """Hands out links that were made beforehand, in order; an error in their place is raised."""

    def __init__(self, *links: StageLinks | ShoalError) -> None:
        self.links = list(links)
        self.wires: list[Wire] = []

    def connect(self, wire: Wire, seat: Seat, *, stays_awake: bool) -> StageLinks:
        self.wires.append(wire)
        links = self.links.pop(0)
        if isinstance(links, ShoalError):
            raise links
        return links


WIRE = Wire(generation=Generation(3))


def run_worker(messages: list[Message | bytes], *links: StageLinks | ShoalError) -> list[Message]:
    """What the head hears from a worker that lives and ends well."""
    control = ScriptedLink(messages)
    WorkerLife(control, ScriptedConnector(*(links or [StageLinks()]))).run()
    return control.messages


def fail_worker(messages: list[Message | bytes], error: type[Exception], match: str | None = None) -> list[Message]:
    """What the head hears from a worker that ends with an error."""
    control = ScriptedLink(messages)
    with pytest.raises(error, match=match):
        WorkerLife(control, ScriptedConnector(StageLinks())).run()
    return control.messages


def test_loads_with_progress_answers_steps_and_ends(model: Path) -> None:
    answers = run_worker([load_message(model), WIRE, make_step(0), make_step(1), Shutdown()])
    *progress, loaded, wired, first, second = answers
    assert len(progress) >= NUM_LAYERS
    assert progress == [Progress(done=done, total=len(progress)) for done in range(1, len(progress) + 1)]
    assert isinstance(loaded, StageLoaded)
    assert loaded.weight_bytes > 0
    assert isinstance(wired, Wired)
    assert wired.generation == 3
    assert isinstance(first, StepResult)
    assert isinstance(second, StepResult)
    assert (first.step_id, first.generation, second.step_id) == (0, 3, 1)
    assert first.tokens == second.tokens
    assert len(first.compute_s) == 1


def test_two_workers_in_a_row_say_what_one_says(model: Path) -> None:
    whole = run_worker([load_message(model), WIRE, make_step(), Shutdown()])[-1]
    between = ScriptedLink()
    sending = [load_message(model, last_layer=1), WIRE, make_step(), Shutdown()]
    run_worker(sending, StageLinks(consumers=[(1, between)]))
    frames = unpack_activations(memoryview(between.sent[0]), shape=(5, HIDDEN))
    assert frames.x_TD.shape == (5, HIDDEN)
    receiving = [load_message(model, first_layer=1), WIRE, make_step(), Shutdown()]
    split = run_worker(receiving, StageLinks(sources={0: ScriptedLink(between.sent)}))[-1]
    assert isinstance(whole, StepResult)
    assert isinstance(split, StepResult)
    assert split.tokens == whole.tokens
    assert len(split.compute_s) == 2


def test_a_middle_stage_says_nothing_to_the_head(model: Path) -> None:
    between = ScriptedLink()
    messages = [load_message(model, last_layer=2), WIRE, make_step(), Shutdown()]
    answers = run_worker(messages, StageLinks(consumers=[(1, between)]))
    assert not any(isinstance(answer, StepResult) for answer in answers)
    assert len(between.sent) == 1


def test_what_cannot_be_loaded_is_reported(model: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.gguf"
    truncated.write_bytes(model.read_bytes()[:20_000])
    (failed,) = fail_worker([load_message(truncated)], ModelLoadError)
    assert isinstance(failed, StageFailed)
    assert failed.error == "ModelLoadError"
    assert "truncated.gguf" in failed.message


def test_other_files_than_the_heads_are_not_loaded(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model.read_bytes())
    files = model_states(path)
    make_tiny_gguf(tmp_path, quant="F32", seed=1).replace(path)
    (failed,) = fail_worker([load_message(path, files=files)], ModelChanged)
    assert isinstance(failed, StageFailed)
    assert failed.error == "ModelChanged"
    assert failed.message == f"{CHANGED} (model.gguf)"


def test_files_that_are_replaced_while_they_are_read_are_refused(model: Path, tmp_path: Path) -> None:
    """The worker tells its progress after each segment; the file goes with the first sign of it."""
    path = tmp_path / "model.gguf"
    path.write_bytes(model.read_bytes())
    other = make_tiny_gguf(tmp_path, quant="F32", seed=1)

    class ReplacingLink(ScriptedLink):
        def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
            if other.exists():
                other.replace(path)
            super().send(parts, timeout_s=timeout_s)

    control = ReplacingLink([load_message(path, files=model_states(path))])
    with pytest.raises(ModelChanged, match="has changed"):
        WorkerLife(control, ScriptedConnector(StageLinks())).run()
    assert not any(isinstance(message, StageLoaded) for message in control.messages)


def test_another_protocol_version_is_refused(model: Path) -> None:
    (failed,) = fail_worker([load_message(model, version=PROTOCOL_VERSION + 1)], RemoteProtocolError)
    assert isinstance(failed, StageFailed)
    assert str(PROTOCOL_VERSION + 1) in failed.message


@pytest.mark.parametrize("first", [Shutdown(), make_step(), b"not a message"])
def test_the_first_message_must_load(first: Message | bytes) -> None:
    assert fail_worker([first], RemoteProtocolError) == []


@pytest.mark.parametrize(
    "message", [Progress(done=1, total=1), b"\x93\x01", b""], ids=["out of place", "malformed", "empty"]
)
def test_a_running_worker_reports_what_it_cannot_take(model: Path, message: Message | bytes) -> None:
    answers = fail_worker([load_message(model), message], RemoteProtocolError)
    assert isinstance(answers[-1], StageFailed)
    assert answers[-1].error == "RemoteProtocolError"


def test_a_step_outside_the_cache_is_reported(model: Path) -> None:
    answers = fail_worker([load_message(model), WIRE, make_step(block_tables=packed([99]))], ValueError, "block")
    assert isinstance(answers[-1], StageFailed)
    assert answers[-1].generation == WIRE.generation


@pytest.mark.parametrize("token_id", [320, -1])
def test_a_token_outside_the_vocabulary_is_reported(model: Path, token_id: int) -> None:
    step = make_step(token_ids=packed([5, 6, token_id, 8, 9]))
    assert isinstance(fail_worker([load_message(model), WIRE, step], RemoteProtocolError, "token id")[-1], StageFailed)


@pytest.mark.parametrize(
    "changes",
    [
        {"step_id": StepId(7)},
        {"generation": Generation(2)},
        {"x_TD": np.zeros((4, HIDDEN), np.float32)},
        {"x_TD": np.zeros((5, HIDDEN + 1), np.float32)},
    ],
    ids=["another step", "another generation", "too few rows", "too wide"],
)
def test_hidden_states_that_do_not_belong_end_the_link(model: Path, changes: dict[str, Any]) -> None:
    values: dict[str, Any] = {
        "step_id": StepId(0),
        "generation": Generation(3),
        "x_TD": np.zeros((5, HIDDEN), np.float32),
        "compute_s": (),
        "wait_s": (),
    }
    parts = pack_activations(Activations(**(values | changes)))
    upstream = ScriptedLink([b"".join(bytes(part) for part in parts)])
    messages = [load_message(model, first_layer=1), WIRE, make_step(), Shutdown()]
    lost = run_worker(messages, StageLinks(sources={0: upstream}))[-1]
    assert isinstance(lost, LinkLost)
    assert "hidden states of" in lost.message
    assert upstream.is_closed


def test_a_worker_outlives_its_neighbours_and_is_wired_to_others(model: Path) -> None:
    """It says that they are gone, passes over steps of their time, and computes with new ones without loading again."""
    between = ScriptedLink()
    messages = [load_message(model, last_layer=1), WIRE, make_step(), Shutdown()]
    run_worker(messages, StageLinks(consumers=[(1, between)]))
    later = Wire(generation=Generation(4))
    answers = run_worker(
        [
            load_message(model, first_layer=1),
            WIRE,
            make_step(),
            make_step(1),
            later,
            make_step(2),
            make_step(generation=Generation(4)),
            Shutdown(),
        ],
        StageLinks(sources={0: ScriptedLink()}),
        StageLinks(sources={0: ScriptedLink([frame_of(between.sent[0], generation=4)])}),
    )
    kinds = [type(answer) for answer in answers if not isinstance(answer, Progress)]
    assert kinds == [StageLoaded, Wired, LinkLost, Wired, StepResult]
    generations = [getattr(answer, "generation", 4) for answer in answers[-4:]]
    assert generations == [3, 3, 4, 4]


def frame_of(frame: bytes, *, generation: int) -> bytes:
    """The same hidden states in another generation."""
    own = replace(unpack_activations(memoryview(frame), shape=(5, HIDDEN)), generation=Generation(generation))
    return b"".join(bytes(part) for part in pack_activations(own))


def test_neighbours_that_do_not_come_are_reported(model: Path) -> None:
    answers = run_worker([load_message(model), WIRE, make_step(), Shutdown()], WorkerLost("nobody came"))
    assert answers[-1] == LinkLost(generation=Generation(3), message="nobody came")


def test_a_lost_head_ends_the_worker(model: Path) -> None:
    fail_worker([load_message(model)], WorkerLost)
    fail_worker([], WorkerLost)
