"""What the head and a process that measures say to each other.

One request, one answer; `Pause` has none. A process that was told to keep going repeats what it did last, unanswered,
until the next message, so that the others of its machine are measured while it computes.
"""

from __future__ import annotations

import msgspec

from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.protocol.device_config import DeviceConfig
from shoal.protocol.stage_config import Precision, StageConfig
from shoal.protocol.worker_messages import Shutdown, StageFailed

PROFILE_PROTOCOL_VERSION = 5
PAIR = 2
"""Processes whose links are measured, those of rank 0 and 1."""


class StartProfile(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=40):
    """The first message. Answer: Done."""

    version: int
    threads: int
    cores: tuple[int, ...]
    """CPU ids to pin to; empty: not pinned"""
    rank: int
    """among the processes that measure together; the first PAIR have links and a group"""


class LoadPart(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=41):
    """Load a part of a model and keep it under a name. Answer: Done."""

    name: str
    model_path: str
    stage: StageConfig
    device: DeviceConfig | None = None
    """what computes it; None: the processor"""


class DropPart(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=42):
    """Free a part's memory. Answer: Done."""

    name: str


class TimeLimits(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How often a measurement is repeated, and for how long at most."""

    min_runs: int
    max_runs: int
    enough_s: float
    """after min_runs, no more once they have taken so long together"""
    keep_going: bool = False


class TimeStep(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=43):
    """Run one step through a part, again and again. Answer: Times."""

    part: str
    output_rows: int
    """each of a sequence of its own"""
    prompt_rows: int
    prompt_tokens: int
    """rows of one sequence among the prompt rows"""
    past_tokens: int
    """that each sequence has in the KV cache"""
    is_sampled: bool
    limits: TimeLimits
    clips: int = 0
    """that the part's encoder takes in"""


class TimeProduct(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=44):
    """Multiply some rows by a matrix. Answer: Times."""

    precision: Precision
    """fp32 | int8 | int4"""
    rows: int
    num_in: int
    num_out: int
    limits: TimeLimits


class TimeCopy(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=45):
    """Copy memory. Answer: Times."""

    num_bytes: int
    limits: TimeLimits


class TimeFrames(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=46):
    """Send frames from one process to the next; each waits until the receiver sleeps. Answer of the receiver: seconds
    from sending to having received, of the sender: of nothing."""

    link: str
    """ring | tcp"""
    is_sender: bool
    num_bytes: int
    count: int
    pause_s: float


class TimeSums(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=47):
    """All-reduces over the pair, to which one and the other come late in turn. Answer: Times, two for each sum: when
    this process came and when it left, on the clock that all processes share."""

    num_bytes: int
    count: int
    late_s: float


class Echo(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=48):
    """Asks the other side to send the same message back."""

    payload: bytes


class Pause(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=49):
    """Stop what keeps going."""


class Done(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=50):
    """Answers that what was asked for is done."""


class Times(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=51):
    """Seconds of each repetition, the first ones left out."""

    seconds: tuple[float, ...]


Request = (
    StartProfile
    | LoadPart
    | DropPart
    | TimeStep
    | TimeProduct
    | TimeCopy
    | TimeFrames
    | TimeSums
    | Echo
    | Pause
    | Shutdown
)
Answer = Done | Times | Echo | StageFailed

_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Request)
_answer_decoder = msgspec.msgpack.Decoder(Answer)
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def encode_profile(message: Request | Answer) -> bytes:
    """One message as a frame. Raises LocalProtocolError where a value does not fit the wire."""
    try:
        return _encoder.encode(message)
    except (msgspec.MsgspecError, OverflowError, TypeError) as error:
        raise LocalProtocolError(f"cannot encode {type(message).__name__}: {error}") from error


def decode_request(frame: bytes | memoryview) -> Request:
    """What a measuring process is asked. Raises RemoteProtocolError."""
    try:
        return _request_decoder.decode(frame)
    except _MALFORMED as error:
        raise RemoteProtocolError(f"malformed request to measure: {error}") from error


def decode_answer(frame: bytes | memoryview) -> Answer:
    """What it answers. Raises RemoteProtocolError."""
    try:
        return _answer_decoder.decode(frame)
    except _MALFORMED as error:
        raise RemoteProtocolError(f"malformed answer of a measuring process: {error}") from error
