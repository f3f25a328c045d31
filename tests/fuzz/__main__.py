"""`python -m tests.fuzz [SECONDS]`: until the time is up, or an input brings out what should not come out.

Half of the time goes to bytes that come over a socket, half to files. What is found is kept, so that the test run tries
it from then on.
"""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.corpus import FOLDER, read_corpus
from tests.fuzz.files.formats import FORMATS
from tests.fuzz.files.run import find_flaws, keep
from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, find_flaw

_BATCH = 1000
_FILES = 200
_FILES_DEADLINE_S = 600.0


def main() -> int:
    """Exit status 1 after a find."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = time.time_ns()
    start_s = time.monotonic()
    print(f"seed {seed}, {seconds:g} s")
    counts: Counter[str] = Counter()
    found = _fuzz_sockets(random.Random(seed), start_s + seconds / 2, counts)
    found = found or _fuzz_files(seed % 10**12, start_s + seconds, counts)
    print(", ".join(f"{name}: {count} inputs" for name, count in counts.items()))
    if found:
        print(found)
    return 1 if found else 0


def _fuzz_sockets(source: random.Random, end_s: float, counts: Counter[str]) -> str | None:
    """What was found, in a line."""
    while time.monotonic() < end_s:
        for name, target in TARGETS.items():
            corpus = read_corpus(name)
            for _ in range(_BATCH):
                data = mutate(corpus, source)
                if error := find_flaw(target, data):
                    path = FOLDER / name / f"found-{hashlib.sha256(data).hexdigest()[:12]}.bin"
                    path.write_bytes(data)
                    return f"{name}: {type(error).__name__}: {error}; kept as {path}"
            counts[name] += _BATCH
    return None


def _fuzz_files(first: int, end_s: float, counts: Counter[str]) -> str | None:
    """The same of files: inputs with numbers from `first` on."""
    with tempfile.TemporaryDirectory() as root:
        while time.monotonic() < end_s:
            for name in FORMATS:
                for flaw in find_flaws(name, first, first + _FILES, Path(root), deadline_s=_FILES_DEADLINE_S):
                    return f"{name}: {flaw.what}; kept as {keep(name, flaw.index)}"
                counts[name] += _FILES
            first += _FILES
    return None


if __name__ == "__main__":
    sys.exit(main())
