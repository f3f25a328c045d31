"""Text from the command line and from stdin."""

from __future__ import annotations

from collections.abc import Callable

from shoal.errors import ConfigError


def decoded(read: Callable[[], str]) -> str:
    """What `read` gives. Python passes on bytes of arguments that are no text as lone surrogates."""
    try:
        text = read()
        text.encode()
    except UnicodeError as error:
        raise ConfigError(f"the prompt is not UTF-8 text: {error}") from error
    return text
