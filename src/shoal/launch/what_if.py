"""Asks the planner about other machines, in a process of its own that ends when its time is over.

The search holds Python's lock for seconds, and a head that serves must not wait for it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from typing import Protocol, TypeVar

from shoal.errors import DeadlineExceeded, ShoalError
from shoal.executor.process.child_process import module_command, worker_environment
from shoal.planner.what_if import Change

AnswerT_co = TypeVar("AnswerT_co", covariant=True)

DEADLINE_S = 20.0
"""For one question. A judgment: what somebody waits for before a page; a thousand unlike machines take longer."""
_NICENESS = 10
"""Less of the processor than the workers that serve meanwhile."""


class Question(Protocol[AnswerT_co]):
    """`planner.what_if.PlanQuestion`, or the same for graphs; plain data that goes to another process."""

    def changed(self, change: Change) -> Question[AnswerT_co]:
        """The question for other machines. Raises ConfigError: there are no such ones."""
        ...

    def answer(self) -> AnswerT_co:
        """What is best. Raises CapacityError, ConfigError: nothing is."""
        ...


def ask_planner(question: Question[AnswerT_co], change: Change, deadline_s: float = DEADLINE_S) -> AnswerT_co:
    """What would be chosen for other machines. Blocks for as long as the search takes.

    Args:
        question: to which the plan that runs is the answer.
        change: how the machines differ.
        deadline_s: after which the search is ended.

    Raises:
        ConfigError: there are no such machines, or no plan meets the latency target.
        CapacityError: the model fits nowhere.
        DeadlineExceeded: the search took too long.
    """
    asked = pickle.dumps(question.changed(change))
    try:
        done = subprocess.run(
            module_command(__name__), input=asked, capture_output=True, timeout=deadline_s, env=worker_environment()
        )
    except subprocess.TimeoutExpired:
        raise DeadlineExceeded(f"the planner has found no answer within {deadline_s:g} s") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ShoalError(f"the planner's process ended with status {done.returncode}: {reason}")
    answer: AnswerT_co | ShoalError = pickle.loads(done.stdout)
    if isinstance(answer, ShoalError):
        raise answer
    return answer


def main() -> None:
    """A question on stdin; the choice, or why there is none, on stdout. Both are pickled by `ask_planner` alone."""
    os.nice(_NICENESS)
    signal.alarm(int(DEADLINE_S) + 1)  # where the server that asked has ended, nobody else ends this
    question: Question[object] = pickle.load(sys.stdin.buffer)
    answer: object
    try:
        answer = question.answer()
    except ShoalError as error:
        answer = error
    sys.stdout.buffer.write(pickle.dumps(answer))


if __name__ == "__main__":
    main()
