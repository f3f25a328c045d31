"""What a process holds, seen on one that does nothing else."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, threading
from shoal.bench.chaos.resources import resources_of

before = resources_of(os.getpid())
memory = os.memfd_create("shoal-test")
os.truncate(memory, 8192)
reading, writing = os.pipe()
end = threading.Event()
thread = threading.Thread(target=end.wait)
thread.start()
during = resources_of(os.getpid())
end.set()
thread.join()
for descriptor in (memory, reading, writing):
    os.close(descriptor)
assert during.fds == before.fds + 3
assert during.threads == before.threads + 1
assert (during.memfds, during.memfd_bytes) == (before.memfds + 1, before.memfd_bytes + 8192)
assert resources_of(os.getpid()).fds == before.fds
assert during.rss_bytes > 1_000_000
"""


def test_shared_memory_threads_and_descriptors_are_seen() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=250)
