"""The codec: what goes in comes out, and bytes that are not a message raise one error and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.protocol.codec import Activations, Message, decode, encode, pack_activations, unpack_activations
from shoal.protocol.language_messages import (
    ExpertLoad,
    LoadStage,
    SampledToken,
    SampleRow,
    Sampling,
    Step,
    StepId,
    StepResult,
    TokenLogprobs,
)
from shoal.protocol.stage_config import ExpertSpan, ShardPart, StageConfig
from shoal.protocol.worker_messages import (
    Generation,
    LinkLost,
    Neighbor,
    Progress,
    Shutdown,
    StageFailed,
    StageLoaded,
    Wire,
    Wired,
)

_STEP = Step(
    step_id=StepId(3),
    generation=Generation(1),
    token_ids=b"\1\0\0\0" * 2,
    positions=b"\0\0\0\0" * 2,
    query_starts=b"\0\0\0\0\2\0\0\0",
    context_lens=b"\2\0\0\0",
    block_tables=b"\5\0\0\0",
    samples=(SampleRow(row=1, token_index=7, sampling=Sampling(top_k=3, seed=2**62), history=b"\1\0\0\0", target=9),),
)
_MESSAGES: list[Message] = [
    _STEP,
    StepResult(
        step_id=StepId(3),
        generation=Generation(1),
        tokens=(SampledToken(token_id=5, logprobs=TokenLogprobs(logprob=-0.5, top_ids=(1,), top_logprobs=(-0.1,))),),
        compute_s=(0.25, 0.5),
        wait_s=(0.0, 0.125),
    ),
    LoadStage(
        version=1,
        model_path="/models/a.gguf",
        stage_index=0,
        num_stages=2,
        rank=1,
        cores=(0,),
        stage=StageConfig(
            first_layer=0,
            last_layer=3,
            precision="auto",
            threads=1,
            num_blocks=8,
            block_size=16,
            max_step_tokens=64,
            max_context=128,
            part=ShardPart(kv_heads=(2, 3), columns=(96, 160), vocabulary=(160, 320), experts=((ExpertSpan(0, 3),),)),
        ),
        num_layers=6,
        num_shards=2,
    ),
    StageLoaded(weight_bytes=10, load_s=0.1),
    Wired(generation=Generation(2), row_s=0.01),
    StageFailed(generation=Generation(0), error="ModelLoadError", message="gone"),
    Wire(
        generation=Generation(2),
        sources=(Neighbor(stage=0),),
        consumers=(Neighbor(stage=2, where="host:7000/a", name="stage 2"), Neighbor(stage=3)),
        group=(Neighbor(stage=1), Neighbor(stage=1)),
    ),
    Wire(generation=Generation(2)),
    LinkLost(generation=Generation(2), message="gone"),
    ExpertLoad(generation=Generation(2), num_rows=3, busy_s=0.5, expert_rows=((), (2**40, 0, 1))),
    Progress(done=1, total=2),
    Shutdown(),
]


@pytest.mark.parametrize("message", _MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


def test_a_step_counts_its_tokens_and_sequences() -> None:
    assert (_STEP.num_tokens, _STEP.num_sequences) == (2, 1)


def test_what_does_not_fit_the_wire_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError):
        encode(Progress(done=2**70, total=1))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_a_remote_error_or_a_message(data: bytes) -> None:
    try:
        decode(data)
    except RemoteProtocolError:
        return


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(_MESSAGES), st.data())
def test_mutated_messages_are_a_remote_error_or_a_message(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    for mutated in (frame, frame[:cut]):
        try:
            decode(bytes(mutated))
        except RemoteProtocolError:
            continue


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (7, 64)])
def test_hidden_states_survive_the_wire(shape: tuple[int, int]) -> None:
    x_TD = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    sent = Activations(
        step_id=StepId(4), generation=Generation(2), x_TD=x_TD, compute_s=(0.5, 0.75), wait_s=(0.0, 0.25)
    )
    frame = b"".join(bytes(part) for part in pack_activations(sent))
    received = unpack_activations(memoryview(frame), shape=shape)
    assert (received.step_id, received.generation) == (4, 2)
    assert (received.compute_s, received.wait_s) == ((0.5, 0.75), (0.0, 0.25))
    np.testing.assert_array_equal(received.x_TD, x_TD)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 150))
def test_malformed_hidden_states_are_a_remote_error(tail: bytes, cut: int) -> None:
    x_TD = np.ones((2, 3), np.float32)
    good = Activations(step_id=StepId(4), generation=Generation(2), x_TD=x_TD, compute_s=(0.5,), wait_s=(0.0,))
    frame = b"".join(bytes(part) for part in pack_activations(good))
    broken = frame[:cut] + tail
    if broken == frame or (len(broken) == len(frame) and broken[:32] == frame[:32]):
        return
    with pytest.raises(RemoteProtocolError):
        unpack_activations(memoryview(broken), shape=(2, 3))


def test_hidden_states_of_another_shape_are_refused() -> None:
    x_TD = np.ones((2, 3), np.float32)
    sent = Activations(step_id=StepId(4), generation=Generation(2), x_TD=x_TD, compute_s=(0.5,), wait_s=(0.0,))
    frame = b"".join(bytes(part) for part in pack_activations(sent))
    with pytest.raises(RemoteProtocolError, match="hidden states of shape"):
        unpack_activations(memoryview(frame), shape=(3, 2))
