"""Recorded traffic: arrival times and lengths of requests, in the layouts of published traces.

| layout | columns |
|---|---|
| ours | `at_s`, `prompt_tokens`, `output_tokens` |
| Azure LLM inference (2023, 2024) | `TIMESTAMP`, `ContextTokens`, `GeneratedTokens` |
| BurstGPT | `Timestamp`, `Request tokens`, `Response tokens`, others that are not needed |
| Mooncake | a JSON object a line: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` |

Files are read line by line while the simulation runs, so they may be of any length.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import TextIO

import msgspec

from shoal.errors import ConfigError
from shoal.sim.traffic.visit import Visit

_LONGEST_LINE = 1 << 20
"""The most characters of a line; the longest in public traces have a few hundred hashes."""
_MOST_TOKENS = 10_000_000
_MS = 1e-3


class _MooncakeLine(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The relevant columns of a CSV layout."""

    at: str
    prompt: str
    output: str
    read_time: Callable[[str], float]


def _date_s(text: str) -> float:
    """Parse a date such as `2023-11-16 18:17:03.9799600` into seconds; Python reads six decimals. Dates without a time
    zone are taken as UTC, which has no daylight saving time."""
    whole, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    date = datetime.fromisoformat(whole + dot + rest[: min(digits, 6)] + rest[digits:])
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


_LAYOUTS = (
    _Layout(at="at_s", prompt="prompt_tokens", output="output_tokens", read_time=float),
    _Layout(at="TIMESTAMP", prompt="ContextTokens", output="GeneratedTokens", read_time=_date_s),
    _Layout(at="Timestamp", prompt="Request tokens", output="Response tokens", read_time=float),
)


def read_trace(path: Path) -> Iterator[Visit]:
    """Yield the visits of a trace, the first at second 0. Requests without an answer (0 output tokens) are left out.

    Raises:
        ConfigError: the file cannot be read, its columns are unknown, or a line is invalid; raised at that line.
    """
    try:
        file = path.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    with closing(file):
        yield from _from_zero(_visits(file, path), path)


def _visits(file: TextIO, path: Path) -> Iterator[tuple[int, Visit]]:
    """Visits with their line numbers."""
    lines = _bounded(file, path)
    first = next(lines, "")
    if first.lstrip().startswith("{"):
        yield from _from_json(chain([first], lines), path)
        return
    (columns,) = csv.reader([first or "\n"])
    layout = next((one for one in _LAYOUTS if {one.at, one.prompt, one.output} <= set(columns)), None)
    if layout is None:
        known = "; ".join(f"{one.at}, {one.prompt}, {one.output}" for one in _LAYOUTS)
        raise ConfigError(
            f"{path}: unknown columns {', '.join(columns)[:200] or '(none)'}; give {known}, or one JSON "
            "object per line with timestamp, input_length, output_length"
        )
    rows = csv.DictReader(lines, columns)
    try:
        for row in rows:
            number = rows.line_num + 1  # the first line has the names of the columns
            if (visit := _from_row(layout, row, f"{path}: line {number}")) is not None:
                yield number, visit
    except csv.Error as error:  # an unclosed quotation mark
        raise ConfigError(f"{path}: line {rows.line_num + 1}: {error}") from error


def _bounded(file: TextIO, path: Path) -> Iterator[str]:
    """The lines of a file, whose length is limited."""
    try:
        while line := file.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise ConfigError(f"{path}: a line has more than {_LONGEST_LINE} characters, so this is not a trace")
            yield line
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from error


def _from_row(layout: _Layout, row: Mapping[str, str | None], where: str) -> Visit | None:
    try:
        at_s = layout.read_time(row[layout.at] or "")
        prompt, output = (int(float(row[name] or "")) for name in (layout.prompt, layout.output))
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return _checked(Visit(at_s=at_s, prompt_tokens=prompt, output_tokens=output), where)


def _from_json(lines: Iterator[str], path: Path) -> Iterator[tuple[int, Visit]]:
    decode = msgspec.json.Decoder(_MooncakeLine).decode
    for number, line in enumerate(lines, 1):
        where = f"{path}: line {number}"
        if not line.strip():
            continue
        try:
            read = decode(line)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{where}: {error}") from error
        visit = Visit(
            at_s=read.timestamp * _MS,
            prompt_tokens=read.input_length,
            output_tokens=read.output_length,
            hashes=read.hash_ids,
        )
        if (checked := _checked(visit, where)) is not None:
            yield number, checked


def _checked(visit: Visit, where: str) -> Visit | None:
    if not isfinite(visit.at_s) or not 0 <= visit.prompt_tokens <= _MOST_TOKENS:
        raise ConfigError(f"{where}: {visit.prompt_tokens} prompt tokens at {visit.at_s:g} make no sense")
    if not 0 <= visit.output_tokens <= _MOST_TOKENS or not all(0 <= one < 1 << 31 for one in visit.hashes):
        raise ConfigError(f"{where}: {visit.output_tokens} output tokens or a hash make no sense")
    return visit if visit.prompt_tokens and visit.output_tokens else None


def _from_zero(visits: Iterator[tuple[int, Visit]], path: Path) -> Iterator[Visit]:
    """Make times relative to the first visit, and check that they never decrease."""
    start_s = latest_s = None
    for number, visit in visits:
        if start_s is None or latest_s is None:
            start_s = latest_s = visit.at_s
        if visit.at_s < latest_s:
            raise ConfigError(f"{path}: line {number} is earlier than the line before; sort the trace by time")
        latest_s = visit.at_s
        yield msgspec.structs.replace(visit, at_s=visit.at_s - start_s)
    if start_s is None:
        raise ConfigError(f"{path}: the trace contains no request")
