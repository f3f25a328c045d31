"""Whisper's special tokens in one model's vocabulary, and tokens that it never draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.generation.seams import PromptTokenizer
from shoal.model.formats.model_file import read_json
from shoal.speech.languages import LANGUAGES

MAX_ALIGNMENT_HEADS = 32
"""Attention of these heads is sent to the head: 0.7 MB for each one and the longest text. OpenAI's models have 6 to
23."""
POSITION_S = 0.02
"""Seconds between neighboring timestamps, and between neighboring positions of the encoder."""
_ENGLISH_VOCABULARY = 51864
"""Size of the vocabulary of English-only models. Source: openai/whisper, whisper/model.py, `is_multilingual`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechVocabulary:
    """Token ids; None if the model has no such token."""

    end: int
    start: int
    previous: int | None
    """Token before the preceding text."""
    transcribe: int | None
    translate: int | None
    no_speech: int | None
    no_timestamps: int
    languages: Mapping[str, int]
    """Tokens by language code; empty: the model supports only English."""
    suppressed: tuple[int, ...]
    """Tokens that are never drawn."""
    suppressed_first: tuple[int, ...]
    """Tokens that are not drawn first."""
    num_tokens: int
    """Rows of the model's embedding."""
    alignment_heads: tuple[tuple[int, int], ...]
    """Layer and head of each head whose attention follows the sound, by layer; empty: unknown."""

    @property
    def first_timestamp(self) -> int:
        """The token of 0.00 s; all tokens from here on are timestamps."""
        return self.no_timestamps + 1

    def is_word(self, token: int) -> bool:
        """Whether a token is text, and neither a timestamp nor special."""
        return token < self.start and token != self.end

    def language_token(self, code: str) -> int:
        """The token of a language. Raises InvalidRequest if the model does not support it."""
        if code not in self.languages:
            known = ", ".join(self.languages)
            raise InvalidRequest(f"the model does not know the language {code[:40]!r}: it knows {known}", "language")
        return self.languages[code]


def read_vocabulary(path: Path, tokenizer: PromptTokenizer, num_tokens: int) -> SpeechVocabulary:
    """Read the vocabulary from a model's folder.

    Args:
        path: of the folder.
        tokenizer: of the model.
        num_tokens: rows of the model's embedding.

    Raises:
        ModelLoadError: the tokenizer lacks tokens that Whisper needs.
    """
    settings = _settings(path)
    ids = {name: tokenizer.added_token_id(f"<|{name}|>") for name in (*_NEEDED, *_OTHERS, *LANGUAGES)}
    ids["nospeech"] = ids["nospeech"] or ids["nocaptions"]
    needed: dict[str, int] = {}
    for name in _NEEDED:
        token = ids[name]
        if token is None:
            raise ModelLoadError(f"{path}: the tokenizer has no <|{name}|>, which a model of speech needs")
        needed[name] = token
    languages = {code: token for code in LANGUAGES if (token := ids[code]) is not None}
    is_multilingual = settings.get("is_multilingual", num_tokens != _ENGLISH_VOCABULARY)
    never = {ids[name] for name in _NEVER_SAID} - {None}
    suppressed = {*_tokens(path, settings, "suppress_tokens", "suppress_ids"), *never, needed["notimestamps"]}
    return SpeechVocabulary(
        end=needed["endoftext"],
        start=needed["startoftranscript"],
        previous=ids["startofprev"],
        transcribe=ids["transcribe"],
        translate=ids["translate"],
        no_speech=ids["nospeech"],
        no_timestamps=needed["notimestamps"],
        languages=languages if is_multilingual else {},
        suppressed=tuple(sorted(token for token in suppressed if token is not None)),
        suppressed_first=_tokens(path, settings, "begin_suppress_tokens", "suppress_ids_begin"),
        num_tokens=num_tokens,
        alignment_heads=_heads(path, settings.get("alignment_heads") or []),
    )


_NEEDED = ("endoftext", "startoftranscript", "notimestamps")
_OTHERS = ("startofprev", "startoflm", "transcribe", "translate", "nospeech", "nocaptions")
_NEVER_SAID = ("startoftranscript", "startofprev", "startoflm", "transcribe", "translate", "nospeech")


def _settings(path: Path) -> dict[str, Any]:
    """The settings of generation take precedence over the model's; CTranslate2's folders have theirs in the same
    place."""
    files = [path / name for name in ("config.json", "generation_config.json")]
    found = [read_json(file) for file in files if file.is_file()]
    return {key: value for one in found for key, value in one.items() if value is not None}


def _heads(path: Path, value: Any) -> tuple[tuple[int, int], ...]:
    pairs = value if isinstance(value, list) else [value]
    if not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, int) for n in pair) for pair in pairs):
        raise ModelLoadError(f"{path}: 'alignment_heads' is not a list of layers and heads")
    if len(pairs) > MAX_ALIGNMENT_HEADS:
        raise ModelLoadError(f"{path}: {len(pairs)} alignment heads are more than {MAX_ALIGNMENT_HEADS}")
    return tuple(sorted((layer, head) for layer, head in pairs))


def _tokens(path: Path, settings: Mapping[str, Any], *keys: str) -> tuple[int, ...]:
    for key in keys:
        value = settings.get(key)
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(token, int) for token in value):
            raise ModelLoadError(f"{path}: {key!r} is not a list of tokens")
        return tuple(token for token in value if token >= 0)
    return ()
