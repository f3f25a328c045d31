"""Interfaces of the engine and the tokenizer that the server needs, and that tests can fake."""

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
        """Requests that are running."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests that wait for admission."""
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
        """Prompt tokens found in the prefix index so far."""
        ...

    @property
    def num_preemptions(self) -> int:
        """Preemptions so far, because KV blocks ran out."""
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
        """Replicas whose workers are lost and will be restarted."""
        ...

    @property
    def num_losses(self) -> int:
        """Losses of workers so far."""
        ...

    @property
    def num_replays(self) -> int:
        """The number of times that a started request lost its workers so far."""
        ...

    @property
    def replayed_tokens(self) -> int:
        """Tokens that lost workers had computed and that had to be computed again so far."""
        ...

    @property
    def num_recoveries(self) -> int:
        """The number of times that a lost replica got workers again so far."""
        ...

    @property
    def recoveries_s(self) -> Sequence[float]:
        """Seconds for which a replica had no workers, in the latest recoveries in order."""
        ...


class GenerationEngine(Protocol):
    """The synchronous, single-threaded owner of all replicas. Only `wake` may be called from another thread."""

    def add(self, request: Request) -> None:
        """Add a request. Raises InvalidRequest or CapacityError without any change."""
        ...

    def cancel(self, request_id: RequestId) -> None:
        """Cancel a request; a RequestFinished follows. Does nothing for a request that has ended."""
        ...

    def turn(self, timeout_s: float) -> list[Output]:
        """Work until there are outputs, a wake-up or timeout_s. Raises WorkerLost if all replicas are given up."""
        ...

    def wake(self) -> None:
        """Make the current or the next turn return at once. Thread-safe."""
        ...

    def stats(self) -> GenerationStats:
        """The present counters."""
        ...

    @property
    def story(self) -> Story:
        """The story of the replicas."""
        ...

    def close(self) -> None:
        """Stop all replicas. Idempotent."""
        ...


class Timer(Protocol):
    """Measures one request."""

    def token(self) -> None:
        """Note an output token."""
        ...

    def finish(self, reason: str) -> None:
        """Note the end of the request; later calls do nothing."""
        ...


class RequestObserver(Protocol):
    """Gets the requests of each call, in the task of the call."""

    def begin(self, request_ids: Sequence[RequestId], /) -> None:
        """Note requests that are about to be submitted."""
        ...

    def forget(self, request_ids: Sequence[RequestId], /) -> None:
        """Forget requests that were not accepted."""
        ...


class Meter(Protocol):
    """Counts a data plane's calls, in its event loop."""

    last_token_s: float | None
    """The time of the latest token, on the data plane's clock; None before the first."""

    def timer(self, num_prompt_tokens: int, arrival_s: float, clock: Callable[[], float]) -> Timer:
        """Start measuring a request."""
        ...

    def count_refusal(self, reason: str) -> None:
        """Count a refused call."""
        ...


class StreamDetokenizer(Protocol):
    """Turns one sequence of token ids into text, piece by piece."""

    def push(self, token_id: int, /) -> str:
        """Take a token and return the text that it completes; empty while a character is incomplete."""
        ...

    def flush(self) -> str:
        """Return the rest of the text, with incomplete characters replaced."""
        ...


class Guide(TokenGuide, Protocol):
    """A guide that keeps one output within a constraint."""

    @property
    def failure(self) -> RequestError | None:
        """Why it could not follow the output, which then ends early; None while it can."""
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
        """The most characters of a token; a text of more than so many characters per token of context cannot fit."""
        ...

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids of a text. Thread-safe, and releases Python's lock."""
        ...

    @property
    def template_source(self) -> str:
        """The text of the chat template; empty: there is none."""
        ...

    def special_token_id(self, text: str, /) -> int | None:
        """The id of a special token by its text; None: there is none."""
        ...

    def added_token_id(self, text: str, /) -> int | None:
        """The id of an added token, special or not, by its text; None: there is none."""
        ...

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = ...,
        variables: Mapping[str, Any] | None = ...,
        /,
    ) -> str:
        """The prompt of a conversation, with special tokens as text. Thread-safe. Raises InvalidRequest."""
        ...

    def decode(self, ids: Sequence[int], /) -> str:
        """The text of tokens, without special ones. Thread-safe."""
        ...

    def token_bytes(self, token_id: int, /) -> bytes:
        """The bytes that a token adds to a text, in UTF-8; they may be part of a character."""
        ...

    def guide(self, constraint: Constraint, /) -> Guide:
        """Compile a constraint into a guide for one output. May take seconds; thread-safe. Raises InvalidRequest."""
        ...

    def detokenizer(self, context: Sequence[int] = ..., /, *, skip_special: bool = ...) -> StreamDetokenizer:
        """Make a detokenizer for a sequence that continues after `context`."""
        ...


class PlacedPictures(Protocol):
    """A prompt with rows for its pictures, which were read but not computed yet."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The tokens of all rows, including those of pictures."""
        ...


PlacedT = TypeVar("PlacedT", bound=PlacedPictures)


class PicturePrompts(Protocol[PlacedT]):
    """A model's processing of prompts with pictures."""

    def start(self) -> None:
        """Start working, in the running event loop."""
        ...

    async def close(self) -> None:
        """Stop its own workers."""
        ...

    async def place(self, prompt: str, sources: Sequence[PictureSource]) -> PlacedT:
        """Read pictures off the event loop and make a prompt with rows for them.

        Args:
            prompt: the prompt from the chat template, in which the places of pictures are marked.
            sources: the sources of the pictures, in order.

        Raises:
            InvalidRequest, ContextLengthExceeded: a picture cannot be read, or the prompt does not fit.
            QueueFull: too many requests wait to be read.
        """
        ...

    async def compute(self, placed: PlacedT, /) -> Pictures:
        """Compute the vectors of a prompt's pictures. Raises ShoalError."""
        ...
