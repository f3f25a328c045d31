"""Values of chains: read from files, and written as plain data."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import numpy as np

from shoal.chains.steps import InputKind
from shoal.errors import InvalidRequest, RequestError


def input_of_file(kind: InputKind | None, name: str, content: bytes) -> str | bytes | list[str]:
    """An input from a file's content; for texts, each line is one.

    Args:
        kind: of the input; None: the chain has no such input, which it reports itself.
        name: of the input.
        content: of the file.

    Raises:
        InvalidRequest: the input is a tensor, or a text that is not UTF-8.
    """
    if kind is InputKind.TENSOR:
        raise InvalidRequest(f"input {name!r} is a tensor: send JSON with `inputs`", name)
    if kind not in (InputKind.TEXT, InputKind.TEXTS):
        return content
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input {name!r} is not UTF-8: {error.reason}", name) from None
    return text if kind is InputKind.TEXT else text.splitlines()


def json_of(value: Any, what: str) -> bytes:
    """A value as JSON, with arrays as lists. Raises RequestError, which names `what`, if JSON cannot express it."""
    try:
        return msgspec.json.encode(plain_data(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RequestError(f"{what} cannot be written as JSON: {error}") from None


def plain_data(value: Any) -> Any:
    """A value with arrays replaced by lists, as JSON can express it."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain_data(item) for item in cast(list[Any], value)]
    if isinstance(value, dict):
        return {str(key): plain_data(item) for key, item in cast(dict[Any, Any], value).items()}
    return value
