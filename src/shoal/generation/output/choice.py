"""One sequence of an API call: its tokens turned into visible text, log-probabilities and a reason to end."""

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
    """where its text begins in the choice's text, in characters"""
    logprobs: TokenLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceDelta:
    """What one turn of the engine added to one choice."""

    index: int
    text: str
    token_ids: Sequence[int] = ()
    """output tokens, those included whose text is held back or hidden"""
    finish_reason: str | None = None
    """stop | length, on the last delta"""
    stop_text: str | None = None
    """the stop string that ended it, on the last delta"""
    logprobs: Sequence[PositionLogprobs] = ()


@dataclass(slots=True, kw_only=True)
class FinishedChoice:
    """Everything that one choice came to. Mutable: grows delta by delta."""

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
        """Append what a turn added."""
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        self.finish_reason = delta.finish_reason
        self.stop_text = delta.stop_text


class Choice:
    """Mutable state of one sequence. Ends with a stop token, a stop string or the engine's own decision."""

    def __init__(self, index: int, text: TextStream, stop_token_ids: frozenset[int], min_tokens: int = 0) -> None:
        """
        Args:
            index: of the choice.
            text: fresh.
            stop_token_ids: end the sequence.
            min_tokens: whose text holds no stop string, >= 0.
        """
        self.index = index
        self.num_tokens = 0
        """output tokens so far, the one that stopped it included"""
        self.num_cached_tokens = 0
        """prompt tokens taken from the prefix index; known once the engine has ended the request"""
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
        """Take the engine's last word about the request."""
        self.num_cached_tokens = output.num_cached_tokens
        if self.finish_reason is not None:
            return
        self._has_news = True
        self._fresh.append(self._text.flush())
        self.finish_reason = "stop" if self._text.stopped else output.reason

    def take_delta(self) -> ChoiceDelta | None:
        """What is new since the last call; None where nothing is."""
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
        """Those whose text has begun to show; at the end all the others too, unless a stop string swallowed them."""
        held = self._held_logprobs
        released: list[PositionLogprobs] = []
        release_all = self.finish_reason is not None and not self._text.stopped
        while held and (release_all or held[0].text_offset < self._num_shown_chars):
            released.append(held.popleft())
        return released
