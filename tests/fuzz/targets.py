"""What reads bytes that came over a socket. Each takes any bytes; only a clear refusal may come out, and soon."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from shoal.comm.links.socket_link import SocketLink
from shoal.errors import RemoteProtocolError, WorkerLost
from shoal.model.attention.paged_attention import make_attention
from shoal.protocol.codec import decode, unpack_activations
from shoal.protocol.language_messages import Step
from shoal.protocol.tensor_codec import decode_envelope, from_bytes
from shoal.worker.language.step_check import check_step

SHAPE = (2, 70)
"""of the hidden states that are expected"""
MAX_TOKENS, VOCABULARY = 64, 1000
_ARENA = bytes(range(256)) * 4
_MAX_FRAMES = 64

_attention = make_attention(num_threads=1, num_blocks=8, block_size=16, max_context=128)


def read_message(data: bytes) -> None:
    """A message; a step is also checked and given to attention, which refuses what does not fit with ValueError."""
    message = decode(data)
    if isinstance(message, Step):
        check_step(message, max_tokens=MAX_TOKENS, vocab_size=VOCABULARY)
        with suppress(ValueError):
            _attention.step(
                positions=np.frombuffer(message.positions, "<i4"),
                query_starts=np.frombuffer(message.query_starts, "<i4"),
                context_lens=np.frombuffer(message.context_lens, "<i4"),
                block_tables=np.frombuffer(message.block_tables, "<i4").reshape(message.num_sequences, -1),
            )


def read_activations(data: bytes) -> None:
    """Hidden states of a known shape."""
    assert unpack_activations(memoryview(data), shape=SHAPE).x_TD.shape == SHAPE


def read_envelope(data: bytes) -> None:
    """A graph's message, and its tensors out of memory that is shared."""
    for ref in decode_envelope(data).tensors:
        if 0 <= ref.offset <= len(_ARENA) and 0 <= ref.num_bytes <= len(_ARENA) - ref.offset:
            array = from_bytes(memoryview(_ARENA)[ref.offset : ref.offset + ref.num_bytes], ref)
            assert array.shape == ref.shape


def read_frames(data: bytes) -> None:
    """What a socket link makes of a stream."""
    near, far = socket.socketpair()
    link = SocketLink(near)
    try:
        far.sendall(data)
        far.close()
        for _ in range(_MAX_FRAMES):
            if link.receive(timeout_s=0.0) is None:
                return
    finally:
        link.close()
        far.close()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "message": read_message,
    "activations": read_activations,
    "envelope": read_envelope,
    "frames": read_frames,
}


def find_flaw(read: Callable[[bytes], None], data: bytes) -> Exception | None:
    """What comes out of a target other than a clear refusal."""
    try:
        read(data)
    except (RemoteProtocolError, WorkerLost):
        return None
    except Exception as error:
        return error
    return None
