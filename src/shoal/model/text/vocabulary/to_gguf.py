"""The keys with which a GGUF file describes a Hugging Face directory's tokenizer.

They are derived and then checked: a tokenizer is built from them as from any GGUF file, and must encode texts alike.
Source of the keys: GGUF specification, section "Tokenizer"; llama.cpp, convert_hf_to_gguf.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.normalizers import NFC

from shoal.errors import ModelLoadError
from shoal.model.text.vocabulary.splits import SPLITS, WordSplit
from shoal.model.text.vocabulary.tokens import TokenKind

SAMPLES = (
    "Hello world, it's 2026! I'LL pay $1,234.56 for 12345678 fish.",
    "  two  spaces\tand a tab\n\nnew lines \r\n end   ",
    "def f(x):\n    return x**2  # comment\n\tif (a != b) && !c { /* … */ }",
    "Ünïcödé: naïve café, e\u0301 combined; Straße; ŁÓDŹ",
    "中文和日本語のテキスト、한국어 텍스트。العربية עברית ไทย हिन्दी",
    "emoji 🐟🐠 👨\u200d👩\u200d👧 flags 🇸🇪",
    "CamelCaseWord snake_case_word kebab-case HTTPServer x1y2z3 don't DON'T we're 'tis",
    "<|im_start|>user</s><s>[INST] <bos> {{x}} http://a.b/c?d=e&f=%20 a@b.co",
    "1 22 333 4444 55555 ٣٤٥ ⅷ ² 3.14e-10 0xFF",
    "... --- === !!! ?!? \u2018\u2019\u201c\u201d \u2014 \u2013 ·",
    "\u00a0\u2003odd spaces\u200b zero width\ufeff",
    "a",
    " a",
    "A shoal of 7 fish",
)
"""Texts that tell two tokenizers apart."""
_BYTE = "<0x{:02X}>"
_PAD = "[PAD{}]"
"""Name of an embedding row that has no token. Source: llama.cpp, convert_hf_to_gguf.py"""
_NO_SCORE = -1e6


def tokenizer_metadata(
    backend: Tokenizer,
    *,
    num_rows: int,
    eos_token_ids: Sequence[int],
    special_tokens: Mapping[str, str],
    chat_templates: Mapping[str, str],
) -> dict[str, Any]:
    """Metadata by their full keys.

    Args:
        backend: the tokenizer.
        num_rows: of the model's embedding; rows beyond the tokens get names.
        eos_token_ids: tokens that end a text.
        special_tokens: bos_token, eos_token, unk_token, pad_token.
        chat_templates: by name.

    Raises:
        ModelLoadError: GGUF cannot describe this tokenizer.
    """
    said = json.loads(backend.to_str())
    model = said["model"]
    if model.get("type") != "BPE":
        raise _refusal(f"of the kind {model.get('type')!r}")
    tokens, kinds = _tokens(backend, said, num_rows)
    is_byte_level = "ByteLevel" in json.dumps([said.get("pre_tokenizer"), said.get("decoder")])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    keys: dict[str, Any] = {"tokens": tokens, "token_type": kinds}
    if is_byte_level:
        keys |= {"model": "gpt2", "pre": _split_of(backend, said), "merges": merges}
    elif model.get("byte_fallback"):
        keys |= {"model": "llama", "pre": "default", "scores": _scores(tokens, merges), **_spaces(said)}
    else:
        raise _refusal("neither on bytes nor with bytes to fall back to")
    keys |= _special(backend, eos_token_ids, special_tokens)
    found = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    for name, template in chat_templates.items():
        found["tokenizer.chat_template" + ("" if name == "default" else f".{name}")] = template
    return found


def check_encodes_alike(meant: Tokenizer, build: Callable[[], Tokenizer]) -> None:
    """Raises ModelLoadError if the tokenizer that `build` makes encodes a text differently."""
    written = build()
    for text in SAMPLES:
        ids, others = (one.encode(text).ids for one in (meant, written))
        if ids != others:
            raise _refusal(f"which encodes {text[:40]!r} as {ids[:8]}, where GGUF's would make {others[:8]} of it")


def _refusal(what: str) -> ModelLoadError:
    return ModelLoadError(f"GGUF cannot describe this model's tokenizer, {what}")


def _tokens(backend: Tokenizer, said: Mapping[str, Any], num_rows: int) -> tuple[list[str], list[int]]:
    by_id = {token_id: token for token, token_id in backend.get_vocab(with_added_tokens=True).items()}
    if max(by_id) >= num_rows:
        raise _refusal(f"with {max(by_id) + 1} tokens for {num_rows} rows of the embedding")
    added = {token["id"]: bool(token["special"]) for token in said.get("added_tokens", ())}
    unknown, has_bytes = said["model"].get("unk_token"), said["model"].get("byte_fallback")
    byte_tokens = {_BYTE.format(byte) for byte in range(256)} if has_bytes else set[str]()
    tokens, kinds = list[str](), list[int]()
    for row in range(num_rows):
        token = by_id.get(row)
        tokens.append(_PAD.format(row) if token is None else token)
        if token is None:
            kinds.append(int(TokenKind.UNUSED))
        elif token == unknown and not said["model"].get("ignore_merges"):
            kinds.append(int(TokenKind.UNKNOWN))
        elif row in added:
            kinds.append(int(TokenKind.CONTROL if added[row] else TokenKind.USER_DEFINED))
        else:
            kinds.append(int(TokenKind.BYTE if token in byte_tokens else TokenKind.NORMAL))
    return tokens, kinds


def _split_of(backend: Tokenizer, said: Mapping[str, Any]) -> str:
    """The name of the tokenizer's split. Raises ModelLoadError if it has none."""
    ignores = bool(said["model"].get("ignore_merges"))
    wanted = [_words(backend, text) for text in SAMPLES]
    for name, split in SPLITS.items():
        if split.byte_level and split.ignore_merges == ignores and [_split(split, text) for text in SAMPLES] == wanted:
            return name
    raise _refusal("which splits texts into words as none that has a name there")


