"""Text to tokens and back, and messages to a prompt."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.text.answer.described_tools import with_described_tools, without_calls
from shoal.model.text.chat_template import ChatTemplate
from shoal.model.text.detokenizer import REPLACEMENT, Detokenizer
from shoal.model.text.grammar.constraint import Constraint
from shoal.model.text.token_pieces import TokenPieces
from shoal.model.text.tokenizer_files import TokenizerSettings, from_gguf, from_hf_directory
from shoal.model.text.vocabulary.guard import is_failure, while_building

if TYPE_CHECKING:
    from shoal.model.text.grammar.compiler import GrammarCompiler
    from shoal.model.text.grammar.guide import GrammarGuide

TRIAL_TEXT = "A shoal of 7 fish,\n\U0010ffff e\u0301"
"""Words, numbers, a character that no vocabulary has, and one that normalization often composes."""

_NORMALIZED_CHARS = 4
"""Most characters that normalization turns into one: NFC joins a letter and its marks, at most three in modern
languages."""


def load_tokenizer(path: Path, *, num_rows: int | None = None) -> Tokenizer:
    """Load the tokenizer at a path from `resolve_model`.

    Args:
        path: a Hugging Face directory or a GGUF file.
        num_rows: of the model's embedding; None: unknown.

    Raises:
        ModelLoadError: there is no tokenizer, or it is broken, of an unknown kind or has more tokens than the model, or
            its chat template is broken.
    """
    backend, settings = from_hf_directory(path) if path.is_dir() else from_gguf(path)
    try:
        tokenizer = Tokenizer(backend, settings, num_rows=num_rows)
        with while_building("its tokenizer does not work"):
            backend.decode(backend.encode(TRIAL_TEXT, add_special_tokens=False).ids)
        if num_rows is not None:
            _check_fits(tokenizer, backend, num_rows, are_counted=not path.is_dir())
    except ModelLoadError as error:
        raise ModelLoadError(f"{path}: {error}") from error
    return tokenizer


class Tokenizer:
    """A model's vocabulary, chat template and end-of-text tokens. Thread-safe.

    Args:
        backend: of the tokenizers library.
        settings: what the backend does not contain.
        num_rows: of the model's embedding; None: as many as there are tokens.

    Raises:
        ModelLoadError: a chat template cannot be used.
    """

    def __init__(self, backend: Backend, settings: TokenizerSettings, *, num_rows: int | None = None) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._settings = settings
        self._vocab_size = backend.get_vocab_size()
        self._num_rows = num_rows
        self._grammar_lock = threading.Lock()
        self._templates = {
            name: ChatTemplate(settings.chat_templates[name], settings.special_tokens)
            for name in ("default", "tool_use")
            if name in settings.chat_templates
        }

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return frozenset(self._settings.eos_token_ids)

    @property
    def vocab_size(self) -> int:
        """Number of tokens. The model's vocabulary may be larger, because of padding."""
        return self._vocab_size

    @property
    def has_chat_template(self) -> bool:
        return "default" in self._templates

    @property
    def max_token_chars(self) -> int:
        """Most characters of a text that can become one token, apart from runs of unknown characters."""
        return self._max_token_chars

    @cached_property
    def _max_token_chars(self) -> int:
        longest = max(map(len, self._backend.get_vocab(with_added_tokens=True)), default=1)
        return longest if self._backend.normalizer is None else _NORMALIZED_CHARS * longest

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids of a text. `add_special` puts BOS first if the model expects it; a chat prompt usually contains it
        already.

        Other threads run meanwhile: only the backend's method for several texts releases the interpreter's lock, so it
        is used.

        Raises:
            InvalidRequest: the text contains half a surrogate pair, or a token that was added to the tokenizer but not
                to the model; or the tokenizer is broken in a way that only this text reveals.
        """
        try:
            ids = self._backend.encode_batch([text], add_special_tokens=add_special)[0].ids
        except TypeError:  # a str that cannot be UTF-8
            raise InvalidRequest("the text contains half of a surrogate pair, which is not a character") from None
        except BaseException as error:
            if not is_failure(error):
                raise
            raise InvalidRequest(f"the model's tokenizer cannot read this text: {error}") from error
        if self._num_rows is not None and ids and (largest := max(ids)) >= self._num_rows:
            token = self._backend.id_to_token(largest)
            raise InvalidRequest(f"the text contains {token!r} (token {largest}), for which the model has no weights")
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of some tokens. Bytes that are not UTF-8, or over which a broken decoder panics, become U+FFFD."""
        try:
            return self._backend.decode(list(ids), skip_special_tokens=skip_special)
        except BaseException as error:
            if not is_failure(error):
                raise
            return REPLACEMENT

    def token_text(self, token_id: int) -> str:
        """The text of one token as it reads inside a text, with its leading space."""
        anchor = self._anchor_ids
        text = self.decode([*anchor, token_id], skip_special=False)
        return text[len(self.decode(anchor, skip_special=False)) :]

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token adds to a text; less than a character in a vocabulary of bytes."""
        return self._pieces.bytes_of(token_id) or self.token_text(token_id).encode()

    def guide(self, constraint: Constraint) -> GrammarGuide:
        """A guide that keeps one output within a constraint. The first call takes a second.

        Raises:
            InvalidRequest: the constraint is malformed, cannot be satisfied, or uses something that is not supported.
        """
        with self._grammar_lock:
            compiler = self._grammars
        return compiler.guide(constraint)

    def detokenizer(self, context: Sequence[int] = (), *, skip_special: bool = True) -> Detokenizer:
        """A stream of text for one sequence, which continues the tokens of `context`."""
        return Detokenizer(lambda ids: self.decode(ids, skip_special=skip_special), context)

    @property
    def template_source(self) -> str:
        """The chat template's source, that for tools if there are two; empty: there is none."""
        template = self._templates.get("tool_use") or self._templates.get("default")
        return template.source if template else ""

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for the assistant's next turn; encode it with `add_special=False`.

        Args:
            messages: in OpenAI's form, but arguments of calls are objects.
            tools: that may be called. A template that ignores tools gets them as text.
            variables: of this model's template.

        Raises:
            InvalidRequest: the model has no chat template, or its template refuses these messages.
        """
        if not self.has_chat_template:
            raise InvalidRequest("this model has no chat template; use plain completions", "messages")
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        template = self._templates[name]
        if not template.knows_calls:
            messages = without_calls(messages)
        if tools and not template.knows_tools:
            messages, tools = with_described_tools(messages, tools), None
        return template.render(messages, tools, variables)

    def special_token_id(self, text: str) -> int | None:
        """The id of the special token with exactly this text; None: there is none."""
        token_id = self._backend.token_to_id(text)
        return token_id if token_id in self.special_token_ids else None

    def added_token_id(self, text: str) -> int | None:
        """The id of the added token (special or not) with exactly this text; None: there is none."""
        token_id = self._backend.token_to_id(text)
        return token_id if token_id in self._backend.get_added_tokens_decoder() else None

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids of tokens that have no text of their own, such as the end of a turn."""
        return self._special_token_ids

    @cached_property
    def _special_token_ids(self) -> frozenset[int]:
        return frozenset(
            token_id for token_id, token in self._backend.get_added_tokens_decoder().items() if token.special
        )

    @cached_property
    def _grammars(self) -> GrammarCompiler:
        from shoal.model.text.grammar.compiler import GrammarCompiler  # takes a quarter of a second

        return GrammarCompiler(self)

    @cached_property
    def _pieces(self) -> TokenPieces:
        return TokenPieces(self._backend)

    @cached_property
    def _anchor_ids(self) -> list[int]:
        """Tokens that are decoded before a single token, because some decoders drop the first token's leading space."""
        return self.encode("a", add_special=False)


def _largest_id(backend: Backend, *, are_counted: bool) -> int:
    """Largest id of the vocabulary without added tokens; -1 if it is empty.

    `are_counted`: whether ids are 0, 1, 2 and so on, as in a GGUF file. A tokenizer.json may leave some out.
    """
    if are_counted:
        return backend.get_vocab_size(with_added_tokens=False) - 1
    return max(backend.get_vocab(with_added_tokens=False).values(), default=-1)


def _check_fits(tokenizer: Tokenizer, backend: Backend, num_rows: int, *, are_counted: bool) -> None:
    """Check that every token has a row of the embedding; rows without a token are padding.

    Tokens that were added later (often a padding token beyond the weights) matter only if a text contains them.
    """
    largest = _largest_id(backend, are_counted=are_counted)
    if largest >= num_rows:
        token = backend.id_to_token(largest)
        raise ModelLoadError(
            f"the tokenizer has token {largest} ({token!r}), but the model's embedding has only {num_rows} rows"
        )
    try:
        tokenizer.encode("")
    except InvalidRequest as error:
        raise ModelLoadError(
            f"the tokens that the tokenizer puts around every text do not fit the model: {error}"
        ) from None
