"""Grammars of answers that are JSON or calls in a family's own way, against answers as the families write them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tokenizers import AddedToken

from shoal.model.text.answer.demanded import harmony_json, marked_calls_or_json
from shoal.model.text.answer.formats import FORMATS, find_format
from shoal.model.text.answer.harmony import harmony
from shoal.model.text.grammar.compiler import GrammarCompiler
from shoal.model.text.grammar.constraint import Constraint
from shoal.model.text.tokenizer import Tokenizer, load_tokenizer
from tests.model.text.answer.test_formats import ANSWERS
from tests.model.tiny_models import tiny_tokenizer, write_tiny_tokenizer

OWN = [one.name for one in FORMATS if one.written is None]
"""families whose calls are no JSON objects with a name and arguments"""
SCHEMA = json.dumps({"type": "object", "properties": {"city": {"enum": ["Rom", "Bonn"]}}, "required": ["city"]})
JSON = '{"city": "Bonn"}'
CALLS = [(name, text.removeprefix(visible)) for name, text, visible, calls in ANSWERS if name in OWN and calls]


@pytest.fixture(scope="module", params=[True, False], ids=["special tokens", "plain text"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """With the markers of all families as tokens of their own, or without."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(folder)
    (folder / "config.json").write_text("{}")
    if request.param:
        markers = dict.fromkeys(marker for _, text in CALLS for marker in re.findall(r"<[^<>\s]+>", text))
        backend = tiny_tokenizer()
        backend.add_special_tokens([AddedToken(marker, special=True) for marker in (*markers, "<|end|>", "<|start|>")])
        backend.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


def constraint(tokenizer: Tokenizer, name: str, *, with_calls: bool = True) -> Constraint:
    form = find_format(name, "")
    if form.reader is harmony:
        return harmony_json(tokenizer.special_token_id, SCHEMA, with_calls=with_calls)
    return marked_calls_or_json(form.begins, tokenizer.special_token_id, SCHEMA)


def is_allowed(tokenizer: Tokenizer, wanted: Constraint, text: str) -> bool:
    """Whether every token may follow the ones before, and the end the last one."""
    guide, ids = GrammarCompiler(tokenizer).guide(wanted), tokenizer.encode(text, add_special=False)
    steps = [*((ids[:count], token) for count, token in enumerate(ids)), (ids, min(tokenizer.eos_token_ids))]
    return all(guide.allowed(before)[token // 8] >> token % 8 & 1 for before, token in steps)


@pytest.mark.parametrize(("name", "text"), CALLS)
def test_calls_of_the_familys_own_kind(name: str, text: str, tokenizer: Tokenizer) -> None:
    assert is_allowed(tokenizer, constraint(tokenizer, name), text)


@pytest.mark.parametrize("name", OWN)
def test_json_of_the_schema_and_nothing_else(name: str, tokenizer: Tokenizer) -> None:
    wanted = constraint(tokenizer, name)
    assert is_allowed(tokenizer, wanted, JSON)
    for other in ('{"city": "Paris"}', "Bonn", ""):
        assert not is_allowed(tokenizer, wanted, other)


def test_gpt_oss_thinks_first_and_writes_json_as_its_final_message(tokenizer: Tokenizer) -> None:
    thought = "<|channel|>analysis<|message|>Where?<|end|><|start|>assistant"
    final = "<|channel|>final <|constrain|>json<|message|>"
    call: Any = next(text for name, text in CALLS if name == "openai")
    for with_calls in (True, False):
        wanted = constraint(tokenizer, "openai", with_calls=with_calls)
        for head in (thought + final, "<|channel|>final<|message|>"):
            assert is_allowed(tokenizer, wanted, head + JSON)
            assert not is_allowed(tokenizer, wanted, head + "Bonn")
        assert is_allowed(tokenizer, wanted, call) == with_calls
