"""Continuous batching of OpenVINO GenAI, driven by JSON lines; runs with the Python of its own environment.

openvino_loop.py MODEL.gguf MAX_STREAMS THREADS

Says {"version": ...} once the model is loaded. Then each line of stdin, {"streams": n, "prompts": [[id, ...], ...],
"output_tokens": n}, is answered with {"output_tokens": n, "duration_s": s}. The end of stdin ends it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from typing import Any

import numpy as np
import openvino_genai as genai  # pyright: ignore[reportMissingImports]: it is in another environment
from openvino import Tensor  # pyright: ignore

_CACHE_GB = 1


def main() -> None:
    """Load, then answer until stdin ends."""
    model, max_streams, threads = sys.argv[1:]
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    scheduler.cache_size = _CACHE_GB
    scheduler.max_num_seqs = int(max_streams)
    pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": int(threads)})
    _say({"version": genai.__version__})
    for line in sys.stdin:
        _say(_run(pipeline, **json.loads(line)))


def _run(pipeline: Any, streams: int, prompts: list[list[int]], output_tokens: int) -> dict[str, float]:
    """A closed loop: a stream sends its next prompt in the step after it has its answer."""
    config = genai.GenerationConfig(max_new_tokens=output_tokens, ignore_eos=True, do_sample=False)
    tensors = [Tensor(np.array([prompt], np.int64)) for prompt in prompts]
    waiting, running, num_output_tokens = deque(enumerate(tensors)), [], 0
    started_s = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < streams:
            number, tensor = waiting.popleft()
            running.append(pipeline.add_request(number, tensor, config))
        pipeline.step()
        ended = [handle for handle in running if handle.get_status() != genai.GenerationStatus.RUNNING]
        running = [handle for handle in running if handle not in ended]
        num_output_tokens += sum(len(output.generated_ids) for handle in ended for output in handle.read_all())
    return {"output_tokens": num_output_tokens, "duration_s": time.perf_counter() - started_s}


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
