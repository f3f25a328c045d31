"""How much a chat template may do. A template is a program that comes with a model's file, so it is not trusted.

Steps are counted, not seconds, so that the same template over the same messages is accepted on every machine. No single
step takes long, because every value is bounded; so a thread that renders lets others run.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

MAX_TEXT_CHARS = 16 << 20
"""Most characters of a string that a template makes: twice the longest body that a server takes."""
MAX_SEARCHED_CHARS = 4 << 20
"""Most characters of a string that a method searches: a million tokens of context. In the worst case a character takes
7 ns (measured on a loaded machine with AVX2), so Python's lock is never held for longer than 30 ms."""
MAX_ITEMS = 1 << 18
"""Most items of a list that a template makes: two and a half times the longest range of Jinja's sandbox."""
MAX_INT_BITS = 4096
"""Most bits of a number that a template computes."""
_READS_PER_WRITE = 16
"""Characters that are compared or searched in the time in which one is written; memory is compared at about 10 GB/s."""


class TemplateLimitExceeded(SecurityError):
    """A template does more than it may."""


class Budget:
    """The remaining budget of one rendering. All methods raise TemplateLimitExceeded when it is used up."""

    def __init__(self, *, steps: int, chars: int) -> None:
        """
        Args:
            steps: operations: turns of loops, calls, filters, comparisons, elements looked at.
            chars: characters of all strings that are made on the way.
        """
        self._steps = steps
        self._chars = chars

    def step(self, count: int = 1) -> None:
        """Spend this many operations, before they are done."""
        self._steps -= count if count > 0 else 1
        if self._steps < 0:
            raise TemplateLimitExceeded("it takes too many steps")

    def write(self, num_chars: int) -> None:
        """Spend for a string of this length, before it is made."""
        if num_chars > MAX_TEXT_CHARS:
            raise TemplateLimitExceeded(f"it makes a text of {num_chars} characters")
        self._chars -= num_chars
        if self._chars < 0:
            raise TemplateLimitExceeded("it makes too much text")

    def read(self, num_chars: int) -> None:
        """Spend for a string of this length, before it is compared or searched."""
        self.write(num_chars // _READS_PER_WRITE)

    def search(self, num_chars: int) -> None:
        """As `read`, for a search during which Python's lock is held."""
        if num_chars > MAX_SEARCHED_CHARS:
            raise TemplateLimitExceeded(f"it searches a text of {num_chars} characters")
        self.read(num_chars)

    def items(self, count: int) -> None:
        """Spend for a list of this length, before it is made."""
        if count > MAX_ITEMS:
            raise TemplateLimitExceeded(f"it makes a list of {count} items")
        self.step(count)

    def weigh(self, value: Any, *, copies: bool = False) -> None:
        """Spend for looking at every part of a value; a part that it contains several times counts each time.

        This bounds values that contain each other: `x = [x, x]`, forty times, would be printed forever.

        Args:
            value: any value of a template.
            copies: whether its texts are copied as well.
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
    """Returns the number. Raises TemplateLimitExceeded if it is too large."""
    if value.bit_length() > MAX_INT_BITS:
        raise TemplateLimitExceeded("it computes a number that is too large")
    return value


def _namespace_values(namespace: Namespace) -> Any:
    attributes: dict[str, Any] = object.__getattribute__(namespace, "_Namespace__attrs")
    return attributes.values()


_current: ContextVar[Budget] = ContextVar("template_budget")


def spend_from(budget: Budget) -> None:
    """From now on, rendering in this thread spends this budget."""
    _current.set(budget)


def budget() -> Budget:
    """The budget of the rendering in this thread."""
    return _current.get()
