"""Calls that only the page makes: how models were planned, the load of the last hour, what-if questions and, in a demo,
which worker to kill.

All are below `/status`, which needs the key if there is one. The page reads the present state from `/status` itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.errors import ConfigError, DeadlineExceeded, ShoalError, WorkerLost
from shoal.server.http.health.probes import STATUS_PATH, Status
from shoal.server.http.host_check import is_own_page
from shoal.server.web.demo import take_machine, take_worker
from shoal.server.web.history import PERIOD_S, LoadHistory
from shoal.server.web.page import WebPage
from shoal.server.web.questions import MAX_BODY_BYTES, BodyT, KillBody, StrikeBody, WhatIfBody, read_body
from shoal.server.web.seams import PlanBook

_MOST_ANSWERS = 32
"""Answers of the planner that are kept: one for each question of a page's form."""

_Answer = tuple[int, object]
"""Status and content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOptions:
    """Options of a server's page."""

    plans: PlanBook
    is_demo: bool = False
    """Whether users of the server may kill or stop workers on the page."""
    allows_drill: bool = False
    """The same for `shoal drill`, without showing it on the page."""


class PageApi:
    """Handlers of the page and of its own calls. Belongs to the server's event loop."""

    def __init__(self, status: Status, options: PageOptions, allowed_hosts: Sequence[str] | None) -> None:
        """
        Args:
            status: of the server.
            options: see `PageOptions`.
            allowed_hosts: host names that requests may use besides this machine's own and addresses.
        """
        self._status, self._plans, self._is_demo = status, options.plans, options.is_demo
        self._allows_kills = options.is_demo or options.allows_drill
        self._allowed = frozenset(name.lower() for name in allowed_hosts or ())
        self._history = LoadHistory(status.describe)
        self._asking = asyncio.Lock()
        self._answers: dict[WhatIfBody, _Answer] = {}
        """The planner's latest answers, with status and content."""

    def routes(self) -> list[Route]:
        """For the app's router."""
        calls = [
            Route(f"{STATUS_PATH}/page", self.page, methods=["GET"]),
            Route(f"{STATUS_PATH}/history", self.history, methods=["GET"]),
            Route(f"{STATUS_PATH}/what-if", self.what_if, methods=["POST"]),
        ]
        if self._allows_kills:
            calls.append(Route(f"{STATUS_PATH}/kill", self.kill, methods=["POST"]))
            calls.append(Route(f"{STATUS_PATH}/strike", self.strike, methods=["POST"]))
        return [*WebPage().routes(), *calls]

    @asynccontextmanager
    async def at_work(self) -> AsyncGenerator[None, None]:
        """Sample the load in the running loop until the block ends."""
        self._history.start()
        try:
            yield
        finally:
            await self._history.close()

    async def page(self, request: Request) -> Response:
        """GET /status/page: what does not change while the server runs, and how each model was planned."""
        names = [model["name"] for model in await self._status.describe()]
        models = [
            {"name": name, "choice": self._plans.choice(name), "machines": self._plans.machines(name)} for name in names
        ]
        return JSONResponse({"is_demo": self._is_demo, "models": models})

    async def history(self, request: Request) -> Response:
        """GET /status/history: the load of the last hour."""
        await self._history.first_sample()
        return JSONResponse({"period_s": PERIOD_S, "models": self._history.series()})

    async def what_if(self, request: Request) -> Response:
        """POST /status/what-if: the planner's choice for other machines. One question at a time."""
        body = await self._read(request, WhatIfBody)
        if isinstance(body, Response):
            return body
        if body not in self._answers:
            if self._asking.locked():
                return _refused(503, "the planner works on another question: ask again in a few seconds")
            async with self._asking:
                answer = await _in_thread(lambda: self._answer(body))
            self._keep(body, answer)
        else:
            answer = self._answers[body]
        status, content = answer
        return JSONResponse(content, status_code=status)

    async def kill(self, request: Request) -> Response:
        """POST /status/kill: kill or stop a worker."""
        body = await self._read(request, KillBody)
        return body if isinstance(body, Response) else await _done(take_worker(self._status, body))

    async def strike(self, request: Request) -> Response:
        """POST /status/strike: kill or stop all workers of another machine, or pull its cable for a while."""
        body = await self._read(request, StrikeBody)
        return body if isinstance(body, Response) else await _done(take_machine(self._status, body))

    def _keep(self, body: WhatIfBody, answer: _Answer) -> None:
        """Keep an answer for further requests, unless it is an error, which may be gone then."""
        if answer[0] >= 500:
            return
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers.pop(next(iter(self._answers)))
        self._answers[body] = answer

    def _answer(self, body: WhatIfBody) -> _Answer:
        """Compute an answer in a thread: status and content."""
        try:
            return 200, self._plans.what_if(body.model, body.to_change())
        except DeadlineExceeded as error:
            return 503, {"status": "unavailable", "reason": str(error)}
        except ShoalError as error:
            return 400, {"status": "refused", "reason": str(error)}

    async def _read(self, request: Request, schema: type[BodyT]) -> BodyT | Response:
        """The body of a call that changes or costs something, which only the page itself may send."""
        if not is_own_page(request.headers, self._allowed):
            return _refused(
                403,
                "only this server's own page may ask this; where the server has a name, allow it with --allowed-host",
            )
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _refused(415, "send application/json")
        content = bytearray()
        async for piece in request.stream():
            content += piece
            if len(content) > MAX_BODY_BYTES:
                return _refused(413, f"the body may have {MAX_BODY_BYTES} bytes")
        body = read_body(bytes(content), schema)
        return _refused(400, body) if isinstance(body, str) else body


@asynccontextmanager
async def page_at_work(page: PageApi | None) -> AsyncGenerator[None, None]:
    """See `PageApi.at_work`; None: there is no page."""
    async with nullcontext() if page is None else page.at_work():
        yield


def page_routes(page: PageApi | None) -> list[Route]:
    """See `PageApi.routes`; None: there is no page."""
    return [] if page is None else page.routes()


async def _in_thread(work: Callable[[], _Answer]) -> _Answer:
    """The result of work that blocks for seconds, in a thread that the server's end does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Answer] = loop.create_future()

    def settle(answer: _Answer) -> None:
        if not done.done():
            done.set_result(answer)

    def run() -> None:
        try:
            answer = work()
        except Exception as error:  # the outermost loop of this thread: whoever waits must get an answer
            answer = 500, {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        with suppress(RuntimeError):  # the loop has ended first
            loop.call_soon_threadsafe(settle, answer)

    threading.Thread(target=run, name="shoal-what-if", daemon=True).start()
    return await done


async def _done(taking: Awaitable[None]) -> Response:
    """The answer after a worker or a machine was to be struck."""
    try:
        await taking
    except (ConfigError, WorkerLost) as error:
        return _refused(409, str(error))
    return JSONResponse({"status": "ok"})


def _refused(status: int, reason: str) -> Response:
    return JSONResponse({"status": "refused", "reason": reason}, status_code=status)
