"""One choice of an API call: visible text, log-probabilities and a finish reason from its tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.core.sequences.request import RequestFinished, TokenProduced
from shoal.generation.output.text_stream import TextStream
from shoal.protocol.language_messages import TokenLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionLogprobs:
    """The log-probabilities of one output token that is visible in the text."""

    token_id: int
    text_offset: int
    """The offset of its text in the choice's text, in characters."""
    logprobs: TokenLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceDelta:
    """What one turn of the engine added to one choice."""

    index: int
    text: str
    token_ids: Sequence[int] = ()
    """Output tokens, including those whose text is held back or hidden."""
    finish_reason: str | None = None
    """`stop` or `length`, on the last delta."""
    stop_text: str | None = None
    """The stop string that ended the choice, on the last delta."""
    logprobs: Sequence[PositionLogprobs] = ()


@dataclass(slots=True, kw_only=True)
class FinishedChoice:
    """The complete result of one choice. Mutable: it grows delta by delta."""

    index: int
    texts: list[str] = field(default_factory=list[str])
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[PositionLogprobs] = field(default_factory=list[PositionLogprobs])
    finish_reason: str | None = None
    stop_text: str | None = None

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.texts)

    def add(self, delta: ChoiceDelta) -> None:
        """Append a delta."""
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        self.finish_reason = delta.finish_reason
        self.stop_text = delta.stop_text


class Choice:
    """The state of one choice, which ends with a stop token, a stop string or by the engine's decision. Mutable."""

    def __init__(self, index: int, text: TextStream, stop_token_ids: frozenset[int], min_tokens: int = 0) -> None:
        """
        Args:
            index: the index of the choice.
            text: a fresh text stream.
            stop_token_ids: tokens that end the choice.
            min_tokens: leading tokens in whose text stop strings are ignored, >= 0.
        """
        self.index = index
        self.num_tokens = 0
        """Output tokens so far, including the one that stopped it."""
        self.num_cached_tokens = 0
        """Prompt tokens from the prefix index; known once the engine has ended the request."""
        self.finish_reason: str | None = None
        self._text = text
        self._stop_token_ids = stop_token_ids
        self._min_tokens = min_tokens
        self._num_shown_chars = 0
        self._fresh: list[str] = []
        self._fresh_ids: list[int] = []
        self._held_logprobs: deque[PositionLogprobs] = deque()
        self._has_news = False

    def add_token(self, output: TokenProduced) -> None:
        """Take the next token. Tokens after the end are ignored."""
        if self.finish_reason is not None:
            return
        self.num_tokens += 1
        self._fresh_ids.append(output.token_id)
        self._has_news = True
        if output.token_id in self._stop_token_ids:
            return
        if output.logprobs is not None:
            self._held_logprobs.append(
                PositionLogprobs(
                    token_id=output.token_id, text_offset=self._text.num_decoded_chars, logprobs=output.logprobs
                )
            )
        self._fresh.append(self._text.push(output.token_id, may_stop=self.num_tokens > self._min_tokens))
        if self._text.stopped:
            self.finish_reason = "stop"

    def end(self, output: RequestFinished) -> None:
        """Take the end of the request."""
        self.num_cached_tokens = output.num_cached_tokens
        if self.finish_reason is not None:
            return
        self._has_news = True
        self._fresh.append(self._text.flush())
        self.finish_reason = "stop" if self._text.stopped else output.reason

    def take_delta(self) -> ChoiceDelta | None:
        """What is new since the last call; None if nothing is."""
        if not self._has_news:
            return None
        text = "".join(self._fresh)
        self._fresh.clear()
        token_ids, self._fresh_ids = self._fresh_ids, []
        self._has_news = False
        self._num_shown_chars += len(text)
        logprobs = self._release_logprobs() if self._held_logprobs else ()
        return ChoiceDelta(
            index=self.index,
            text=text,
            token_ids=token_ids,
            finish_reason=self.finish_reason,
            stop_text=self._text.stop_text,
            logprobs=logprobs,
        )

    def _release_logprobs(self) -> list[PositionLogprobs]:
        """Log-probabilities of tokens whose text is visible by now; at the end also of the rest, except tokens whose
        text belongs to a stop string."""
        held = self._held_logprobs
        released: list[PositionLogprobs] = []
        release_all = self.finish_reason is not None and not self._text.stopped
        while held and (release_all or held[0].text_offset < self._num_shown_chars):
            released.append(held.popleft())
        return released
