"""How much a chat template may do: a template is a program out of a model's file, and nobody here wrote it.

Steps are counted, not seconds, so that the same template over the same messages is accepted on every machine. No
single step takes long, because every value has a bound; so whoever renders in a thread gives others their turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

MAX_TEXT_CHARS = 16 << 20
"""of any one string that a template makes: twice the longest body that a server takes"""
MAX_SEARCHED_CHARS = 4 << 20
"""of any one string that a method searches: a million tokens of context. In the worst case a character takes 7 ns
(measured on a loaded machine with AVX2), so that nobody waits for Python's lock for longer than 30 ms."""
MAX_ITEMS = 1 << 18
"""of any one list that a template makes; twice and a half the longest range of Jinja's sandbox"""
MAX_INT_BITS = 4096
"""of any one number that a template computes"""
_READS_PER_WRITE = 16
"""Characters compared or searched in the time in which one is made: memory is compared at the order of 10 GB/s."""


class TemplateLimitExceeded(SecurityError):
    """A template does more than it may."""


class Budget:
    """What is left for one rendering. All methods raise TemplateLimitExceeded when nothing is."""

    def __init__(self, *, steps: int, chars: int) -> None:
        """
        Args:
            steps: operations: turns of loops, calls, filters, comparisons, elements looked at.
            chars: characters of all strings that are made on the way.
        """
        self._steps = steps
        self._chars = chars

    def step(self, count: int = 1) -> None:
        """So many operations are about to be done."""
        self._steps -= count if count > 0 else 1
        if self._steps < 0:
            raise TemplateLimitExceeded("it takes too many steps")

    def write(self, num_chars: int) -> None:
        """A string of that length is about to be made."""
        if num_chars > MAX_TEXT_CHARS:
            raise TemplateLimitExceeded(f"it makes a text of {num_chars} characters")
        self._chars -= num_chars
        if self._chars < 0:
            raise TemplateLimitExceeded("it makes too much text")

    def read(self, num_chars: int) -> None:
        """A string of that length is about to be compared or searched."""
        self.write(num_chars // _READS_PER_WRITE)

    def search(self, num_chars: int) -> None:
        """A string of that length is about to be searched, with Python's lock held all the while."""
        if num_chars > MAX_SEARCHED_CHARS:
            raise TemplateLimitExceeded(f"it searches a text of {num_chars} characters")
        self.read(num_chars)

    def items(self, count: int) -> None:
        """A list of that length is about to be made."""
        if count > MAX_ITEMS:
            raise TemplateLimitExceeded(f"it makes a list of {count} items")
        self.step(count)

    def weigh(self, value: Any, *, copies: bool = False) -> None:
        """Every part of a value is about to be looked at, those that it holds several times as often.

        That bounds values that hold one another: `x = [x, x]`, forty times, would be printed for ever.

        Args:
            value: anything that a template can have.
            copies: its texts are not only looked at.
        """
        spend = self.write if copies else self.read
        self._weigh_leaf(value, spend)
        stack = [value]
        while stack:
            for part in self._parts(stack.pop()):
                if isinstance(part, Namespace):
                    raise TemplateLimitExceeded("it puts a namespace into another value")
                self._weigh_leaf(part, spend)
                if not isinstance(part, (str, int, float)):
                    stack.append(part)

    def _weigh_leaf(self, value: Any, spend: Callable[[int], None]) -> None:
        if isinstance(value, str):
            spend(len(value))
        elif isinstance(value, int):
            check_int(value)

    def _parts(self, value: Any) -> list[Any]:
        if isinstance(value, (str, bytes, range)) or not isinstance(value, Sized):
            self.step(len(value) if isinstance(value, range) else 1)
            return list(_namespace_values(value)) if isinstance(value, Namespace) else []
        self.step(1 + len(value))
        if isinstance(value, dict):
            return [*value.keys(), *value.values()]
        return list(value) if isinstance(value, _CONTAINERS) else []


_CONTAINERS = (list, tuple, set, frozenset, type({}.keys()), type({}.values()), type({}.items()))


def check_int(value: int) -> int:
    """The number itself. Raises TemplateLimitExceeded where it is too large."""
    if value.bit_length() > MAX_INT_BITS:
        raise TemplateLimitExceeded("it computes a number that is too large")
    return value


def _namespace_values(namespace: Namespace) -> Any:
    attributes: dict[str, Any] = object.__getattribute__(namespace, "_Namespace__attrs")
    return attributes.values()


_current: ContextVar[Budget] = ContextVar("template_budget")


def spend_from(budget: Budget) -> None:
    """Let this thread's rendering spend from this budget."""
    _current.set(budget)


def budget() -> Budget:
    """Of the rendering under way in this thread."""
    return _current.get()
