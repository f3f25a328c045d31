"""What agents answer and what Ray says instead, as errors of ours."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from shoal.errors import CapacityError, ConfigError, ShoalError, WorkerLost
from shoal.machines.ray.answers import answer_of, reason_in, wait_for

ray = pytest.importorskip("ray")
TRACEBACK = """\x1b[36mray::MachineAgent.__init__()\x1b[39m (pid=1, repr=<Manager object at 0x7>)
  File "/x/python3.11/site-packages/ray/_private/worker.py", line 1, in load
    raise RuntimeError(
RuntimeError: The actor with name MachineAgent failed to import on the worker. This may be because needed ...

Traceback (most recent call last):
  File "/x/python3.11/site-packages/ray/cloudpickle.py", line 2, in subimport
FileNotFoundError: No such file: shoal/__init__.py
"""


class FakeRay(ModuleType):
    """Gives one error for every reference."""

    exceptions = ray.exceptions

    def __init__(self, error: Exception | None, is_there: bool = True) -> None:
        super().__init__("ray")
        self._error, self._is_there = error, is_there

    def get(self, reference: Any, timeout: float) -> Any:
        if self._error is not None:
            raise self._error
        return reference

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return (references, []) if self._is_there else ([], references)


def task_error(cause: Exception) -> Exception:
    return ray.exceptions.RayTaskError("measure", TRACEBACK, cause, proctitle="x", pid=1, ip="10.0.0.2")


def told(error: Exception) -> ShoalError:
    with pytest.raises(ShoalError) as caught:
        answer_of(FakeRay(error), "answer", "h1")
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pid=" not in str(caught.value)
    return caught.value


def test_an_answer_is_passed_on() -> None:
    assert answer_of(FakeRay(None), "answer", "h1") == "answer"


def test_an_agents_own_error_is_what_it_says() -> None:
    own = CapacityError("no room on h1")
    assert told(task_error(own)) is own
    assert told(task_error(own).as_instanceof_cause()) is own  # type: ignore[attr-defined]


def test_whatever_else_an_agent_raises_is_a_line_with_its_machine() -> None:
    error = told(task_error(ZeroDivisionError("division by zero")))
    assert isinstance(error, WorkerLost)
    assert str(error).startswith("machine h1 failed: ")


def test_a_machine_without_shoal_is_told_what_to_install() -> None:
    error = told(ray.exceptions.ActorDiedError(task_error(RuntimeError("failed to import"))))
    assert isinstance(error, ConfigError)
    assert str(error) == (
        "Shoal cannot be started on h1 (FileNotFoundError: No such file: shoal/__init__.py): install the same version "
        "of it there, for the Python that Ray runs with"
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ray.exceptions.ActorDiedError(), "its agent has ended"),
        (ray.exceptions.ActorUnavailableError("restarting", None), "its agent is being started again"),
        (ray.exceptions.GetTimeoutError("timed out"), "timed out"),
    ],
)
def test_an_agent_that_is_gone_is_a_loss(error: Exception, words: str) -> None:
    said = told(error)
    assert isinstance(said, WorkerLost)
    assert str(said) == f"machine h1 does not answer: {words}"


def test_the_reason_is_the_last_exception_or_the_first_line() -> None:
    assert reason_in(TRACEBACK) == "FileNotFoundError: No such file: shoal/__init__.py"
    assert reason_in("\x1b[31mfirst\x1b[0m\nsecond") == "first"
    assert reason_in(" \n") == "no reason given"
    assert len(reason_in("x" * 5000)) == 300


def test_a_wait_ends_where_nobody_wants_the_answer() -> None:
    wait_for(FakeRay(None), "answer", "too late", 0.0, lambda: False)
    with pytest.raises(WorkerLost, match="too late"):
        wait_for(FakeRay(None, is_there=False), "answer", "too late", 1e9, lambda: False)
    with pytest.raises(WorkerLost, match="too late"):
        wait_for(FakeRay(None, is_there=False), "answer", "too late", 0.0, lambda: True)
