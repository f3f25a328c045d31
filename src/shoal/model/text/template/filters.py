"""The filters and tests that a template may use: Jinja's own, metered before they work.

Filters that chat templates do not need and that would need bounds of their own (xmlattr, urlize, wordwrap, ...) are
left out; a template that names one is refused when it is compiled. Jinja's generators become lists, so that nothing is
computed outside the budget.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from jinja2.filters import FILTERS
from jinja2.runtime import Context, markup_join
from jinja2.tests import TESTS
from jinja2.utils import pass_context

from shoal.model.text.template import metering
from shoal.model.text.template.budget import MAX_ITEMS, TemplateLimitExceeded, budget
from shoal.model.text.template.methods import check_join, check_percent, check_replace, check_strip, listed

_GLANCING = ("count", "d", "default", "first", "last", "length")
"""Filters whose time does not depend on the size of the value."""
_ITERATING = ("items", "map", "reject", "rejectattr", "safe", "select", "selectattr")
"""Filters that go through the elements and apply another filter or test to each."""
_LOOKING = ("abs", "capitalize", "dictsort", "e", "escape", "float", "groupby", "int", "list", "lower", "max", "min")
_LOOKING += ("reverse", "sort", "string", "title", "truncate", "unique", "upper", "wordcount")
"""Filters that look at every part of their value."""
_ITEMIZING = ("dictsort", "groupby", "list", "max", "min", "sort", "title", "unique", "wordcount")
"""Those of them that split a text into its characters or words."""
_LOOKING_TESTS = ("!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan")
_LOOKING_TESTS += ("lower", "lt", "ne", "upper")
"""Tests that look at every part of their values; the others look at what kind of value it is."""
_MAX_DOTS = 1000
_MAX_INDENT = 64
"""Most columns of indentation."""


def metered_filters() -> dict[str, Callable[..., Any]]:
    """Filters by name, including the internal ones of `metering`."""
    filters = {name: _one_step(FILTERS[name]) for name in _GLANCING}
    filters |= {name: _iterating(FILTERS[name]) for name in _ITERATING}
    filters |= {name: _looking(FILTERS[name], itemizes=name in _ITEMIZING) for name in _LOOKING}
    own = {
        "batch": _batch,
        "center": _center,
        "format": _format,
        "indent": _indent,
        "join": _join,
        "replace": _replace,
        "round": _round,
        "slice": _slice_evenly,
        "sum": _sum,
        "tojson": _to_json,
        "trim": _trim,
        metering.STEP: _step,
        metering.TICK: _step,
        metering.CONSTANT: _constant,
        metering.WEIGH: _weigh,
        metering.HAYSTACK: _haystack,
        metering.CONCAT: _concat,
        metering.SLICE: _slice,
    }
    return filters | {name: pass_context(function) for name, function in own.items()}


def metered_tests() -> dict[str, Callable[..., Any]]:
    """All tests of Jinja by name."""
    return {
        name: _looking(function) if name in _LOOKING_TESTS else _one_step(function) for name, function in TESTS.items()
    }


def _one_step(function: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def metered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget().step()
        return function(*_leading(function, context), value, *args, **kwargs)

    return metered


def _iterating(function: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def metered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget().step(len(value) if isinstance(value, (str, list, tuple, dict, range)) else 1)
        for argument in (*args, *kwargs.values()):
            _check_path(argument)
        return _settled(function(*_leading(function, context), value, *args, **kwargs))

    return metered


def _looking(function: Callable[..., Any], *, itemizes: bool = False) -> Callable[..., Any]:
    @pass_context
    def metered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget().weigh(value, copies=itemizes)
        for argument in (*args, *kwargs.values()):
            budget().weigh(argument)
            _check_path(argument)
        if itemizes and isinstance(value, (str, range)):
            budget().items(len(value))
        return _settled(function(*_leading(function, context), value, *args, **kwargs))

    return metered


def _check_path(argument: Any) -> None:
    """Limit the dots in an argument: many filters take the name of an attribute, with dots between its parts."""
    if isinstance(argument, str) and argument.count(".") > _MAX_DOTS:
        raise TemplateLimitExceeded("it gives a filter a text with too many dots")


def _leading(function: Callable[..., Any], context: Context) -> tuple[Any, ...]:
    """The arguments that Jinja passes to a function before its value."""
    wanted = getattr(function, "jinja_pass_arg", None)
    match getattr(wanted, "name", None):
        case "context":
            return (context,)
        case "eval_context":
            return (context.eval_ctx,)
        case "environment":
            return (context.environment,)
        case _:
            return ()


def _jinja(context: Context, name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
    function = FILTERS[name]
    return _settled(function(*_leading(function, context), value, *args, **kwargs))


def _settled(value: Any) -> Any:
    """A result in which nothing is left to compute."""
    if isinstance(value, Iterator):
        value = list(islice(value, MAX_ITEMS + 1))
    if isinstance(value, str):
        budget().write(len(value))
    elif isinstance(value, list):
        budget().items(len(value))
    return value


def _step(context: Context, value: Any) -> Any:
    budget().step()
    return value


def _constant(context: Context, num_chars: Any) -> None:
    budget().step()
    budget().write(num_chars if isinstance(num_chars, int) and num_chars > 0 else 0)


def _weigh(context: Context, value: Any) -> Any:
    budget().weigh(value)
    return value


def _haystack(context: Context, value: Any) -> Any:
    """Looking up a key takes one step, whatever the values are."""
    if isinstance(value, dict):
        budget().step()
    else:
        budget().weigh(value)
    return value


def _concat(context: Context, values: list[Any]) -> str:
    check_join(budget(), "", values)
    return markup_join(values)


def _slice(context: Context, value: Any, start: Any, stop: Any, step: Any) -> Any:
    if isinstance(value, str):
        budget().write(len(value))
    elif isinstance(value, (list, tuple)):
        budget().step(len(value))
    try:
        return value[start:stop:step]
    except TypeError:
        return context.environment.undefined(obj=value, name="a slice")


def _batch(context: Context, value: Any, linecount: int, fill_with: Any = None) -> Any:
    budget().weigh(value)
    budget().items(linecount)
    return _jinja(context, "batch", value, linecount, fill_with)


def _slice_evenly(context: Context, value: Any, slices: int, fill_with: Any = None) -> Any:
    budget().weigh(value)
    budget().items(slices)
    return _jinja(context, "slice", value, slices, fill_with)


def _center(context: Context, value: Any, width: int = 80) -> str:
    budget().weigh(value)
    budget().write(width)
    return _jinja(context, "center", value, width)


def _format(context: Context, value: Any, *args: Any, **kwargs: Any) -> str:
    text, values = str(value), kwargs or args
    budget().weigh(values)
    check_percent(budget(), text, values)
    return _jinja(context, "format", text, *args, **kwargs)


def _indent(context: Context, s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    num_columns = len(width) if isinstance(width, str) else width
    budget().weigh(s)
    text = str(s)
    budget().write(len(text) + (text.count("\n") + 2) * max(0, num_columns))
    return _jinja(context, "indent", text, width, first, blank)


def _join(context: Context, value: Any, d: Any = "", attribute: Any = None) -> str:
    _check_path(attribute)
    if attribute is not None:
        value = context.environment.call_filter("map", value, [], {"attribute": attribute}, context=context)
    budget().weigh(d)
    values = listed(budget(), value)
    check_join(budget(), str(d), values)
    return _jinja(context, "join", values, d)


def _replace(context: Context, s: Any, old: Any, new: Any, count: Any = None) -> str:
    for value in (s, old, new):
        budget().weigh(value)
    check_replace(budget(), str(s), str(old), str(new), count)
    return _jinja(context, "replace", s, old, new, count)


def _round(context: Context, value: Any, precision: int = 0, method: Any = "common") -> Any:
    budget().weigh(value)
    if not -20 <= precision <= 20:
        raise TemplateLimitExceeded(f"it rounds to {precision} places")
    return _jinja(context, "round", value, precision, method)


def _trim(context: Context, value: Any, chars: Any = None) -> str:
    budget().weigh(value)
    check_strip(chars)
    return _jinja(context, "trim", value, chars)


def _sum(context: Context, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    """The sum of numbers. Lists are refused, because they would be copied for every element."""
    _check_path(attribute)
    if attribute is not None:
        iterable = context.environment.call_filter("map", iterable, [], {"attribute": attribute}, context=context)
    values = listed(budget(), iterable)
    budget().weigh(values)
    if not all(isinstance(value, (int, float)) for value in (start, *values)):
        raise TypeError("only numbers can be summed")
    return sum(values, start)


def _to_json(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as Jinja's own filter escapes for HTML. Source of the options: transformers,
    chat_template_utils.py."""
    budget().weigh(value)
    budget().weigh(separators)
    num_columns = len(indent) if isinstance(indent, str) else (indent or 0)
    if num_columns > _MAX_INDENT or (separators and sum(map(len, separators)) > _MAX_INDENT):
        raise TemplateLimitExceeded("it spreads JSON too far")
    pieces: list[str] = []
    encoder = json.JSONEncoder(
        ensure_ascii=bool(ensure_ascii), indent=indent, separators=separators, sort_keys=bool(sort_keys)
    )
    for piece in encoder.iterencode(value):
        budget().write(len(piece))
        pieces.append(piece)
    return "".join(pieces)
