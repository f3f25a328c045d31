"""Where the commands' log goes: stderr, as lines for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import suppress
from typing import Any

from shoal.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")
_ANNOUNCEMENTS = "shoal.announcements"
"""The logger of what a person waits for, such as the address; shown whatever the level."""
OF_LIBRARIES = {"uvicorn": logging.ERROR, "asyncio": logging.WARNING, "opentelemetry": logging.WARNING}
"""The least of other loggers that is shown, in the same form: else Python itself would write it in one of its own."""
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""Attributes that every record has."""


def plain_log(level: str = "info") -> None:
    """For a command that a person waits for: messages alone. Raises ConfigError where there is no such level."""
    _configure(logging.Formatter("%(message)s"), _number_of(level))


def dated_log(level: str, *, as_json: bool, access: bool = True) -> None:
    """For a command that runs on its own.

    Args:
        level: the least that is shown, one of LEVELS.
        as_json: one object a line; else time, level, logger and message.
        access: whether each request that was answered has a line.

    Raises:
        ConfigError: there is no such level.
    """
    _configure(_JsonFormatter() if as_json else _TextFormatter(), _number_of(level))
    logging.getLogger("shoal.access").setLevel(logging.NOTSET if access else logging.CRITICAL)


def _number_of(level: str) -> int:
    if level not in LEVELS:
        raise ConfigError(f"--log-level is {level!r}, but it must be one of {', '.join(LEVELS)}")
    return getattr(logging, level.upper())


def announce(text: str) -> None:
    """What a person waits for, whatever the level."""
    logging.getLogger(_ANNOUNCEMENTS).info("%s", text)


def write_line(text: str) -> None:
    """To the stderr of the moment; what cannot be written is lost."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class _Stderr(logging.Handler):
    """See `write_line`."""

    def emit(self, record: logging.LogRecord) -> None:
        write_line(self.format(record))


class _TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO shoal.replicas: ...`; announcements stand alone."""

    converter = time.gmtime

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return record.message if record.name == _ANNOUNCEMENTS else super().formatMessage(record)


class _JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `message`, the record's own fields, perhaps `exception`."""

    converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= _own_fields(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def _configure(formatter: logging.Formatter, level: int) -> None:
    """Replaces what an earlier call has set up."""
    handler = _Stderr()
    handler.setFormatter(formatter)
    for name, least in (("shoal", level), (_ANNOUNCEMENTS, logging.INFO), *OF_LIBRARIES.items()):
        logger = logging.getLogger(name)
        logger.setLevel(least)
        if name != _ANNOUNCEMENTS:  # its records reach the handler of `shoal`
            logger.handlers = [handler]


def _own_fields(record: logging.LogRecord) -> dict[str, object]:
    """What the line says beside its text. Names with `_` first are other libraries' own: Ray stamps every record."""
    return {
        name: value for name, value in record.__dict__.items() if name not in _STANDARD and not name.startswith("_")
    }