def _words(backend: Tokenizer, text: str) -> list[str]:
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]


def _split(split: WordSplit, text: str) -> list[str]:
    words = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in split.patterns]
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    normalized = NFC().normalize_str(text) if split.nfc else text
    return [word for word, _ in pre_tokenizers.Sequence([*words, as_bytes]).pre_tokenize_str(normalized)]


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> list[float]:
    """Scores of tokens: the earlier the merge that makes a token, the better."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        first, _, second = merge.partition(" ")
        ranks.setdefault(first + second, rank)
    return [float(-ranks[token]) if token in ranks else _NO_SCORE for token in tokens]


def _spaces(said: Mapping[str, Any]) -> dict[str, bool]:
    steps = json.dumps([said.get("normalizer"), said.get("pre_tokenizer")])
    return {"add_space_prefix": '"Prepend"' in steps or '"first"' in steps or '"always"' in steps}


def _special(
    backend: Tokenizer, eos_token_ids: Sequence[int], special_tokens: Mapping[str, str]
) -> dict[str, int | bool]:
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    found = {f"{part}_token_id": backend.token_to_id(special_tokens.get(name, "")) for name, part in names.items()}
    keys: dict[str, int | bool] = {key: token_id for key, token_id in found.items() if token_id is not None}
    ends = [token_id for token_id in eos_token_ids if token_id != keys.get("eos_token_id")]
    for key in ("eos_token_id", "eot_token_id", "eom_token_id"):
        if key not in keys and ends:
            keys[key] = ends.pop(0)
    ids, plain = (backend.encode("a", add_special_tokens=has).ids for has in (True, False))
    start = next((at for at in range(len(ids)) if ids[at : at + len(plain)] == plain), 0)
    first, last = ids[:start], ids[start + len(plain) :]
    if first not in ([], [keys.get("bos_token_id")]) or last not in ([], [keys.get("eos_token_id")]):
        raise _refusal(f"which puts the tokens {first} and {last} round a text")
    return {**keys, "add_bos_token": bool(first), "add_eos_token": bool(last)}
