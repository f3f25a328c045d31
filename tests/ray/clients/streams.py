"""`python -m tests.ray.clients.streams URL COUNT TOKENS`: that many streams at once, for a process inside a namespace.

Prints `started` once every stream has said something. Each begins again when it has ended, so that one is under way
whenever something strikes. When the standard input ends, each ends as well, and one line of JSON says what each has
said, equal texts once.
"""

from __future__ import annotations

import asyncio
import json
import sys

import httpx

_TIMEOUT_S = 100.0


async def main(url: str, count: int, num_tokens: int) -> None:
    """Prompts are numbers of their own, drawn greedily."""
    is_over = asyncio.Event()
    num_started = 0

    async def follow(index: int) -> list[str]:
        texts: list[str] = []
        while not texts or not is_over.is_set():
            text = await one_text(index, is_first=not texts)
            if text not in texts:
                texts.append(text)
        return texts

    async def one_text(index: int, *, is_first: bool) -> str:
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
                if is_first and not said:
                    num_started += 1
                    if num_started == count:
                        print("started", flush=True)
                said += event["choices"][0]["text"] if event["choices"] else ""
        return said

    async def wait() -> None:
        await asyncio.to_thread(sys.stdin.read)
        is_over.set()

    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
        _, *texts = await asyncio.gather(wait(), *map(follow, range(count)))
        print(json.dumps(texts), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
