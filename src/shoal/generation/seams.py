"""What the server needs from the engine and from the tokenizer, as interfaces that tests can fake."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from shoal.core.recovery.replica_status import ReplicaStats
from shoal.core.sequences.pictures import Pictures
from shoal.core.sequences.request import Output, Request, RequestId, TokenGuide
from shoal.core.story import Story
from shoal.errors import RequestError
from shoal.model.text.grammar.constraint import Constraint
from shoal.model.vision.pixels import PictureSource


class GenerationStats(ReplicaStats, Protocol):
    """A snapshot of the engine's counters and levels."""

    @property
    def num_running(self) -> int:
        """Requests that a replica works on."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests admitted by nobody yet."""
        ...

    @property
    def kv_usage(self) -> float:
        """Share of the KV blocks in use, 0 to 1."""
        ...

    @property
    def prefix_query_tokens(self) -> int:
        """Prompt tokens looked up in the prefix index so far."""
        ...

    @property
    def prefix_hit_tokens(self) -> int:
        """Prompt tokens found there so far."""
        ...

    @property
    def num_preemptions(self) -> int:
        """Requests put back so far because KV blocks ran out."""
        ...

    @property
    def max_context(self) -> int:
        """Longest sequence, prompt and output together, in tokens."""
        ...

    @property
    def max_running(self) -> int:
        """Requests that can run at once."""
        ...

    @property
    def num_replicas(self) -> int:
        """Replicas that have their workers."""
        ...

    @property
    def num_recovering(self) -> int:
        """Replicas that have lost workers and are to have them again."""
        ...

    @property
    def num_losses(self) -> int:
        """Times that a replica's workers were lost, so far."""
        ...

    @property
    def num_replays(self) -> int:
        """Times that a request which had begun was taken from lost workers, so far."""
        ...

    @property
    def replayed_tokens(self) -> int:
        """Tokens that lost workers had computed and others must compute again, so far."""
        ...

    @property
    def num_recoveries(self) -> int:
        """Times that a lost replica had workers again, so far."""
        ...

    @property
    def recoveries_s(self) -> Sequence[float]:
        """For how long a replica had no workers, the latest recoveries in order."""
        ...


class GenerationEngine(Protocol):
    """The synchronous, single-threaded owner of all replicas. Only `wake` may be called from another thread."""

    def add(self, request: Request) -> None:
        """Take a request. Raises InvalidRequest or CapacityError, and has then changed nothing."""
        ...

    def cancel(self, request_id: RequestId) -> None:
        """Give a request up; a RequestFinished follows. Does nothing for a request that has ended."""
        ...

    def turn(self, timeout_s: float) -> list[Output]:
        """Work until there is something to report, a wake or timeout_s. Raises WorkerLost if nothing can go on."""
        ...

    def wake(self) -> None:
        """Make the waiting turn, or else the next one, return at once. Thread-safe."""
        ...

    def stats(self) -> GenerationStats:
        """The counters now."""
        ...

    @property
    def story(self) -> Story:
        """What has happened to the replicas lately."""
        ...

    def close(self) -> None:
        """Stop all replicas. Idempotent."""
        ...


class Timer(Protocol):
    """Measures one request."""

    def token(self) -> None:
        """One more output token has come, now."""
        ...

    def finish(self, reason: str) -> None:
        """The request has ended; later calls do nothing."""
        ...


class RequestObserver(Protocol):
    """Is told which requests a call makes, in the task of the call."""

    def begin(self, request_ids: Sequence[RequestId], /) -> None:
        """Requests are about to be submitted."""
        ...

    def forget(self, request_ids: Sequence[RequestId], /) -> None:
        """They were not taken."""
        ...


class Meter(Protocol):
    """What is counted of a data plane's calls, in its event loop."""

    last_token_s: float | None
    """when the last token came, on the data plane's clock; None before the first"""

    def timer(self, num_prompt_tokens: int, arrival_s: float, clock: Callable[[], float]) -> Timer:
        """Start to measure one request."""
        ...

    def count_refusal(self, reason: str) -> None:
        """Count a call that was not taken."""
        ...


class StreamDetokenizer(Protocol):
    """Turns one sequence of token ids into text, piece by piece."""

    def push(self, token_id: int, /) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        ...

    def flush(self) -> str:
        """What is left at the end, unfinished characters replaced."""
        ...


class Guide(TokenGuide, Protocol):
    """Keeps one output within a constraint."""

    @property
    def failure(self) -> RequestError | None:
        """Why it could not follow the output any longer, which then ends early; None while it can."""
        ...


class PromptTokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ...

    @property
    def vocab_size(self) -> int:
        """Token ids are 0 <= id < vocab_size."""
        ...

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat_prompt` works."""
        ...

    @property
    def max_token_chars(self) -> int:
        """Characters that become one token at most: a text of more than so many times the context cannot fit."""
        ...

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids of a text. Must be callable from several threads at once, and let others go on meanwhile."""
        ...

    @property
    def template_source(self) -> str:
        """The chat template's text; empty: there is none."""
        ...

    def special_token_id(self, text: str, /) -> int | None:
        """The id of a text that is a special token as a whole; None: it is none."""
        ...

    def added_token_id(self, text: str, /) -> int | None:
        """The id of a text that is a token beside the vocabulary, special or not; None: it is none."""
        ...

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = ...,
        variables: Mapping[str, Any] | None = ...,
        /,
    ) -> str:
        """The prompt of a conversation, special tokens written out. Thread-safe. Raises InvalidRequest."""
        ...

    def decode(self, ids: Sequence[int], /) -> str:
        """The text of some tokens, special ones left out. Thread-safe."""
        ...

    def token_bytes(self, token_id: int, /) -> bytes:
        """What one token adds to a text, in UTF-8; it may be a part of a character."""
        ...

    def guide(self, constraint: Constraint, /) -> Guide:
        """What keeps one output within a constraint. May take seconds; thread-safe. Raises InvalidRequest."""
        ...

    def detokenizer(self, context: Sequence[int] = ..., /, *, skip_special: bool = ...) -> StreamDetokenizer:
        """A fresh one for a sequence that goes on after `context`."""
        ...


class PlacedPictures(Protocol):
    """A prompt with room for its pictures, which are cut and not computed yet."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """All of its rows."""
        ...


PlacedT = TypeVar("PlacedT", bound=PlacedPictures)


class PicturePrompts(Protocol[PlacedT]):
    """What a model makes of prompts with pictures."""

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        ...

    async def close(self) -> None:
        """Stop all workers of its own."""
        ...

    async def place(self, prompt: str, sources: Sequence[PictureSource]) -> PlacedT:
        """A prompt's tokens with room for its pictures, read off the event loop.

        Args:
            prompt: of the chat template, which has marked where each picture is.
            sources: of the pictures, in order.

        Raises:
            InvalidRequest, ContextLengthExceeded: a picture cannot be read, or all do not fit.
            QueueFull: too many wait to be read.
        """
        ...

    async def compute(self, placed: PlacedT, /) -> Pictures:
        """The vectors of its pictures. Raises ShoalError."""
        ...
