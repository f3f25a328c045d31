"""Hugging Face directories that have only a `tokenizer.model`, against SentencePiece's own package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.errors import ModelLoadError
from shoal.model.text.tokenizer import Tokenizer, load_tokenizer
from shoal.model.text.vocabulary.from_sentencepiece import MAX_FILE_BYTES, model_class
from tests.model.text.vocabulary.gguf_files import ALPHABET, CORPUS, trained, vocabulary_file

TEXTS = (st.text(st.sampled_from(ALPHABET), max_size=40) | st.sampled_from(CORPUS)).filter(lambda text: "<" not in text)
"""Without names of special tokens, which SentencePiece does not look for in texts."""
IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
FORBIDDEN = ("torch", "transformers", "sentencepiece", "safetensors")


def directory(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text('{"eos_token_id": 2}')
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def written(folder: Path, *pieces: tuple[str, float, int], **trainer: int) -> Path:
    """A model file of these pieces; BPE where the trainer's fields do not say otherwise."""
    model = model_class()()
    for text, score, kind in pieces:
        model.pieces.add(piece=text.encode(), score=score, kind=kind)
    for name, value in {"model_type": 2, **trainer}.items():
        setattr(model.trainer, name, value)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    return directory(folder)


SPECIAL_PIECES = (("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3))
PIECES = (*SPECIAL_PIECES, ("a", -1.0, 1), ("\u2581", -2.0, 1), ("\u2581a", 0.0, 1))


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    folder = tmp_path_factory.mktemp(request.param)
    processor = trained(folder, request.param, **IDENTITY, vocab_size=400)
    return processor, load_tokenizer(directory(folder))


@given(text=TEXTS)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_become_sentencepieces_own_tokens(loaded: tuple[Any, Tokenizer], text: str) -> None:
    processor, ours = loaded
    assert ours.encode(text, add_special=False) == processor.encode(text)


def test_what_begins_and_ends_a_text(tmp_path: Path) -> None:
    written(tmp_path, *PIECES)
    assert load_tokenizer(tmp_path).encode("a") == [1, 5], "as transformers' Llama and Gemma"
    directory(tmp_path, add_bos_token=False, add_eos_token=True)
    assert load_tokenizer(tmp_path).encode("a") == [5, 2]
    written(tmp_path, *PIECES, model_type=1)
    assert load_tokenizer(tmp_path).encode("a") == [5, 2], "as transformers' T5"


def test_tokenizer_config_adds_tokens(tmp_path: Path) -> None:
    written(tmp_path, *PIECES)
    added = {"7": {"content": "<end>", "special": True}, "6": {"content": "<tool>", "special": False}}
    directory(tmp_path, added_tokens_decoder=added, eos_token="<end>", add_prefix_space=False)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("a<tool>a<end>") == [1, 3, 6, 3, 7]
    assert tokenizer.decode([3, 6, 7]) == "a<tool>"
    assert tokenizer.eos_token_ids == {2, 7}
    added["9"] = {"content": "<far>"}
    directory(tmp_path, added_tokens_decoder=added)
    with pytest.raises(ModelLoadError, match=r"'<far>' cannot have the id 9"):
        load_tokenizer(tmp_path)


def test_a_special_token_that_is_not_there(tmp_path: Path) -> None:
    written(tmp_path, *PIECES)
    directory(tmp_path, bos_token="<begin>")
    with pytest.raises(ModelLoadError, match=r"tokenizer\.model.*'<begin>' is not in the vocabulary"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("pieces", "trainer", "words"),
    [
        ((), {}, "a vocabulary of 0 tokens"),
        (PIECES, {"model_type": 4}, "words or characters"),
        (PIECES, {"unk_id": 6}, "special token 6"),
        ((*PIECES, PIECES[3]), {}, "'a' stands twice"),
        ((*PIECES, ("b", float("inf"), 1)), {}, "not a finite number"),
    ],
)
def test_models_that_contradict_themselves(tmp_path: Path, pieces: Any, trainer: dict[str, int], words: str) -> None:
    written(tmp_path, *pieces, **trainer)
    with pytest.raises(ModelLoadError, match=words) as caught:
        load_tokenizer(tmp_path)
    assert "tokenizer.model" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"IQ== 0\nIg== 1\n", b"\x0a\x05\x0a\x03\xff\xfe\xfd" * 3])
def test_files_of_another_kind(tmp_path: Path, content: bytes) -> None:
    directory(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelLoadError, match="no SentencePiece model that can be read") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    directory(tmp_path)
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ModelLoadError, match="more than 16777216"):
        load_tokenizer(tmp_path)


def test_nothing_of_the_development_environment_is_needed(tmp_path: Path) -> None:
    """Both formats load in a process where importing the packages fails."""
    written(tmp_path, *PIECES)
    tokens, scores, kinds = (list(column) for column in zip(*PIECES, strict=True))
    gguf = vocabulary_file(tmp_path, model="llama", tokens=tokens, scores=scores, token_type=kinds)
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({FORBIDDEN!r}))\n"
        "from pathlib import Path\n"
        "import shoal.cli.main\n"
        "from shoal.model.text.tokenizer import load_tokenizer\n"
        "print(*[load_tokenizer(Path(name)).encode('a') for name in sys.argv[1:]])"
    )
    command = [sys.executable, "-P", "-c", program, str(tmp_path), str(gguf)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[1, 5] [1, 5]\n"
