"""Tokenizers from the metadata of GGUF files, against SentencePiece and Hugging Face's own."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from shoal.errors import ModelLoadError
from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.text.tokenizer import load_tokenizer
from shoal.model.text.vocabulary.from_gguf import build_from_gguf
from shoal.model.text.vocabulary.from_sentencepiece import model_class
from shoal.model.text.vocabulary.tokens import MAX_TOKENS
from tests.model.text.vocabulary.gguf_files import ALPHABET, CORPUS, metadata_of, trained, vocabulary_file

TEXTS = (
    st.text(st.sampled_from(ALPHABET), max_size=40)
    | st.sampled_from(CORPUS)
    | st.text(st.characters(exclude_characters="\0<", exclude_categories=("Cs",)), max_size=20)
).filter(lambda text: "<" not in text)
"""Without names of special tokens, which SentencePiece does not look for in texts."""
many = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SMALL: dict[str, Any] = {
    "model": "llama",
    "tokens": [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        "a",
        "b",
        "\u2581a",
        "ab",
    ],
    "scores": [0.0] * 259 + [-5.0, -6.0, -7.0, -1.0, -2.0],
    "token_type": [2, 3, 3] + [6] * 256 + [1] * 5,
}
SMALL_BPE: dict[str, Any] = {
    "model": "gpt2",
    "pre": "qwen2",
    "tokens": [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", "Ġa", "<|im_end|>"],
    "token_type": [1] * 258 + [3],
    "merges": ["a b", "Ġ a"],
}


class Pair(NamedTuple):
    """SentencePiece's own and ours, which a failing case does not print whole."""

    theirs: Any
    ours: Tokenizer

    def __repr__(self) -> str:
        return "Pair"


def build(folder: Path, **metadata: Any) -> Tokenizer:
    return build_from_gguf(GgufHeader(vocabulary_file(folder, **metadata)))


@pytest.fixture(scope="module")
def llama_like(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("llama")
    processor = trained(folder, "bpe", normalization_rule_name="identity", remove_extra_whitespaces=False)
    return Pair(processor, build(folder, model="llama", **metadata_of(processor)))


@pytest.fixture(scope="module")
def gemma_like(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """No space in front, and runs of spaces that are tokens of their own."""
    folder = tmp_path_factory.mktemp("gemma")
    processor = trained(
        folder,
        "bpe",
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        user_defined_symbols=["\u2581\u2581", "\u2581\u2581\u2581"],
    )
    return Pair(processor, build(folder, model="llama", add_space_prefix=False, **metadata_of(processor)))


@pytest.fixture(scope="module")
def t5_like(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("t5")
    processor = trained(folder, "unigram", vocab_size=400)
    model = model_class().FromString((folder / "tokenizer.model").read_bytes())
    charsmap = list(model.normalizer.precompiled_charsmap)
    options = {"precompiled_charsmap": charsmap, "add_space_prefix": True, "remove_extra_whitespaces": True}
    return Pair(processor, build(folder, model="t5", **options, **metadata_of(processor)))


@given(text=TEXTS)
@many
def test_sentencepiece_bpe_is_sentencepieces_own(llama_like: Pair, text: str) -> None:
    processor, ours = llama_like
    assert ours.encode(text, add_special_tokens=False).ids == processor.encode(text)
    assert ours.encode(text).ids == [processor.bos_id(), *processor.encode(text)]
    assert ours.decode(ours.encode(text).ids) == processor.decode(processor.encode(text)).replace("\u2581", " ")


@given(text=TEXTS)
@many
def test_runs_of_spaces_are_tokens_of_their_own(gemma_like: Pair, text: str) -> None:
    processor, ours = gemma_like
    assert ours.encode(text, add_special_tokens=False).ids == processor.encode(text)


def test_a_written_out_space_is_a_space(gemma_like: Pair) -> None:
    """U+2581 twice before a letter, as Hugging Face's tokenizer.json of Gemma and SentencePiece read it."""
    _, ours = gemma_like
    two_spaces = ours.token_to_id("  ")
    assert ours.encode("\u2581\u2581a").ids[1:] == ours.encode("  a").ids[1:] == [two_spaces, ours.token_to_id("a")]


@given(text=TEXTS.filter(lambda text: not any(unicodedata.combining(char) for char in text) and text.isprintable()))
@many
def test_unigram_is_sentencepieces_own(t5_like: Pair, text: str) -> None:
    """But for marks on characters: the tokenizers library replaces those together, in Hugging Face's T5 as well."""
    processor, ours = t5_like
    assert ours.encode(text, add_special_tokens=False).ids == processor.encode(text)
    assert ours.encode(text).ids == [*processor.encode(text), processor.eos_id()]


def test_composed_characters(tmp_path: Path) -> None:
    """Qwen's tokenizer.json composes characters first, Llama 3's does not."""
    for pre, is_composed in (("qwen2", True), ("llama-bpe", False)):
        tokenizer = build(tmp_path, **{**SMALL_BPE, "pre": pre})
        assert (tokenizer.encode("e\u0301").ids == tokenizer.encode("é").ids) is is_composed


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["It", "'s", "Ġ12345", "ĠX", "'", "LL"]),
        ("smollm", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "ĠX", "'", "LL"]),
        ("llama-bpe", ["It", "'s", "Ġ", "123", "45", "ĠX", "'LL"]),
        ("qwen2", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "ĠX", "'LL"]),
        ("tekken", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "ĠX", "'LL"]),
        ("gpt-4o", ["It's", "Ġ", "123", "45", "ĠX'LL"]),
        ("deepseek-v3", ["It", "'s", "Ġ", "123", "45", "ĠX", "'LL"]),
        ("tiny_aya", ["It's", "Ġ", "12", "345", "ĠX'LL"]),
    ],
)
def test_words_of_a_split(tmp_path: Path, pre: str, words: list[str]) -> None:
    """As the tokenizer.json of a model of the name cuts them."""
    tokenizer = build(tmp_path, **{**SMALL_BPE, "pre": pre})
    assert tokenizer.pre_tokenizer is not None
    assert [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("It's 12345 X'LL")] == words


