"""`python -m tests.ray.clients.streams URL COUNT TOKENS`: that many streams at once, for a process inside a namespace.

Prints `started` once every stream has said something, and at the end one line of JSON: what each has said.
"""

from __future__ import annotations

import asyncio
import json
import sys

import httpx

_TIMEOUT_S = 100.0


async def main(url: str, count: int, num_tokens: int) -> None:
    """Prompts are numbers of their own, drawn greedily."""
    num_started = 0

    async def follow(index: int) -> str:
        nonlocal num_started
        body = {
            "model": "tiny",
            "prompt": [(7 * index + place) % 250 + 1 for place in range(12)],
            "max_tokens": num_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        said = ""
        async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
            assert response.status_code == 200, await response.aread()
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                if not said:
                    num_started += 1
                    if num_started == count:
                        print("started", flush=True)
                said += event["choices"][0]["text"] if event["choices"] else ""
        return said

    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
        print(json.dumps(await asyncio.gather(*map(follow, range(count)))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
