"""Errors as gRPC status codes. Source: gRPC, "Status codes and their use in gRPC"; Triton's choice of them."""

from __future__ import annotations

import grpc

from shoal.errors import (
    CapacityError,
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    ModelLoadError,
    QueueFull,
    RequestAborted,
    ShoalError,
    ShuttingDown,
    WorkerLost,
)
from shoal.inference.repository import ModelNotReady, UnknownModel
from shoal.server.oip.repository_calls import LoadNotAllowed

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata that tell clients when to try again. Source: gRFC A6, "Pushback"."""

_MS = 1_000


def status_of(error: ShoalError) -> grpc.StatusCode:
    """The status code of an error."""
    match error:
        case LoadNotAllowed():
            return grpc.StatusCode.PERMISSION_DENIED
        case UnknownModel():
            return grpc.StatusCode.NOT_FOUND
        case InvalidRequest() | ModelLoadError() | ConfigError():
            return grpc.StatusCode.INVALID_ARGUMENT
        case DeadlineExceeded():
            return grpc.StatusCode.DEADLINE_EXCEEDED
        case QueueFull() | ModelNotReady() | WorkerLost() | ShuttingDown():
            return grpc.StatusCode.UNAVAILABLE
        case CapacityError():
            return grpc.StatusCode.RESOURCE_EXHAUSTED
        case RequestAborted():
            return grpc.StatusCode.CANCELLED
        case _:
            return grpc.StatusCode.INTERNAL


def trailing_metadata(error: ShoalError) -> tuple[tuple[str, str], ...]:
    """Further metadata of an error: when to try again, if that is known."""
    match error:
        case QueueFull() | DeadlineExceeded() if error.retry_after_s is not None:
            return ((PUSHBACK_KEY, str(max(1, round(error.retry_after_s * _MS)))),)
        case _:
            return ()
