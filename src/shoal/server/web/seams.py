"""What the page needs from the planner of the models, as an interface that tests can fake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from shoal.planner.what_if import Change


class PlanBook(Protocol):
    """The plans of a server's models, with the figures that they were made from."""

    def choice(self, model: str) -> Mapping[str, Any] | None:
        """The plan's alternatives and predictions, in the form of `shoal plan --json`; None: the plan was given."""
        ...

    def machines(self, model: str) -> tuple[str, ...]:
        """Names of machines that `what_if` can add or remove; empty: it cannot answer for this model."""
        ...

    def what_if(self, model: str, change: Change) -> Mapping[str, Any]:
        """The planner's choice for other machines, in the same form. Blocks for seconds; never call it in the event
        loop.

        Raises:
            ConfigError: the question makes no sense for this model.
            CapacityError: the model would not fit.
            DeadlineExceeded: the search took too long.
        """
        ...
