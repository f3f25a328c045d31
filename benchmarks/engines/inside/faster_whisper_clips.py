"""Runs in faster-whisper's own Python: transcribes clips again and again, one JSON line a round.

faster_whisper_clips.py MODEL THREADS WORKERS BEAMS ROUNDS FILE.npy...

With several workers the clips are given to as many threads at once, else they follow one another.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from faster_whisper import WhisperModel


def main() -> None:
    """Wait for a line on stdin before each round, so that contenders take turns."""
    model_path, threads, workers, beams, rounds, *files = sys.argv[1:]
    model = WhisperModel(
        model_path, device="cpu", compute_type="int8", cpu_threads=int(threads), num_workers=int(workers)
    )
    clips = [np.load(file) for file in files]

    def transcribe(clip: np.ndarray) -> str:
        segments, _ = model.transcribe(clip, language="en", beam_size=int(beams), temperature=[0.0])
        return "".join(segment.text for segment in segments).strip()

    with ThreadPoolExecutor(int(workers)) as pool:
        transcribe(clips[0])
        for _ in range(int(rounds)):
            sys.stdin.readline()
            started_s = time.perf_counter()
            texts = list(pool.map(transcribe, clips))
            print(json.dumps({"seconds": time.perf_counter() - started_s, "texts": texts}), flush=True)


if __name__ == "__main__":
    main()
