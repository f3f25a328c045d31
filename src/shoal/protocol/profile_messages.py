"""Messages between the head and a measuring process.

Every request has one answer, except `Pause`, which has none. A process that was told to keep going repeats its last
measurement without answers until the next message, so that others on its machine are measured while it computes.
"""

from __future__ import annotations

import msgspec

from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.protocol.device_config import DeviceConfig
from shoal.protocol.stage_config import Precision, StageConfig
from shoal.protocol.worker_messages import Shutdown, StageFailed

PROFILE_PROTOCOL_VERSION = 5
PAIR = 2
"""The number of processes whose links are measured: those of rank 0 and 1."""


class StartProfile(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=40):
    """The first message. Answer: Done."""

    version: int
    threads: int
    cores: tuple[int, ...]
    """CPU ids to which the process is pinned; empty: not pinned."""
    rank: int
    """The rank among the processes that measure together; the first PAIR have links and a group."""


class LoadPart(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=41):
    """Load a part of a model and keep it under a name. Answer: Done."""

    name: str
    model_path: str
    stage: StageConfig
    device: DeviceConfig | None = None
    """The device that computes the part; None: the processor."""


class DropPart(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=42):
    """Free a part's memory. Answer: Done."""

    name: str


class TimeLimits(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How often a measurement is repeated, and for how long."""

    min_runs: int
    max_runs: int
    enough_s: float
    """After min_runs, the measurement ends when all runs together have taken so many seconds."""
    keep_going: bool = False
    """Whether to repeat the measurement without answers until the next message."""


class TimeStep(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=43):
    """Run one step through a part repeatedly. Answer: Times."""

    part: str
    output_rows: int
    """Output rows, each of a sequence of its own."""
    prompt_rows: int
    prompt_tokens: int
    """Rows of each sequence among the prompt rows."""
    past_tokens: int
    """Tokens that each sequence has in the KV cache."""
    is_sampled: bool
    limits: TimeLimits
    clips: int = 0
    """Clips that the part's encoder computes."""


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
    """Send frames from one process to the next; each is sent when the receiver sleeps. The receiver answers with the
    seconds from sending to receipt, the sender with none."""

    link: str
    """ring | tcp"""
    is_sender: bool
    num_bytes: int
    count: int
    pause_s: float


class TimeSums(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=47):
    """All-reduces over the pair, to which the two processes are late in turn. Answer: Times, two for each sum: when
    this process began and when it was done, on the clock that all processes share."""

    num_bytes: int
    count: int
    late_s: float


class Echo(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=48):
    """A message that the other side sends back unchanged."""

    payload: bytes


class Pause(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=49):
    """Stop a measurement that keeps going."""


class Done(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=50):
    """The answer to a request that returns nothing else."""


class Times(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=51):
    """Seconds of each repetition, without the first ones."""

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
    """Encode a message as a frame. Raises LocalProtocolError if a value does not fit the wire format."""
    try:
        return _encoder.encode(message)
    except (msgspec.MsgspecError, OverflowError, TypeError) as error:
        raise LocalProtocolError(f"cannot encode {type(message).__name__}: {error}") from error


def decode_request(frame: bytes | memoryview) -> Request:
    """Decode a request to a measuring process. Raises RemoteProtocolError if it is malformed."""
    try:
        return _request_decoder.decode(frame)
    except _MALFORMED as error:
        raise RemoteProtocolError(f"malformed request to measure: {error}") from error


def decode_answer(frame: bytes | memoryview) -> Answer:
    """Decode an answer of a measuring process. Raises RemoteProtocolError if it is malformed."""
    try:
        return _answer_decoder.decode(frame)
    except _MALFORMED as error:
        raise RemoteProtocolError(f"malformed answer of a measuring process: {error}") from error
