"""A user's condition on an output: a JSON schema, a regular expression, a choice or a grammar."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from shoal.errors import InvalidRequest

MAX_CONSTRAINT_BYTES = 1 << 16
"""Source: a schema of 2000 properties, 55 KB, takes 0.9 s to compile, and one of 5000 takes 5.4 s (2-core x86 machine,
llguidance 1.9.1); the tools of a coding agent have 20 to 40 KB."""


_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~]")
"""Characters with a meaning in Rust's regular expressions. Source: regex_syntax::is_meta_character."""
JSON_WHITESPACE = r" |\n[ \t]{0,20}"
"""White space between JSON tokens is bounded, because a small model that may write spaces forever sometimes does."""


LIBRARY_OPTIONS = "x-guidance"
"""Keyword of a schema in which llguidance looks for options of its own, such as that keywords are passed over which it
does not know."""


class ConstraintKind(StrEnum):
    """The language in which a constraint is written."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    """Rust's regular expressions, matched against the whole output"""
    GRAMMAR = "grammar"
    """A grammar in Lark, as llguidance reads it, or in llama.cpp's GBNF; the form of the rules tells which."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """A condition on a whole output. Hashable, so that compiled constraints can be kept. Raises InvalidRequest."""

    kind: ConstraintKind
    text: str
    """The schema as JSON, the expression or the grammar, at most MAX_CONSTRAINT_BYTES in UTF-8."""

    def __post_init__(self) -> None:
        try:
            num_bytes = len(self.text.encode())
        except UnicodeEncodeError:
            raise InvalidRequest("it contains half of a surrogate pair, which is not a character") from None
        if num_bytes > MAX_CONSTRAINT_BYTES:
            raise InvalidRequest(f"it has {num_bytes} bytes, and at most {MAX_CONSTRAINT_BYTES} can be used")


def check_schema(schema: Mapping[str, object]) -> None:
    """Refuse what would have a schema mean less than it says. Raises InvalidRequest."""
    if LIBRARY_OPTIONS in schema:
        raise InvalidRequest(
            f"its keyword `{LIBRARY_OPTIONS}` sets options of a library, with which an output need not be what the "
            "schema says: leave it out"
        )


def choice_constraint(choices: Sequence[str]) -> Constraint:
    """The output is one of these texts. Raises InvalidRequest."""
    if not choices:
        raise InvalidRequest("it is empty: give at least one")
    return Constraint(ConstraintKind.REGEX, "|".join(_SPECIAL.sub(r"\\\g<0>", choice) for choice in choices))
