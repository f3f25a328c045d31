"""The methods of values that a template may call, each metered before it works. All other methods are refused.

Source: Python's library reference, "String Methods"; those that expand a text have a function of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any

from jinja2.exceptions import SecurityError

from shoal.model.text.template.budget import MAX_ITEMS, Budget, TemplateLimitExceeded

_READING = ["count", "endswith", "find", "index", "startswith"]
_BACKWARD = ["rfind", "rindex", "rpartition"]
_ASKING = "isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper"
_COPYING = "capitalize casefold lower partition removeprefix removesuffix swapcase title upper"
_WIDE_FIELD = re.compile(r"\d{4}|\{")
"""Matches a width of 1000 or more, or a computed one, in a field of `str.format`."""
_WIDE_PERCENT = re.compile(r"%(?:\(.*?\))?[^a-zA-Z%]*?(?:\*|\d{4})", re.DOTALL)
"""Matches the same after a `%`."""
_MAX_ESCAPE = 10
"""Most characters that Python writes for one in a value's representation: `\U0001f600`."""
_MAX_STRIPPED_CHARS = 256
_MAX_FORM_CHARS = 4096
"""Most characters of a text with fields."""


def call_method(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a built-in value's method. Raises SecurityError if templates may not call it."""
    owner, name = method.__self__, str(method.__name__)
    if isinstance(owner, str) and type(owner) is not str:
        owner = str(owner)  # Markup has its own methods, which do the same
        method = getattr(owner, name, method)
    metered = next((table.get(name) for kind, table in _METERED.items() if isinstance(owner, kind)), None)
    if metered is None:
        raise SecurityError(f"templates may not call {type(owner).__name__}.{name}")
    for argument in (*args, *kwargs.values()):
        budget.weigh(argument)
    return metered(budget, method, args, kwargs)


def check_percent(budget: Budget, text: str, values: Any) -> None:
    """Check and spend for `text % values`, before it is evaluated."""
    _check_form(text)
    if _WIDE_PERCENT.search(text):
        raise TemplateLimitExceeded("it formats with a wide field")
    budget.write(len(text) + text.count("%") * (1000 + _MAX_ESCAPE * _text_chars(budget, values)))


def check_format(budget: Budget, text: str, values: Any) -> None:
    """Check and spend for `text.format(...)` with these values."""
    _check_form(text)
    num_chars = _MAX_ESCAPE * _text_chars(budget, values)
    for literal, field, spec, _ in Formatter().parse(text):
        budget.step()
        if spec and _WIDE_FIELD.search(spec):
            raise TemplateLimitExceeded("it formats with a wide field")
        budget.write(len(literal) + (0 if field is None else 1000 + num_chars))


def check_replace(budget: Budget, text: str, old: str, new: str, limit: Any = None) -> None:
    """Spend for `text.replace(old, new, limit)`."""
    budget.search(len(text))
    num_found = text.count(old)
    if isinstance(limit, int) and limit >= 0:
        num_found = min(num_found, limit)
    budget.write(len(text) + num_found * max(0, len(new) - len(old)))


def check_join(budget: Budget, separator: str, values: Any) -> None:
    """Spend for `separator.join(values)`."""
    budget.items(len(values))
    budget.write(len(separator) * len(values) + _text_chars(budget, values))


def check_backward(budget: Budget, text: str, part: Any) -> None:
    """Spend for a search from a text's end, for which Python has no method that is linear in the worst case."""
    budget.read(len(text) * (len(part) if isinstance(part, str) else 1))


def check_strip(chars: Any = None) -> None:
    """Check the characters that are to be stripped: each character of the text is compared with all of them."""
    if isinstance(chars, str) and len(chars) > _MAX_STRIPPED_CHARS:
        raise TemplateLimitExceeded("it strips a text of too many characters")


def listed(budget: Budget, values: Any) -> list[Any]:
    """The elements of a value."""
    budget.items(len(values))
    return list(values)


def _check_form(text: str) -> None:
    if len(text) > _MAX_FORM_CHARS:
        raise TemplateLimitExceeded("it fills in the fields of a long text")


def _text_chars(budget: Budget, values: Any) -> int:
    """Characters of the values in a list or mapping, or of one value, which counts as 1000 if it is not a text."""
    if isinstance(values, str):
        return len(values)
    if isinstance(values, Mapping):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        return 1000
    budget.weigh(values)
    return sum(len(value) if isinstance(value, str) else len(str(value)) for value in values)


def _reading(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    budget.search(len(method.__self__))
    return method(*args, **kwargs)


def _backward(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    check_backward(budget, method.__self__, args[0])
    budget.write(len(method.__self__))
    return method(*args, **kwargs)


def _stripping(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    check_strip(*args)
    return _copying(budget, method, args, kwargs)


def _copying(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    budget.write(3 * len(method.__self__) if method.__name__ in ("upper", "casefold") else len(method.__self__))
    return method(*args, **kwargs)


def _padding(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    width = args[0] if args and isinstance(args[0], int) else 0
    budget.write(max(len(method.__self__), width))
    return method(*args, **kwargs)


def _expandtabs(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    size = (*args, *kwargs.values(), 8)[0]
    text: str = method.__self__
    budget.write(len(text) + text.count("\t") * (size if isinstance(size, int) and size > 0 else 0))
    return method(*args, **kwargs)


def _replace(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    check_replace(budget, method.__self__, *args, **kwargs)
    return method(*args, **kwargs)


def _join(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    (values,) = args
    parts = listed(budget, values)
    check_join(budget, method.__self__, parts)
    return method(parts)


def _split(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Never splits into more parts than a list may have, whatever the template asks for."""
    separator = args[0] if args else kwargs.get("sep")
    limit = args[1] if len(args) > 1 else kwargs.get("maxsplit", -1)
    if method.__name__ == "rsplit":
        check_backward(budget, method.__self__, separator)
    budget.write(len(method.__self__))
    parts = method(separator, limit if 0 <= limit <= MAX_ITEMS else MAX_ITEMS)
    budget.items(len(parts))
    return parts


def _splitlines(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    text: str = method.__self__
    budget.write(len(text))
    budget.items(sum(text.count(end) for end in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"))
    return method(*args, **kwargs)


def _looking(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    budget.weigh(method.__self__)
    return method(*args, **kwargs)


def _single_step(budget: Budget, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return method(*args, **kwargs)


_Metered = Callable[[Budget, Any, tuple[Any, ...], dict[str, Any]], Any]
_METERED: dict[type | tuple[type, ...], dict[str, _Metered]] = {
    str: {
        **dict.fromkeys([*_READING, *_ASKING.split()], _reading),
        **dict.fromkeys(_COPYING.split(), _copying),
        **dict.fromkeys(_BACKWARD, _backward),
        **dict.fromkeys(("lstrip", "rstrip", "strip"), _stripping),
        **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padding),
        "expandtabs": _expandtabs,
        "join": _join,
        "replace": _replace,
        "rsplit": _split,
        "split": _split,
        "splitlines": _splitlines,
    },
    dict: {"copy": _looking, **dict.fromkeys(("get", "items", "keys", "values"), _single_step)},
    (list, tuple): dict.fromkeys(("copy", "count", "index"), _looking),
    (int, float): {"is_integer": _single_step},
}
