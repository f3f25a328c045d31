"""OpenTelemetry spans from what the engine has traced: a request, its phases, and the stages within them.

Source of the attributes' names: OpenTelemetry, semantic conventions for generative AI; others are `shoal.*`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from shoal.core.sequences.request import RequestId
from shoal.router.story.request_traces import RequestPhase, RequestTrace

_NS = 1_000_000_000
_NUM_LOOKS = 5


def _offset_ns(clock: Callable[[], float], wall_clock_ns: Callable[[], int]) -> int:
    """Nanoseconds from the zero of `clock` to that of the wall clock, from the quickest of a few looks at both: what
    interrupts a look makes it wrong by as much."""
    looks: list[tuple[float, int]] = []
    for _ in range(_NUM_LOOKS):
        before_s, wall_ns, after_s = clock(), wall_clock_ns(), clock()
        looks.append((after_s - before_s, wall_ns - round((before_s + after_s) / 2 * _NS)))
    return min(looks)[1]


class RequestSpans:
    """Implements `generation.seams.RequestObserver`; `end` is called in the engine's thread."""

    def __init__(
        self,
        tracer: Tracer,
        model_name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """
        Args:
            tracer: makes the spans.
            model_name: as clients ask for it.
            clock: of the engine.
            wall_clock_ns: nanoseconds since 1970.
        """
        self._tracer, self._model_name = tracer, model_name
        self._offset_ns = _offset_ns(clock, wall_clock_ns)
        self._parents: dict[RequestId, Context] = {}

    def begin(self, request_ids: Iterable[RequestId]) -> None:
        """Requests are about to be submitted for the present call, whose span becomes their parent."""
        self._parents |= dict.fromkeys(request_ids, context.get_current())

    def forget(self, request_ids: Iterable[RequestId]) -> None:
        """These requests were refused."""
        for request_id in request_ids:
            self._parents.pop(request_id, None)

    def end(self, ended: RequestTrace) -> None:
        """A request has ended: export its spans."""
        parent, finished = self._parents.pop(ended.request_id, None), ended.finished
        if parent is None or finished is None:  # a canary, which does not belong to a call
            return
        span = self._tracer.start_span(
            "generate",
            parent,
            start_time=self._ns(ended.phases[0].begin_s),
            attributes={
                "gen_ai.request.model": self._model_name,
                "gen_ai.usage.input_tokens": finished.num_prompt_tokens,
                "gen_ai.usage.output_tokens": finished.num_output_tokens,
                "gen_ai.response.finish_reasons": (finished.reason,),
                "shoal.request_id": ended.request_id,
                "shoal.cached_tokens": finished.num_cached_tokens,
            },
        )
        if finished.reason == "error":
            span.set_status(Status(StatusCode.ERROR, finished.message))
        for phase in ended.phases:
            self._add_phase(phase, trace.set_span_in_context(span))
        self._finish(span, ended.phases[-1].end_s)

    def _add_phase(self, phase: RequestPhase, parent: Context) -> None:
        span = self._tracer.start_span(phase.name, parent, start_time=self._ns(phase.begin_s))
        if phase.replica is not None:
            span.set_attribute("shoal.replica", phase.replica)
            span.set_attribute("shoal.steps", phase.num_steps)
        for stage, compute_s in enumerate(phase.stage_compute_s):
            within = self._tracer.start_span(
                f"stage {stage}", trace.set_span_in_context(span), start_time=self._ns(phase.begin_s)
            )
            within.set_attribute("shoal.compute_s", compute_s)
            self._finish(within, phase.end_s)
        self._finish(span, phase.end_s)

    def _finish(self, span: Span, end_s: float) -> None:
        span.end(self._ns(end_s))

    def _ns(self, time_s: float) -> int:
        return round(time_s * _NS) + self._offset_ns
