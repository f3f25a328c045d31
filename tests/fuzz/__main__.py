"""`python -m tests.fuzz [SECONDS]`: until the time is up, or an input brings out what should not come out.

Such an input is kept in the corpus, so that the test run tries it from then on.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time

from tests.fuzz.corpus import FOLDER, read_corpus
from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, find_flaw

_BATCH = 1000


def main() -> int:
    """Exit status 1 after a find."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = time.time_ns()
    source = random.Random(seed)
    end_s = time.monotonic() + seconds
    counts = dict.fromkeys(TARGETS, 0)
    print(f"seed {seed}, {seconds:g} s")
    while time.monotonic() < end_s:
        for name, target in TARGETS.items():
            corpus = read_corpus(name)
            for _ in range(_BATCH):
                data = mutate(corpus, source)
                if error := find_flaw(target, data):
                    path = FOLDER / name / f"found-{hashlib.sha256(data).hexdigest()[:12]}.bin"
                    path.write_bytes(data)
                    print(f"{name}: {type(error).__name__}: {error}; kept as {path}")
                    return 1
            counts[name] += _BATCH
    print(", ".join(f"{name}: {count} inputs" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
