"""Every error Shoal raises on purpose.

ShoalError
├── ConfigError            a flag, file or plan that makes no sense (CLI exit code 2)
│   └── MissingExtra           a package is needed that a plain install does not bring
├── ModelLoadError         a model file that is missing, broken or of an unknown kind
│   └── ModelChanged           a model file that is no longer the one that was opened first
├── CapacityError          a correct request for which there is not enough memory or queue space
│   └── QueueFull              the queue is full now; try again later
├── ProtocolError          bytes that break the wire format
│   ├── LocalProtocolError     we were about to send them
│   └── RemoteProtocolError    a peer sent them
├── WorkerLost             a worker died, hung past its deadline or closed its link
│   ├── WorkerCrashed          it died of what it was computing, as far as can be seen
│   └── MachineGone            its machine accepts no connections
├── DeviceLost             a worker's device was lost or ran out of memory while it computed; the worker ends, too
├── ShuttingDown           new requests are refused, because what would compute them is about to end
│   └── ModelClosed            a `shoal.LLM` that was used after `close`
└── RequestError           one request cannot be served; the engine goes on
    ├── InvalidRequest         the request itself is wrong
    ├── RequestAborted         the client went away
    └── DeadlineExceeded       the request did not finish in the time it was given

HTTP status codes belong to the server and exit codes to the CLI; nothing here knows either.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


class ShoalError(Exception):
    """The base of all errors. The message is one line that says what is wrong and, where possible, what to do."""


class ConfigError(ShoalError):
    """A flag, a file or a plan that makes no sense."""


class MissingExtra(ConfigError):
    """A package is needed that a plain install does not bring."""

    def __init__(self, needed: str, extra: str) -> None:
        """`needed` says who needs what ("Parquet needs pyarrow"); `extra` is the extra that installs it."""
        super().__init__(f"{needed}: pip install 'shoal-inference[{extra}]'")


class ModelLoadError(ShoalError):
    """A model file that is missing, broken or of an unknown kind."""


class ModelChanged(ModelLoadError):
    """A model file that is no longer the one that was opened first; loading it again would mix weights."""


class CapacityError(ShoalError):
    """The request is correct, but there is not enough memory or queue space."""


class QueueFull(CapacityError):
    """The queue is full. `retry_after_s` is the number of seconds after which there is likely to be room."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ProtocolError(ShoalError):
    """Bytes that break the wire format."""


class LocalProtocolError(ProtocolError):
    """This process was about to send bytes that break the wire format."""


class RemoteProtocolError(ProtocolError):
    """A peer sent bytes that break the wire format."""


class WorkerLost(ShoalError):
    """A worker died, hung past its deadline or closed its link."""


class WorkerCrashed(WorkerLost):
    """A worker died of what it was computing, as far as can be seen: nothing outside ended it."""


class MachineGone(WorkerLost):
    """A worker's machine accepts no connections, so nothing can be started there for now."""


class DeviceLost(ShoalError):
    """The device of a worker was lost, or it does not have enough memory for what the worker computes."""


class ShuttingDown(ShoalError):
    """The server accepts no new requests. Another server behind the same address may answer at once."""

    def __init__(self, message: str = "the server is shutting down: send the request again, to another one") -> None:
        super().__init__(message)


class ModelClosed(ShuttingDown):
    """A model that was used after it was closed, or closed while it was used."""


class RequestError(ShoalError):
    """One request cannot be served; the engine goes on."""


class InvalidRequest(RequestError):
    """The request itself is wrong. `param` names the offending field where there is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class RequestAborted(RequestError):
    """The client went away."""


class DeadlineExceeded(RequestError):
    """The request did not finish in the time it was given, or cannot. `retry_after_s` is the number of seconds after
    which the same request might succeed."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


_REASON_CHARACTERS = 400
"""The most characters of a parser's message that are shown; some parsers quote what they could not read."""


@contextmanager
def while_reading(what: object, error: type[ShoalError] = ModelLoadError) -> Generator[None]:
    """Turn whatever a damaged file makes its parser raise into one error that names the file.

    Parsers check for known mistakes and report them better. This is the safety net below them, since a file can be
    wrong in more ways than anyone has thought of.

    Args:
        what: the file, as the user named it.
        error: the class of the error.

    Raises:
        CapacityError: the file asks for more memory than there is.
        ShoalError: an `error`, or one that the block raised itself.
    """
    try:
        yield
    except ShoalError:
        raise
    except MemoryError as cause:
        raise CapacityError(f"{what}: reading it needs more memory than there is") from cause
    except OSError as cause:
        raise error(f"{what}: {cause.strerror or cause}") from cause
    except Exception as cause:
        reason = " ".join(str(cause).split())[:_REASON_CHARACTERS]
        raise error(f"{what}: damaged ({type(cause).__name__}: {reason})") from cause
