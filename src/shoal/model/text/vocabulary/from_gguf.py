"""A tokenizer from the metadata of a GGUF file.

Source of the keys: GGUF specification, section "Tokenizer"; of their defaults: llama.cpp, src/llama-vocab.cpp, which
takes default ids of special tokens from SentencePiece and BERT.
"""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from shoal.model.formats.gguf.header import GgufHeader
from shoal.model.text.vocabulary.byte_level_bpe import build_bpe
from shoal.model.text.vocabulary.guard import while_building
from shoal.model.text.vocabulary.pieces import Normalization
from shoal.model.text.vocabulary.sentencepiece_bpe import build_sentencepiece_bpe
from shoal.model.text.vocabulary.splits import SPLITS, WordSplit
from shoal.model.text.vocabulary.tokens import MAX_TOKENS, TokenKind, Vocabulary, control_where_certain
from shoal.model.text.vocabulary.unigram import build_unigram
from shoal.model.text.vocabulary.wordpiece import build_wordpiece

KINDS = ("llama", "gpt2", "t5", "bert", "gemma4")
"""Supported values of tokenizer.ggml.model."""
MAX_MERGES = 4 * MAX_TOKENS
"""Gemma 4 has two for each token."""
MAX_CHARSMAP_BYTES = 1 << 24
"""Largest precompiled normalization; known ones have about 240 KB."""


def build_from_gguf(header: GgufHeader) -> Tokenizer:
    """The tokenizer that the metadata describe.

    Raises:
        ModelLoadError: there is none, it is of an unknown kind, or it contradicts itself.
    """
    with while_building(f"{header.path}: no tokenizer can be built from its metadata"):
        metadata = _TokenizerMetadata(header)
        match metadata.kind:
            case "llama":
                return _sentencepiece_bpe(metadata)
            case "t5":
                return _unigram(metadata)
            case "bert":
                return _wordpiece(metadata)
            case _:
                return _bpe(metadata)


def _bpe(metadata: _TokenizerMetadata) -> Tokenizer:
    split = metadata.split()
    vocabulary = metadata.vocabulary(add_bos=split.add_bos, add_eos=False)
    return build_bpe(vocabulary, metadata.strings("merges", MAX_MERGES), split)


def _sentencepiece_bpe(metadata: _TokenizerMetadata) -> Tokenizer:
    vocabulary = metadata.vocabulary(bos=1, eos=2, unknown=0, add_bos=True, add_eos=False, has_scores=True)
    normalization = Normalization(add_space_prefix=metadata.flag("add_space_prefix", default=True))
    return build_sentencepiece_bpe(vocabulary, normalization)


def _unigram(metadata: _TokenizerMetadata) -> Tokenizer:
    vocabulary = metadata.vocabulary(eos=1, unknown=2, add_bos=False, add_eos=True, has_scores=True)
    normalization = Normalization(
        add_space_prefix=metadata.flag("add_space_prefix", default=False),
        remove_extra_spaces=metadata.flag("remove_extra_whitespaces", default=False),
        charsmap=metadata.charsmap(),
    )
    return build_unigram(vocabulary, normalization)


def _wordpiece(metadata: _TokenizerMetadata) -> Tokenizer:
    first = "cls" if metadata.has("cls_token_id") else "bos"
    vocabulary = metadata.vocabulary(
        first=first, last="seperator", bos=101, eos=102, unknown=100, add_bos=True, add_eos=True
    )
    lowercase = metadata.flag("normalizer.lowercase", default=True)
    strip_accents = metadata.flag("normalizer.strip_accents", default=lowercase)
    return build_wordpiece(vocabulary, lowercase=lowercase, strip_accents=strip_accents)


