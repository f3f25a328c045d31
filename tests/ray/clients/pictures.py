"""`python -m tests.ray.clients.pictures URL FILE`: the chats of a JSON file, all at once, in a namespace's process.

Prints one line of JSON: what each was answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx

_TIMEOUT_S = 100.0


async def main(url: str, chats: list[Any]) -> None:
    """Each chat is the messages of one request, answered greedily."""

    async def ask(messages: Any) -> str:
        body = {"model": "tiny", "messages": messages, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        response = await client.post(f"{url}/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["message"]["content"]

    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
        print(json.dumps(await asyncio.gather(*map(ask, chats))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text())))
