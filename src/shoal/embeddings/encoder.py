"""The interface of encoders, which turn texts into vectors or compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.arrays import F32
from shoal.errors import InvalidRequest

Text = str | Sequence[int]
"""A text, as characters or as tokens made by the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The result of an encoder. Shapes: vectors [N, H] of N texts, or scores [N] of N pairs, each from 0 to 1."""

    values: F32
    num_tokens: int
    """Tokens of all texts, including special ones."""


class TextEncoder(Protocol):
    """A model that encodes or compares texts."""

    @property
    def compares(self) -> bool:
        """Whether it scores pairs of texts (`compare`); otherwise it makes vectors (`embed`)."""
        ...

    async def embed(
        self, texts: Sequence[Text], *, kind: str = "", cuts: bool = False, timeout_s: float | None = None
    ) -> Encoded:
        """Compute a vector for each text.

        Args:
            texts: at least one text.
            kind: the kind of the texts, such as `query`, for models that distinguish kinds; empty: none.
            cuts: whether to cut the ends of texts that are too long.
            timeout_s: the most time that it may take; None: no limit.

        Raises:
            InvalidRequest: a text is too long or empty.
            QueueFull, DeadlineExceeded: too many requests wait, or it was not finished in time.
            WorkerLost: the model's workers are lost.
        """
        ...

    async def compare(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str = "", timeout_s: float | None = None
    ) -> Encoded:
        """Score how well the second text of each pair answers the first; texts that are too long are cut.

        Args:
            pairs: at least one pair.
            instruction: describes what counts as an answer; empty: the model's own instruction.
            timeout_s: the most time that it may take; None: no limit.

        Raises:
            InvalidRequest: the model takes no instruction; other errors as in `embed`.
        """
        ...

    def close(self) -> None:
        """Accept no more calls."""
        ...


def no_instruction() -> InvalidRequest:
    """The error of a model that takes no instruction."""
    return InvalidRequest("this model takes no instruction: leave it out", "instruction")
