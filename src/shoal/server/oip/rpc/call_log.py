"""Gives every gRPC call an id, returns it, and logs a line for the call, as `RequestLog` does for HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn

import grpc

from shoal.server.http.request_log import HEADER, accepted_id, access_logger, log_access
from shoal.server.oip.rpc.service import Context

_KEY = HEADER.decode()


@dataclass(slots=True)
class NamedCall:
    """One call: its id, and how it ends."""

    request_id: str
    code: grpc.StatusCode = grpc.StatusCode.OK

    async def abort(
        self, context: Context, code: grpc.StatusCode, text: str, trailing: tuple[tuple[str, str], ...] = ()
    ) -> NoReturn:
        """End the call with an error."""
        self.code = code
        await context.abort(code, text, trailing)
        raise AssertionError("gRPC's own abort raises")


@asynccontextmanager
async def named_call(method: str, context: Context) -> AsyncGenerator[NamedCall, None]:
    """Wrap the answering of a call. Its id is returned as initial metadata."""
    started_s = time.perf_counter()
    given = dict(context.invocation_metadata() or ()).get(_KEY)
    call = NamedCall(accepted_id(given if isinstance(given, str) else None))
    await context.send_initial_metadata(((_KEY, call.request_id),))
    try:
        yield call
    except asyncio.CancelledError:
        call.code = grpc.StatusCode.CANCELLED
        raise
    finally:
        if access_logger.isEnabledFor(logging.INFO):
            log_access("gRPC", method, call.code.name, time.perf_counter() - started_s, call.request_id, {})