def test_wordpiece_is_hugging_faces_own(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "fish", "##es", "fi", "##sh", "a", "##a", ",", "漢"]
    reference = Tokenizer(models.WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]"))
    reference.normalizer, reference.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    spelled = [t if t[0] == "[" else t[2:] if t[:2] == "##" else f"\u2581{t}" for t in tokens]
    ids = {"unknown_token_id": 1, "cls_token_id": 2, "seperator_token_id": 3}
    tokenizer = build(tmp_path, model="bert", tokens=spelled, token_type=[3] * 4 + [1] * 8, **ids)
    for text in ("fishes", "a fish, fishsh", "aa漢aé", "xyz", "FISH á"):
        assert tokenizer.encode(text).ids == [2, *reference.encode(text).ids, 3], text


def test_bos_and_eos_are_put_where_the_file_says(tmp_path: Path) -> None:
    a = SMALL["tokens"].index("\u2581a")
    assert build(tmp_path, **SMALL).encode("a").ids == [1, a]
    assert build(tmp_path, **SMALL, add_bos_token=False, add_eos_token=True).encode("a").ids == [a, 2]
    assert build(tmp_path, **SMALL, add_space_prefix=False).encode("a").ids == [1, SMALL["tokens"].index("a")]
    llama3 = {**SMALL_BPE, "pre": "llama-bpe", "bos_token_id": 258}
    assert build(tmp_path, **llama3).encode("ab").ids == [258, 256]
    assert build(tmp_path, **llama3, add_bos_token=False).encode("ab").ids == [256]


def test_special_tokens_inside_a_text(tmp_path: Path) -> None:
    """Matched whole, left out of decoded text; what follows one begins with a space again, as in llama.cpp."""
    tokenizer = build(tmp_path, **SMALL)
    assert [SMALL["tokens"][token] for token in tokenizer.encode("a</s>ab").ids] == [
        "<s>",
        "\u2581a",
        "</s>",
        "\u2581a",
        "b",
    ]
    assert tokenizer.decode(tokenizer.encode("a</s>b").ids) == "a b"


def test_bytes_stand_for_what_has_no_token(tmp_path: Path) -> None:
    path = vocabulary_file(tmp_path, **SMALL)
    tokenizer = load_tokenizer(path)
    ids = tokenizer.encode("a é", add_special=False)
    assert [SMALL["tokens"][token] for token in ids] == ["\u2581a", "\u2581", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids) == "a é"
    detokenizer = tokenizer.detokenizer(context=ids[:1])
    assert [detokenizer.push(token) for token in ids[1:]] == [" ", "", "é"]


def test_phi3_swallows_the_space_behind_its_special_tokens(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "phi.gguf"
    writer = gguf.GGUFWriter(path, "phi3")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*SMALL["tokens"], "<|user|>"])
    writer.add_token_scores([*SMALL["scores"], 0.0])
    writer.add_token_types([*SMALL["token_type"], 3])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = build_from_gguf(GgufHeader(path))
    assert tokenizer.encode("<|user|>\n a").ids == [1, len(SMALL["tokens"]), SMALL["tokens"].index("\u2581a")]


