"""An inference in the form that both dialects use, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal.arrays import Array
from shoal.errors import InvalidRequest
from shoal.inference.repository import ModelRepository

MICROSECONDS = 1e-6
_LONGEST_US = 10**15
"""Three decades; longer times count as this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferCall:
    """A client's request."""

    model_name: str
    model_version: str
    """Empty: the only version."""
    request_id: str
    """Returned to the client; may be empty."""
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    """Names in the order of the answer; empty: all outputs."""
    timeout_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferAnswer:
    """The answer to a request."""

    model_name: str
    model_version: str
    request_id: str
    outputs: Mapping[str, Array]
    """The outputs that were asked for, in their order."""


async def run_inference(repository: ModelRepository, call: InferCall, call_id: str) -> InferAnswer:
    """Run a call. `call_id`: its id in the log and in stories.

    Raises:
        UnknownModel, ModelNotReady: there is no such model, or it is not ready.
        InvalidRequest, QueueFull, DeadlineExceeded, WorkerLost: as `ServedModel.infer`.
    """
    model = repository.get(call.model_name, call.model_version)
    names = [spec.name for spec in model.plan.outputs]
    _check_outputs(call, names)
    outputs = await model.infer(call.inputs, call.timeout_s, call_id)
    return InferAnswer(
        model_name=call.model_name,
        model_version=model.file.version,
        request_id=call.request_id,
        outputs={name: outputs[name] for name in call.outputs or names},
    )


def gather_inputs(names: Sequence[str], arrays: Sequence[Array]) -> dict[str, Array]:
    """Inputs by name. Raises InvalidRequest if one is given twice."""
    inputs = dict(zip(names, arrays, strict=True))
    if len(inputs) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"input {twice!r} is given twice")
    return inputs


def timeout_from(microseconds: object) -> float | None:
    """Seconds for the request parameter `timeout`; None and 0 set no limit. Raises InvalidRequest."""
    match microseconds:
        case None | 0:
            return None
        case bool():
            pass
        case int() if microseconds > 0:
            return min(microseconds, _LONGEST_US) * MICROSECONDS
        case _:
            pass
    raise InvalidRequest("parameter `timeout` must be a whole number of microseconds, 0 or more", param="timeout")


def _check_outputs(call: InferCall, names: Sequence[str]) -> None:
    for name in call.outputs:
        if name not in names:
            known = ", ".join(repr(known) for known in names)
            raise InvalidRequest(f"model {call.model_name!r} has no output {name!r}: it has {known}")
