"""Inputs to begin with, one folder a target: good frames, and those that once brought out what should not come out.

`python -m tests.fuzz.corpus` writes the good ones anew, where the protocol has changed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from shoal.protocol.codec import Activations, encode, pack_activations
from shoal.protocol.graph_messages import (
    BatchDone,
    Envelope,
    LoadGraph,
    RunBatch,
    StageBatch,
    TensorRef,
)
from shoal.protocol.hidden_codec import LINK_PRECISIONS
from shoal.protocol.language_messages import (
    ExpertLoad,
    PictureRows,
    SampledToken,
    SampleRow,
    Sampling,
    Step,
    StepId,
    StepMasks,
    StepResult,
    TokenLogprobs,
)
from shoal.protocol.stage_interface import StageInput, StageInterface, StageOutput, TensorSpec
from shoal.protocol.tensor_codec import encode_envelope
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

FOLDER = Path(__file__).parent / "inputs"
_SHAPE = (2, 70)


@cache
def read_corpus(target: str) -> list[bytes]:
    """All inputs of a target, in the order of their names."""
    return [path.read_bytes() for path in sorted((FOLDER / target).glob("*.bin"))]


def _ints(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def _messages() -> Iterator[bytes]:
    first = Generation(1)
    sample = SampleRow(row=1, token_index=7, sampling=Sampling(top_k=3, seed=2**62), history=_ints(1), target=9)
    step = Step(
        step_id=StepId(3),
        generation=first,
        token_ids=_ints(1, 2, 3),
        positions=_ints(0, 1, 16),
        query_starts=_ints(0, 2, 3),
        context_lens=_ints(2, 17),
        block_tables=_ints(1, -1, 2, 3),
        samples=(sample,),
        pictures=(PictureRows(first_row=1, num_rows=1, vectors=_ints(0, 0)),),
        turns=_ints(0, 0, 0, 1, 1, 2, 9, 9, 9),
        ends_seen=_ints(2, 2, 17),
    )
    logprobs = TokenLogprobs(logprob=-0.5, top_ids=(1,), top_logprobs=(-0.1,))
    tokens = (SampledToken(token_id=5, logprobs=logprobs, logits=b"\0" * 8),)
    yield encode(step)
    yield encode(StepMasks(step_id=StepId(3), generation=first, allowed=(b"\x01\x80", b"\xff")))
    yield encode(StepResult(step_id=StepId(3), generation=first, tokens=tokens, compute_s=(0.5,), wait_s=(0.1,)))
    yield encode(StageLoaded(weight_bytes=10, load_s=0.1))
    yield encode(StageFailed(generation=first, error="ModelLoadError", message="gone"))
    neighbor = Neighbor(stage=1, where="host:7000/a", name="stage 1")
    yield encode(Wire(generation=first, sources=(neighbor,), consumers=(neighbor,) * 2, group=(Neighbor(stage=0),) * 2))
    yield encode(Wired(generation=first, row_s=0.01))
    yield encode(LinkLost(generation=first, message="gone"))
    yield encode(ExpertLoad(generation=first, num_rows=3, busy_s=0.5, expert_rows=((), (2, 0, 1))))
    yield encode(Progress(done=1, total=2))
    spec = TensorSpec(name="x", dtype="float32", shape=("N", None, 3))
    load = LoadGraph(
        version=2,
        model_path="a.onnx",
        stage_index=0,
        num_stages=2,
        rank=0,
        cores=(0,),
        stage=StageInterface(
            first_node=0,
            last_node=3,
            inputs=(StageInput(spec=spec, source=-1),),
            outputs=(StageOutput(spec=spec, consumers=(-1, 1)),),
        ),
        shares=(1, 2),
        threads=1,
    )
    yield encode(load)
    yield encode(Shutdown())


def _activations() -> Iterator[bytes]:
    x_TD = np.random.default_rng(0).standard_normal(_SHAPE, np.float32)
    sent = Activations(step_id=StepId(4), generation=Generation(2), x_TD=x_TD, compute_s=(0.5,), wait_s=(0.0,))
    for precision in LINK_PRECISIONS:
        yield b"".join(map(bytes, pack_activations(sent, precision)))


def _envelopes() -> Iterator[bytes]:
    first = Generation(1)
    refs = tuple(
        TensorRef(name=name, dtype=dtype, shape=shape, offset=0, num_bytes=num_bytes)
        for name, dtype, shape, num_bytes in (
            ("x", "float32", (2, 3), 24),
            ("h", "bfloat16", (4,), 8),
            ("s", "string", (0,), 0),
            ("e", "int64", (0, 5), 0),
        )
    )
    yield encode_envelope(
        Envelope(message=RunBatch(batch_id=1, generation=first), tensors=refs, token=3, releases=(1,))
    )
    yield encode_envelope(Envelope(message=StageBatch(batch_id=1, generation=first, error="no"), releases=(1, 2)))
    yield encode_envelope(Envelope(message=BatchDone(batch_id=1, generation=first, compute_s=0.5), tensors=refs[:1]))
    inline = TensorRef(name="x", dtype="float32", shape=(2,), offset=-1, num_bytes=8)
    yield encode_envelope(
        Envelope(message=StageBatch(batch_id=1, generation=first), tensors=(inline,), data=(b"\0" * 8,))
    )


def _frames() -> Iterator[bytes]:
    yield b"".join(struct.pack("<I", length) + bytes(length) for length in (0, 1, 5, 300))
    yield struct.pack("<I", 1 << 20) + bytes(40)
    yield struct.pack("<I", 0xFFFFFFFF)


SEEDS = {"message": _messages, "activations": _activations, "envelope": _envelopes, "frames": _frames}


def main() -> None:
    """Write the good inputs."""
    for target, make in SEEDS.items():
        folder = FOLDER / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("good-*.bin"):
            old.unlink()
        for index, data in enumerate(make()):
            (folder / f"good-{index}.bin").write_bytes(data)


if __name__ == "__main__":
    main()
