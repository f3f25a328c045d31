"""Whether a split model agrees with the whole one, as a command shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shoal.cli.show.output import note, print_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What a comparison has found."""

    agrees: bool
    figures: dict[str, Any]
    """all of it as plain data, `agrees` included"""
    summary: str
    """in one line"""
    print_details: Callable[[], None] = lambda: None
    """what a person sees before the summary"""

    def report(self, *, as_json: bool) -> None:
        """Print one object on stdout, or lines for a person."""
        if as_json:
            print_json(self.figures)
        else:
            self.print_details()
            note(self.summary)
