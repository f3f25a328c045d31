"""Turns whatever goes wrong while a tokenizer is built into one error that names its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shoal.errors import CapacityError, ModelLoadError, ShoalError


@contextmanager
def while_building(what: str) -> Iterator[None]:
    """The tokenizers library raises plain Exception, and a panic of Rust is not even an Exception.

    Args:
        what: the file and the error's beginning, such as `m.gguf: no tokenizer can be built`.

    Raises:
        CapacityError: there is not enough memory.
        ModelLoadError: anything else.
    """
    try:
        yield
    except ShoalError:
        raise
    except MemoryError as error:
        raise CapacityError(f"{what}: there is not enough memory") from error
    except BaseException as error:
        if not is_failure(error):
            raise
        raise ModelLoadError(f"{what} ({_one_line(error)})") from error


def is_failure(error: BaseException) -> bool:
    """Whether the error is a failure, rather than a request to end the process."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _one_line(error: BaseException) -> str:
    words = " ".join(str(error).split())[:300]
    return words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}"
