"""The environment in which chat templates run: Jinja's sandbox, with everything that a template does metered.

Jinja's sandbox keeps a template away from the program around it, but not from computing forever or making a text of a
terabyte. This module and its neighbors do: loops, literals, `~`, slices and comparisons are rewritten (metering.py),
filters and tests are wrapped (filters.py), and calls and operators are metered here.
"""

from __future__ import annotations

from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment, safe_range
from jinja2.utils import Namespace, pass_context

from shoal.model.text.template.budget import MAX_INT_BITS, TemplateLimitExceeded, budget, check_int
from shoal.model.text.template.filters import metered_filters, metered_tests
from shoal.model.text.template.metering import rewrite
from shoal.model.text.template.methods import call_method, check_format, check_percent

_CALL_STEPS = 4
"""A call takes several times as long as another operation."""


_VARIABLES = ("_block_vars", "_loop_vars")
"""Variables that Jinja adds to every call inside a block or a loop, for functions that take its context."""


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """Renders templates that spend from the budget of their thread."""

    intercepted_binops = frozenset(SandboxedEnvironment.default_binop_table)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, optimized=False, finalize=pass_context(_finalize))
        self.filters = metered_filters()
        self.tests = metered_tests()
        self.globals = {"range": _small_range, "dict": dict, "namespace": Namespace}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return rewrite(super()._parse(source, name, filename))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`; hashing the argument may take long."""
        if isinstance(argument, (tuple, str)):
            budget().weigh(argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format` in Jinja's sandbox, after a check of what it would make."""
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            values = [*args, *kwargs.values()]
            budget().weigh(values)
            check_format(budget(), str(value.__self__), values)
            return formatted(*args, **kwargs)

        return checked

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """`obj(...)`: a macro, one of the globals, or a method of a built-in value."""
        budget().step(_CALL_STEPS + len(args) + len(kwargs))
        given = {name: value for name, value in kwargs.items() if name not in _VARIABLES}
        if isinstance(__obj, (BuiltinMethodType, MethodType)) and not isinstance(__obj.__self__, LoopContext):
            return call_method(budget(), __obj, args, given)
        if isinstance(__obj, type) and __obj not in (dict, Namespace):
            raise SecurityError(f"templates may not make a {__obj.__name__}")
        if isinstance(__obj, (type, MethodType)):
            for argument in (*args, *given.values()):
                budget().weigh(argument)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An arithmetic operator, which may also join or repeat texts and lists."""
        for operand in (left, right):
            budget().weigh(operand)
        match operator:
            case "+":
                _check_sum(left, right)
            case "*":
                _check_product(left, right)
            case "**":
                _check_power(left, right)
            case "%" if isinstance(left, str):
                check_percent(budget(), left, right)
        result = super().call_binop(context, operator, left, right)
        return check_int(result) if isinstance(result, int) else result


def _small_range(*bounds: int) -> range:
    """A range of numbers with different hashes: a dictionary of multiples of 2**61 - 1 would take quadratic time."""
    if any(abs(bound) >= 1 << 32 for bound in bounds):
        raise TemplateLimitExceeded("it counts too far")
    return safe_range(*bounds)


def _finalize(context: Context, value: Any) -> Any:
    """Meters what a template outputs."""
    budget().weigh(value)
    text = value if isinstance(value, str) else str(value)
    budget().write(len(text))
    return text


def _check_sum(left: Any, right: Any) -> None:
    if isinstance(left, str) and isinstance(right, str):
        budget().write(len(left) + len(right))
    elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        budget().items(len(left) + len(right))


def _check_product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int) and times > 1:
            if isinstance(value, str):
                budget().write(len(value) * times)
            elif isinstance(value, (list, tuple)):
                budget().items(len(value) * times)


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > 2 * MAX_INT_BITS:
        raise TemplateLimitExceeded("it computes a number that is too large")