class _TokenizerMetadata:
    """The keys below `tokenizer.ggml`, with types and bounds checked."""

    def __init__(self, header: GgufHeader) -> None:
        self._header = header
        self.kind = self._value("model")
        if self.kind not in KINDS:
            raise ValueError(f"its vocabulary is of the kind {self.kind!r}; known are {', '.join(KINDS)}")
        self._tokens = self.strings("tokens", MAX_TOKENS)
        if not all(self._tokens):
            self._tokens = [text or f"[EMPTY_{index}]" for index, text in enumerate(self._tokens)]

    def has(self, name: str) -> bool:
        return self._value(name) is not None

    def split(self) -> WordSplit:
        name = "gemma4" if self.kind == "gemma4" else self._value("pre") or "default"
        if name not in SPLITS:
            raise ValueError(f"how it splits text, {name!r} (tokenizer.ggml.pre), is not known here")
        return SPLITS[name]

    def vocabulary(
        self,
        *,
        add_bos: bool,
        add_eos: bool,
        bos: int | None = None,
        eos: int | None = None,
        unknown: int | None = None,
        first: str = "bos",
        last: str = "eos",
        has_scores: bool = False,
    ) -> Vocabulary:
        """The tokens; the arguments are the defaults of what the file may leave out."""
        num_tokens = len(self._tokens)
        kinds = self._numbers("token_type", num_tokens) or [TokenKind.NORMAL] * num_tokens
        scores = self._numbers("scores", num_tokens) if has_scores else []
        if has_scores and not scores:
            raise ValueError("there are no tokenizer.ggml.scores")
        return Vocabulary(
            tokens=self._tokens,
            kinds=control_where_certain(self._tokens, list(map(int, kinds))),
            scores=list(map(float, scores)),
            unknown_id=self._token_id("unknown", unknown, is_needed=False),
            first_ids=self._round_a_text("add_bos_token", add_bos, first, bos),
            last_ids=self._round_a_text("add_eos_token", add_eos, last, eos),
            strips_right=self._strips_right(),
        )

    def strings(self, name: str, max_count: int) -> list[str]:
        """An array of strings. Raises ValueError if it is missing, or has more than `max_count` items."""
        values = self._array(name, max_count)
        if not values:
            raise ValueError(f"there are no tokenizer.ggml.{name}")
        if not isinstance(values[0], str):
            raise ValueError(f"tokenizer.ggml.{name} are not strings")
        return values

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._value(name)
        if not isinstance(value, bool | int | None):
            raise ValueError(f"tokenizer.ggml.{name} is {value!r}, neither true nor false")
        return default if value is None else bool(value)

    def charsmap(self) -> bytes:
        """SentencePiece's precompiled normalization; empty if there is none."""
        values = self._array("precompiled_charsmap", MAX_CHARSMAP_BYTES)
        if any(not isinstance(value, int) or not -128 <= value <= 255 for value in values):
            raise ValueError("tokenizer.ggml.precompiled_charsmap are not bytes")
        return bytes(value & 255 for value in values)

    def _round_a_text(self, flag: str, default: bool, name: str, token_id: int | None) -> tuple[int, ...]:
        if not self.flag(flag, default=default):
            return ()
        found = self._token_id(name, token_id, is_needed=True)
        if found is None and self.has(flag):
            raise ValueError(f"tokenizer.ggml.{flag} is true, but there is no tokenizer.ggml.{name}_token_id")
        return () if found is None else (found,)

    def _token_id(self, name: str, default: int | None, *, is_needed: bool) -> int | None:
        """The id of a special token. If it is not needed, an id that is not a token counts as none (often -1)."""
        value, num_tokens = self._value(f"{name}_token_id"), len(self._tokens)
        if value is None:
            return default if default is not None and default < num_tokens else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < num_tokens:
            return value
        if is_needed:
            raise ValueError(
                f"tokenizer.ggml.{name}_token_id is {value!r}, which is not one of its {num_tokens} tokens"
            )
        return None

    def _strips_right(self) -> bool:
        """Whether special tokens remove white space after them, as in the tokenizer.json of Phi-3. GGUF has no key for
        it."""
        name = str(self._header.metadata.get("general.name", "")).lower()
        is_phi3 = self._header.metadata.get("general.architecture") == "phi3" or "phi-3" in name or "phi3" in name
        return is_phi3 and self.kind == "llama"

    def _numbers(self, name: str, num_tokens: int) -> list[Any]:
        """One number for each token, or none at all."""
        values = self._array(name, MAX_TOKENS)[:num_tokens]
        if values and (not isinstance(values[0], int | float) or len(values) < num_tokens):
            raise ValueError(f"tokenizer.ggml.{name} is not one number for each of its {num_tokens} tokens")
        return values

    def _array(self, name: str, max_count: int) -> list[Any]:
        key = f"tokenizer.ggml.{name}"
        if self.has(name):
            raise ValueError(f"{key} is not an array")
        count = self._header.array_length(key)
        if count > max_count:
            raise ValueError(f"{key} has {count} items, more than {max_count}")
        return self._header.array(key) or []

    def _value(self, name: str) -> Any:
        return self._header.metadata.get(f"tokenizer.ggml.{name}")
