"""Asks the planner about other machines in a process of its own, which ends when its time is over.

The search holds Python's lock for seconds, for which a serving head must not wait.
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
"""The time limit of a question. A judgment: how long a user waits for a page; a thousand unlike machines take
longer."""
_NICENESS = 10
"""Niceness of the search, so that it takes less processor time than serving workers."""


class Question(Protocol[AnswerT_co]):
    """`planner.what_if.PlanQuestion`, or its equivalent for graphs: plain data that is sent to another process."""

    def changed(self, change: Change) -> Question[AnswerT_co]:
        """The question after a change of the machines. Raises ConfigError if the change names unknown ones."""
        ...

    def answer(self) -> AnswerT_co:
        """Choose the best plan. Raises CapacityError or ConfigError if there is none."""
        ...


def ask_planner(question: Question[AnswerT_co], change: Change, deadline_s: float = DEADLINE_S) -> AnswerT_co:
    """Choose a plan for other machines. Blocks for as long as the search takes.

    Args:
        question: the question that the running plan answers.
        change: the change of the machines.
        deadline_s: seconds after which the search is ended.

    Raises:
        ConfigError: the change names unknown machines, or no plan meets the latency target.
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
    """Read a question from stdin, and write the choice or the error to stdout. Only `ask_planner` pickles both."""
    os.nice(_NICENESS)
    signal.alarm(int(DEADLINE_S) + 1)  # ends this process even if the server that asked has ended
    question: Question[object] = pickle.load(sys.stdin.buffer)
    answer: object
    try:
        answer = question.answer()
    except ShoalError as error:
        answer = error
    sys.stdout.buffer.write(pickle.dumps(answer))


if __name__ == "__main__":
    main()
