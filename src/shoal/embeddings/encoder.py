"""What turns texts into vectors, or compares them, as the endpoints need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.arrays import F32
from shoal.errors import InvalidRequest

Text = str | Sequence[int]
"""characters, or the tokens of a text that its client has made"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Shapes: vectors [N, H] of N texts, or scores [N] of N pairs, each between 0 and 1."""

    values: F32
    num_tokens: int
    """of all texts, special ones included"""


class TextEncoder(Protocol):
    """A model that is served."""

    @property
    def compares(self) -> bool:
        """Whether it scores pairs of texts (`compare`); else it makes vectors (`embed`)."""
        ...

    async def embed(
        self, texts: Sequence[Text], *, kind: str = "", cuts: bool = False, timeout_s: float | None = None
    ) -> Encoded:
        """Compute a vector for each text.

        Args:
            texts: at least one.
            kind: what they are, such as `query`, for models that are told so; empty: nothing is said of that.
            cuts: leave out the ends of those that are too long.
            timeout_s: the most time that it may take.

        Raises:
            InvalidRequest: a text is too long, or none.
            QueueFull, DeadlineExceeded: not now.
            WorkerLost: the model's workers are gone.
        """
        ...

    async def compare(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str = "", timeout_s: float | None = None
    ) -> Encoded:
        """Score how well the second text of each pair answers the first; texts that are too long are cut.

        Args:
            pairs: at least one.
            instruction: what is looked for; empty: what the model looks for by itself.
            timeout_s: the most time that it may take.

        Raises:
            InvalidRequest: the model takes no instruction; others as `embed`.
        """
        ...

    def close(self) -> None:
        """Take no more calls."""
        ...


def no_instruction() -> InvalidRequest:
    """The error of a model that cannot be told what to look for."""
    return InvalidRequest("this model takes no instruction: leave it out", "instruction")
