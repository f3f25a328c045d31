"""Messages and activations as bytes: MessagePack for messages, a fixed header and raw numbers for hidden states."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.protocol.graph_messages import Envelope, LoadGraph
from shoal.protocol.hidden_codec import LINK_PRECISIONS, LinkPrecision, pack_hidden, unpack_hidden
from shoal.protocol.language_messages import ExpertLoad, LoadStage, Step, StepId, StepMasks, StepResult
from shoal.protocol.worker_messages import (
    Generation,
    LinkLost,
    Progress,
    Shutdown,
    StageFailed,
    StageLoaded,
    Wire,
    Wired,
)

WorkerMessage = StageLoaded | StageFailed | Progress | Shutdown | Wire | Wired | LinkLost
"""Messages that are the same for all kinds of work."""
Message = Step | StepMasks | StepResult | ExpertLoad | LoadStage | LoadGraph | Envelope | WorkerMessage
"""All messages between the head and a worker."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)

_ACTIVATIONS = struct.Struct("<4sBBHqqIIII")
"""Header: magic, version, precision, number of earlier stages, step id, generation, tokens, hidden size, bytes of
attention, zero. Two times for each earlier stage follow, then the attention, then the hidden states."""
_MAGIC = b"SHAV"
_ACTIVATIONS_VERSION = 4
_MAX_STAGES = 1024
_ALIGNMENT_BYTES = 8
"""Hidden states begin at a multiple of this number of bytes, with and without attention before them."""


def encode(message: Message) -> bytes:
    """Encode a message as a frame. Raises LocalProtocolError if a value does not fit the wire format."""
    try:
        return _encoder.encode(message)
    except (msgspec.MsgspecError, OverflowError, TypeError) as error:
        raise LocalProtocolError(f"cannot encode {type(message).__name__}: {error}") from error


def decode(frame: bytes | bytearray | memoryview) -> Message:
    """Decode a frame as a message. Raises RemoteProtocolError if it is malformed."""
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
    """The hidden states. If received in fp32, valid until: the frame's link receives again."""
    compute_s: tuple[float, ...]
    """Seconds that each earlier stage spent on this step."""
    wait_s: tuple[float, ...]
    """Those of `compute_s` that were spent in collectives, for each earlier stage."""
    alignment: bytes = b""
    """Attention of the heads in earlier stages, see `StepResult.alignment`."""


def pack_activations(activations: Activations, precision: LinkPrecision = "fp32") -> Sequence[memoryview | bytes]:
    """Encode activations as the parts of a frame, with hidden states at a precision."""
    num_tokens, hidden_size = activations.x_TD.shape
    num_stages = len(activations.compute_s)
    times = struct.pack(f"<{2 * num_stages}d", *activations.compute_s, *activations.wait_s)
    header = _ACTIVATIONS.pack(
        _MAGIC,
        _ACTIVATIONS_VERSION,
        LINK_PRECISIONS.index(precision),
        num_stages,
        activations.step_id,
        activations.generation,
        num_tokens,
        hidden_size,
        len(activations.alignment),
        0,
    )
    padding = b"\0" * (-len(activations.alignment) % _ALIGNMENT_BYTES)
    return header, times, activations.alignment + padding, *pack_hidden(activations.x_TD, precision)


def unpack_activations(frame: memoryview, *, shape: tuple[int, int]) -> Activations:
    """Decode a frame; fp32 is read in place. `shape`: [T, D] of the hidden states.

    Raises:
        RemoteProtocolError: the frame is malformed, truncated, of another version or of another shape.
    """
    if len(frame) < _ACTIVATIONS.size:
        raise RemoteProtocolError(f"activation frame of {len(frame)} bytes has no header")
    magic, version, code, num_stages, step_id, generation, num_tokens, hidden_size, num_extra, _ = (
        _ACTIVATIONS.unpack_from(frame)
    )
    if magic != _MAGIC or version != _ACTIVATIONS_VERSION:
        raise RemoteProtocolError("not an activation frame of this version")
    if (num_tokens, hidden_size) != shape:
        raise RemoteProtocolError(f"hidden states of shape {(num_tokens, hidden_size)} came, not {shape}")
    times_end = _ACTIVATIONS.size + 2 * 8 * num_stages
    end = times_end + num_extra + -num_extra % _ALIGNMENT_BYTES
    if num_stages > _MAX_STAGES or len(frame) < end or code >= len(LINK_PRECISIONS):
        raise RemoteProtocolError(f"activation frame of {len(frame)} bytes does not match its header")
    times = struct.unpack_from(f"<{2 * num_stages}d", frame, _ACTIVATIONS.size)
    return Activations(
        step_id=StepId(step_id),
        generation=Generation(generation),
        alignment=bytes(frame[times_end : times_end + num_extra]),
        x_TD=unpack_hidden(frame[end:], *shape, LINK_PRECISIONS[int(code)]),
        compute_s=times[:num_stages],
        wait_s=times[num_stages:],
    )
