"""Compiles constraints to guides, and keeps them for later requests with the same constraint."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import llguidance
from llguidance.gbnf_to_lark import gbnf_to_lark

from shoal.errors import InvalidRequest
from shoal.model.text.grammar.alternatives import (
    TOO_MANY,
    behind_a_text,
    crowded_rules,
    has_too_many_alternatives,
)
from shoal.model.text.grammar.constraint import JSON_WHITESPACE, Constraint, ConstraintKind
from shoal.model.text.grammar.guide import GrammarGuide, error_line

_MAX_KEPT = 64
"""Compiled constraints that are kept: an application uses a few dozen schemas over and over."""
_MAX_MESSAGE_CHARS = 300
_LARK = re.compile(r"^[ \t]*(?:%llguidance\b|start[ \t]*:(?!:=))", re.MULTILINE)
"""Beginnings that only Lark has, not GBNF. llguidance's own `is_lark_syntax` takes minutes for many empty lines."""
_NO_TOKEN = "NoExtensionBias"
_NOTHING = "nothing satisfies it"
_PLAIN = r'[^"\\\x00-\x1F\x7F]'
_SLICES = (r"[\x20\x0A\x0D\x09]+", *(_PLAIN + count for count in ("{1,8}", "{1,14}", "{1,20}", "+")))
"""Groups of tokens that llguidance adds to a mask at once if all texts of that form may follow, as within a string.
Near the end of a string of bounded length it checks the longer ones one by one. With these lengths a mask takes 23 us
on average for a schema with such strings, and 33 with the library's own (10 and 30) (SmolLM2's vocabulary)."""


_PROBED = 4
"""First tokens after which a new grammar is checked: alternatives begin to count after them."""


class GrammarVocabulary(Protocol):
    """The part of a tokenizer that guides need."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an output."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        ...

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Tokens that have no text."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text."""
        ...

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids of a text."""
        ...


class GrammarCompiler:
    """Makes guides for one vocabulary. Thread-safe; the interpreter's lock is released while a constraint is
    compiled."""

    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        """Takes a second for 50 thousand tokens. Raises InvalidRequest if no token ends an output."""
        if not vocabulary.eos_token_ids:
            raise InvalidRequest("this model has no token that ends an output: its output cannot be constrained")
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_TokenTable(vocabulary)),
            n_vocab=vocabulary.vocab_size,
            eos_token=sorted(vocabulary.eos_token_ids),
            slices=list(_SLICES),
        )
        self._end_mask = _mask_of(vocabulary.eos_token_ids, vocabulary.vocab_size)
        self._end_ids = vocabulary.eos_token_ids
        self._kept: OrderedDict[Constraint, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def guide(self, constraint: Constraint) -> GrammarGuide:
        """A guide at the beginning of an output.

        Raises:
            InvalidRequest: the constraint is malformed, cannot be satisfied, or uses something that is not supported,
                which the message names.
        """
        with self._lock:
            matcher = self._kept.get(constraint)
            if matcher is not None:
                self._kept.move_to_end(constraint)
        if matcher is None:
            matcher = self._compile(constraint)
            with self._lock:
                self._kept[constraint] = matcher
                while len(self._kept) > _MAX_KEPT:
                    self._kept.popitem(last=False)
        return GrammarGuide(matcher.deep_copy(), self._end_mask)

    def _compile(self, constraint: Constraint) -> llguidance.LLMatcher:
        try:
            grammar = _TRANSLATIONS[constraint.kind](constraint.text)
        except ValueError as error:
            raise InvalidRequest(_shortened(str(error))) from error
        matcher = self._matcher(grammar)
        if matcher.is_error():
            raise InvalidRequest(_shortened(matcher.get_error()))
        if fault := _fault_at_beginning(matcher.deep_copy(), self._end_ids):
            raise InvalidRequest(_explained(fault))
        if constraint.kind is ConstraintKind.GRAMMAR:
            self._check_crowded(_lark_of(constraint.text))
        return matcher

    def _check_crowded(self, grammar: str) -> None:
        """Raises InvalidRequest if any rule of the Lark grammar has too many alternatives at its beginning."""
        for rule in crowded_rules(grammar):
            matcher = self._matcher(_grammar_of(behind_a_text(grammar, rule)))
            fault = None if matcher.is_error() else _fault_at_beginning(matcher, self._end_ids)
            if fault and has_too_many_alternatives(fault):
                raise InvalidRequest(f"rule `{rule}`: it {TOO_MANY}")

    def _matcher(self, grammar: str) -> llguidance.LLMatcher:
        return llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)


def _fault_at_beginning(matcher: llguidance.LLMatcher, end_ids: frozenset[int]) -> str | None:
    """Why no output can begin: rules only lead to each other, or there are too many at once. None if one can."""
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        return error_line(matcher)
    if not any(mask):
        return _NO_TOKEN
    for token_id in islice((one for one in _set_bits(mask) if one not in end_ids), _PROBED):
        after = matcher.deep_copy()
        after.consume_tokens([token_id])
        if not after.is_error() and not after.is_stopped():
            after.compute_bitmask()
        if after.is_error():
            return error_line(after)
    return None


def _explained(reason: str) -> str:
    """The library's message or, for too many alternatives, what to do about it."""
    if reason == _NO_TOKEN:
        return _NOTHING
    return f"it {TOO_MANY}" if has_too_many_alternatives(reason) else _shortened(reason)


class _TokenTable:
    """A vocabulary with the attributes that llguidance reads."""

    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        self._vocabulary = vocabulary
        self.eos_token_id = min(vocabulary.eos_token_ids)
        self.bos_token_id = None
        self.tokens = [vocabulary.token_bytes(token_id) for token_id in range(vocabulary.vocab_size)]
        self.special_token_ids = sorted(vocabulary.special_token_ids | vocabulary.eos_token_ids)

    def __call__(self, text: bytes) -> Sequence[int]:
        return self._vocabulary.encode(text.decode(), add_special=False)


def _json_grammar(schema: str) -> str:
    return llguidance.LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": JSON_WHITESPACE})


def _grammar_of(lark: str) -> str:
    return llguidance.LLMatcher.grammar_from_lark(lark)


def _lark_of(grammar: str) -> str:
    """A Lark or GBNF grammar as a Lark grammar. Raises ValueError if it cannot be converted."""
    try:
        return grammar if _LARK.search(grammar) is not None else gbnf_to_lark(grammar)
    except RecursionError:
        raise ValueError("the grammar is nested too deeply") from None
    except Exception as error:  # the library raises plain Exception for a missing rule
        raise ValueError(str(error)) from error


_TRANSLATIONS: dict[ConstraintKind, Callable[[str], str]] = {
    ConstraintKind.JSON_SCHEMA: _json_grammar,
    ConstraintKind.REGEX: llguidance.LLMatcher.grammar_from_regex,
    ConstraintKind.GRAMMAR: lambda grammar: _grammar_of(_lark_of(grammar)),
}


def _set_bits(mask: bytes) -> Iterator[int]:
    """Positions of the bits that are set."""
    return (8 * place + bit for place, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1)


def _mask_of(token_ids: frozenset[int], vocab_size: int) -> bytes:
    mask = bytearray(-(-vocab_size // 8))
    for token_id in token_ids:
        mask[token_id // 8] |= 1 << token_id % 8
    return bytes(mask)


def _shortened(message: str) -> str:
    """The message in one line, without the library's advice on its own options."""
    return re.sub(r" Enable '\w+' option .*", "", re.sub(r"\s+", " ", message)).strip()[:_MAX_MESSAGE_CHARS]
