"""`python -m tests.ray.clients.inferences URL COUNT WIDTH`: that many clients of a graph at once, inside a namespace.

Each asks again and again for rows of its own, at first without a pause, because that is when something strikes. Prints
`started` once every client has had an answer. When its standard input ends, every client asks once more, and one line
of JSON says what each was told, equal answers once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from itertools import count as count_up

import httpx

_TIMEOUT_S = 100.0
_NUM_AT_ONCE = 100
"""Requests of each client before it pauses."""
_PAUSE_S = 0.1
"""Between later requests: recovery needs the processor as well."""
_PLACES = 4
"""Decimal places that are compared: another cut of the graph is rounded in another way."""


async def main(url: str, count: int, width: int) -> None:
    """Rows are numbers of their own."""
    is_over = asyncio.Event()
    num_started = 0

    async def ask(index: int) -> None:
        nonlocal num_started
        row = [0.01 * index * (place + 1) for place in range(width)]
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, width], "data": row}]}
        for number in count_up():
            is_last = is_over.is_set()
            response = await client.post(f"{url}/v2/models/chain/infer", json=body)
            assert response.status_code == 200, response.text
            (y,) = [one["data"] for one in response.json()["outputs"] if one["name"] == "y"]
            told = [round(value, _PLACES) for value in y]
            if not answers[index]:
                num_started += 1
                if num_started == count:
                    print("started", flush=True)
            if told not in answers[index]:
                answers[index].append(told)
            if is_last:
                break
            if number >= _NUM_AT_ONCE:
                with suppress(TimeoutError):
                    await asyncio.wait_for(is_over.wait(), _PAUSE_S)

    async def wait() -> None:
        await asyncio.to_thread(sys.stdin.read)
        is_over.set()

    answers: list[list[list[float]]] = [[] for _ in range(count)]
    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
        await asyncio.gather(wait(), *map(ask, range(count)))
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
