"""Messages and activations as bytes: MessagePack for messages, a fixed header and raw fp32 for hidden states."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.protocol.messages import Generation, Message, StepId

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)

_ACTIVATIONS = struct.Struct("<4sHHqqII")
"""magic, version, number of stages behind it, step id, generation, tokens, hidden size; two times a stage follow"""
_MAGIC = b"SHAV"
_ACTIVATIONS_VERSION = 2
_MAX_STAGES = 1024


def encode(message: Message) -> bytes:
    """One message as a frame. Raises LocalProtocolError where a value does not fit the wire."""
    try:
        return _encoder.encode(message)
    except (msgspec.MsgspecError, OverflowError, TypeError) as error:
        raise LocalProtocolError(f"cannot encode {type(message).__name__}: {error}") from error


def decode(frame: bytes | bytearray | memoryview) -> Message:
    """One frame as a message. Raises RemoteProtocolError on anything that is not one."""
    try:
        return _decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"malformed message: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Hidden states on their way from one stage to the next."""

    step_id: StepId
    generation: Generation
    x_TD: npt.NDArray[np.float32]
    """Valid until: the frame's link receives again."""
    compute_s: tuple[float, ...]
    """seconds that each earlier stage spent on this step"""
    wait_s: tuple[float, ...]
    """of those, in collectives; as many"""


def pack_activations(activations: Activations) -> Sequence[memoryview | bytes]:
    """The parts of a frame, the hidden states without a copy."""
    num_tokens, hidden_size = activations.x_TD.shape
    num_stages = len(activations.compute_s)
    times = struct.pack(f"<{2 * num_stages}d", *activations.compute_s, *activations.wait_s)
    header = _ACTIVATIONS.pack(
        _MAGIC,
        _ACTIVATIONS_VERSION,
        num_stages,
        activations.step_id,
        activations.generation,
        num_tokens,
        hidden_size,
    )
    return header, times, np.ascontiguousarray(activations.x_TD).reshape(-1).view(np.uint8).data


def unpack_activations(frame: memoryview) -> Activations:
    """Read a frame in place. Raises RemoteProtocolError where it is malformed, truncated or of another version."""
    if len(frame) < _ACTIVATIONS.size:
        raise RemoteProtocolError(f"activation frame of {len(frame)} bytes has no header")
    magic, version, num_stages, step_id, generation, num_tokens, hidden_size = _ACTIVATIONS.unpack_from(frame)
    if magic != _MAGIC or version != _ACTIVATIONS_VERSION:
        raise RemoteProtocolError("not an activation frame of this version")
    times_end = _ACTIVATIONS.size + 2 * 8 * num_stages
    if num_stages > _MAX_STAGES or len(frame) != times_end + 4 * num_tokens * hidden_size:
        raise RemoteProtocolError(f"activation frame of {len(frame)} bytes does not match its header")
    x = np.frombuffer(frame, "<f4", offset=times_end).reshape(num_tokens, hidden_size)
    times = struct.unpack_from(f"<{2 * num_stages}d", frame, _ACTIVATIONS.size)
    return Activations(
        step_id=StepId(step_id),
        generation=Generation(generation),
        x_TD=x,
        compute_s=times[:num_stages],
        wait_s=times[num_stages:],
    )