def test_tokens_that_end_something(tmp_path: Path) -> None:
    def ends(*more: str, kinds: tuple[int, ...] = (), **metadata: Any) -> set[str]:
        tokens = [*SMALL_BPE["tokens"], *more]
        types = [*SMALL_BPE["token_type"], *(kinds or [3] * len(more))]
        path = vocabulary_file(tmp_path, **{**SMALL_BPE, "tokens": tokens, "token_type": types, **metadata})
        return {tokens[token] for token in load_tokenizer(path).eos_token_ids}

    assert ends() == {"<|im_end|>"}
    assert ends("</s>", "<x>", eos_token_id=259, eot_token_id=260) == {"<|im_end|>", "</s>", "<x>"}
    assert ends("</s>", kinds=(4,)) == {"<|im_end|>"}, "Gemma has this as a tag of HTML"
    assert ends("<|eot_id|>", kinds=(1,)) == {"<|im_end|>", "<|eot_id|>"}, "files say wrongly that it is a word"
    assert ends("<|end|>") == {"<|im_end|>", "<|end|>"}
    assert ends("<|end|>", "<|call|>", "<|return|>") == {"<|im_end|>", "<|call|>", "<|return|>"}
    assert ends("<|fim_pad|>", "<|file_sep|>") == {"<|im_end|>", "<|fim_pad|>", "<|file_sep|>"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "abacus"}, "of the kind 'abacus'; known are llama"),
        ({"model": None}, "of the kind None"),
        ({"model": 3}, "of the kind 3"),
        ({"tokens": None}, "no tokenizer.ggml.tokens"),
        ({"tokens": 5}, "tokens is not an array"),
        ({"tokens": [1, 2]}, "tokens are not strings"),
        ({"tokens": ["a"] * 264}, "'a' stands twice"),
        ({"tokens": ["a" * 1025, *SMALL["tokens"][1:]]}, "1025 characters"),
        ({"scores": None}, "no tokenizer.ggml.scores"),
        ({"scores": ["x"] * 264}, "not one number"),
        ({"scores": [0.0] * 263}, "not one number for each of its 264 tokens"),
        ({"scores": [float("nan")] * 264}, "not a finite number"),
        ({"token_type": [1]}, "not one number"),
        ({"bos_token_id": 264}, "bos_token_id is 264, which is not one of its 264 tokens"),
        ({"bos_token_id": "x"}, "bos_token_id is 'x'"),
        ({"eos_token_id": 1 << 31}, "eos_token_id is 2147483648"),
        ({"eot_token_id": 2.5}, "eot_token_id is 2.5"),
        ({"add_bos_token": "yes"}, "add_bos_token is 'yes'"),
        ({"add_space_prefix": 0.5}, "add_space_prefix is 0.5"),
        ({"model": "t5", "precompiled_charsmap": [300]}, "not bytes"),
        ({"model": "t5", "precompiled_charsmap": [255, 255, 255, 255, 0]}, "can be built"),
        ({"model": "t5", "unknown_token_id": 999}, "no unknown token"),
        ({"model": "bert", "unknown_token_id": 999}, "no unknown token"),
        ({"model": "gpt2", "pre": "nobody"}, r"splits text, 'nobody'"),
        ({"model": "gpt2", "pre": 4}, r"splits text, 4"),
        ({"model": "gpt2", "merges": None}, "no tokenizer.ggml.merges"),
        ({"model": "gpt2", "merges": ["ab"]}, "merge 'ab' is not of two tokens"),
        ({"model": "gpt2", "merges": ["a x"]}, "out of vocabulary"),
        ({"model": "gpt2", "merges": [3]}, "merges are not strings"),
        ({"model": "gpt2", "add_bos_token": True}, "there is no tokenizer.ggml.bos_token_id"),
    ],
)
def test_metadata_that_contradicts_itself(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    base = SMALL_BPE if changes.get("model") == "gpt2" else SMALL
    path = vocabulary_file(tmp_path, **{**base, **changes})
    with pytest.raises(ModelLoadError, match=words) as caught:
        load_tokenizer(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_more_tokens_than_any_vocabulary_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number in the file is looked at before anything is made of it."""
    path = vocabulary_file(tmp_path, **SMALL)
    monkeypatch.setattr(GgufHeader, "array_length", lambda self, key: MAX_TOKENS + 1)
    monkeypatch.setattr(GgufHeader, "array", lambda self, key: pytest.fail("the array was decoded"))
    with pytest.raises(ModelLoadError, match="has 1048577 items, more than 1048576"):
        load_tokenizer(path)


def test_ids_that_only_a_template_would_name_may_be_missing(tmp_path: Path) -> None:
    """Some files write -1 for `none`."""
    ids = {"padding_token_id": (1 << 32) - 1, "unknown_token_id": 9999}
    tokenizer = load_tokenizer(vocabulary_file(tmp_path, **SMALL, **ids))
    assert tokenizer.encode("a", add_special=False) == [SMALL["tokens"].index("\u2581a")]
